package tabular

import (
	"slices"
	"strings"

	"github.com/aipod/aipod/internal/worker"
)

// A feature is a column that predictions are made from. A numeric one is one
// input of the classifier, its value v becoming (v − Mean) / Scale; one of
// categories is one input for each level, 1 for the row's and 0 for the others.
type feature struct {
	Name   string   `json:"name"`
	Mean   float64  `json:"mean,omitempty"`
	Scale  float64  `json:"scale,omitempty"`  // over 0; 1 for a constant column
	Levels []string `json:"levels,omitempty"` // of categories; nil when numeric
}

func (f *feature) width() int {
	if f.Levels == nil {
		return 1
	}
	return len(f.Levels)
}

// extreme bounds a standardised value, so that no value that a prediction is
// asked for makes infinite sums.
const extreme = 1e9

func (f *feature) standardise(v float64) float64 {
	return min(max((v-f.Mean)/f.Scale, -extreme), extreme)
}

// An encoder makes the inputs of the classifier from the rows of one CSV.
type encoder struct {
	features []feature
	columns  []int // of the CSV, by feature
	numeric  int   // how many of the features are; these come first
	levels   []map[string]uint32
}

// newEncoder finds the features in the header, in any order and among others.
func newEncoder(features []feature, r *csvReader) (*encoder, error) {
	e := &encoder{features: features}
	var lost []string
	next := uint32(0)
	for i := range features {
		f := &features[i]
		e.columns = append(e.columns, slices.Index(r.header, f.Name))
		if e.columns[i] < 0 {
			lost = append(lost, quote(f.Name))
		}
		if f.Levels == nil {
			e.numeric++
			next++
			continue
		}
		levels := make(map[string]uint32, len(f.Levels))
		for _, l := range f.Levels {
			levels[l] = next
			next++
		}
		e.levels = append(e.levels, levels)
	}
	if n := len(lost); n > 0 {
		const show = 20
		if n > show {
			lost = append(lost[:show], "…")
		}
		return nil, worker.Invalidf("line %d: %d of the %d feature columns are missing: %s",
			r.line, n, len(features), strings.Join(lost, ", "))
	}
	return e, nil
}

// encode puts a row's numbers, as they are, and the inputs that its categories
// switch on into slices of the right length.
func (e *encoder) encode(r *csvReader, row []string, numbers []float64, codes []uint32) error {
	for i, col := range e.columns {
		value := row[col]
		if missing(value) {
			return worker.Invalidf("%s: the value is missing: fill it in or leave the row out", r.at(col))
		}
		if i >= e.numeric {
			code, ok := e.levels[i-e.numeric][value]
			if !ok {
				return worker.Invalidf("%s: %s is not one of the categories that were trained: %s",
					r.at(col), quote(value), shortList(e.features[i].Levels))
			}
			codes[i-e.numeric] = code
			continue
		}
		v, kind := parseNumber(value)
		switch kind {
		case infinite:
			return worker.Invalidf("%s: %s is not a finite number", r.at(col), quote(value))
		case text:
			return worker.Invalidf("%s: %s is not a number", r.at(col), quote(value))
		}
		numbers[i] = v
	}
	return nil
}

func shortList(levels []string) string {
	const show = 10
	var b strings.Builder
	for i, l := range levels {
		if i == show {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(l))
	}
	return b.String()
}
