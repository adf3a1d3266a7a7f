package tabular

import (
	"slices"
	"strings"

	"github.com/aipod/aipod/internal/worker"
)

// A scan learns what columns the training data has.
type scan struct {
	spec     tableSpec
	target   column
	features []column // all others, in the order of the CSV
	rows     int
	classes  map[string]uint16 // index by label; made by table
}

func newScan(r *csvReader, spec tableSpec) (*scan, error) {
	if spec.target == "" {
		return nil, worker.Invalidf("the kwarg \"target\" has to name the column to learn: %s", suggest("", r.header))
	}
	target := slices.Index(r.header, spec.target)
	if target < 0 {
		return nil, worker.Invalidf("line %d: there is no target column %s: %s", r.line, quote(spec.target), suggest(spec.target, r.header))
	}
	for _, name := range spec.categorical {
		if !slices.Contains(r.header, name) {
			return nil, worker.Invalidf("line %d: there is no column %s, which \"categorical\" names: %s",
				r.line, quote(name), suggest(name, r.header))
		}
	}
	if len(r.header) == 1 {
		hint := ""
		if strings.ContainsAny(r.header[0], ";\t|") {
			hint = ": is it separated by something other than commas?"
		}
		return nil, worker.Invalidf("line %d: there is only one column, so there is nothing to learn from%s", r.line, hint)
	}
	s := &scan{spec: spec}
	for i, name := range r.header {
		c := column{name: name, index: i, forced: slices.Contains(spec.categorical, name), levels: map[string]*level{}}
		if i == target {
			c.forced = true
			s.target = c
			continue
		}
		s.features = append(s.features, c)
	}
	return s, nil
}

func (s *scan) add(r *csvReader, row []string) error {
	if (s.rows+1)*len(s.features) > s.spec.maxValues {
		return worker.Invalidf("line %d: the training data has more than %d values (rows times feature columns): send fewer rows",
			r.line, s.spec.maxValues)
	}
	s.rows++
	if err := s.target.add(r, row[s.target.index]); err != nil {
		return err
	}
	if s.target.levels == nil {
		return s.target.checkLevels()
	}
	for i := range s.features {
		if err := s.features[i].add(r, row[s.features[i].index]); err != nil {
			return err
		}
	}
	return nil
}

// table decides on types and classes, and makes a table of the right size.
func (s *scan) table() (*table, error) {
	if s.rows < minRows {
		return nil, worker.Invalidf("%d rows are too few to learn from: send at least %d, with 2 of each class", s.rows, minRows)
	}
	t := &table{rows: s.rows, classes: s.target.sortedLevels()}
	if len(t.classes) < 2 {
		return nil, worker.Invalidf("column %d %s: all rows have the same value %s, so there is nothing to learn",
			s.target.index+1, quote(s.target.name), quote(t.classes[0]))
	}
	s.classes = make(map[string]uint16, len(t.classes))
	for i, label := range t.classes {
		if l := s.target.levels[label]; l.rows < 2 {
			return nil, worker.Invalidf("%s: the only row of the class %s: each class needs at least 2 rows", l.at, quote(label))
		}
		s.classes[label] = uint16(i)
	}

	var categories []feature
	width := 0
	for i := range s.features {
		col := &s.features[i]
		numeric, err := col.numeric()
		if err != nil {
			return nil, err
		}
		f := feature{Name: col.name}
		if numeric {
			f.Scale = 1
			t.features = append(t.features, f)
		} else {
			f.Levels = col.sortedLevels()
			categories = append(categories, f)
		}
		width += f.width()
		t.names = append(t.names, col.name)
	}
	if n := (width + 1) * len(t.classes); n > maxWeights {
		return nil, worker.Invalidf("%d features (each category counts) and %d classes need %d weights, and the limit is %d",
			width, len(t.classes), n, maxWeights)
	}
	t.numeric = len(t.features)
	t.features = append(t.features, categories...)
	t.numbers = make([]float64, t.rows*t.numeric)
	t.codes = make([]uint32, t.rows*len(categories))
	t.labels = make([]uint16, t.rows)
	return t, nil
}
