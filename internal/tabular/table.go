package tabular

import (
	"context"
	"errors"
	"io"

	"github.com/aipod/aipod/internal/worker"
)

const (
	// maxValues bounds rows times feature columns of the training data, which
	// is the one thing here that is kept in memory, at 8 bytes a value.
	maxValues = 50_000_000
	// maxWeights bounds features times classes: the optimizer keeps two dozen
	// vectors of that length.
	maxWeights = 250_000
	// minRows makes two classes of two rows possible.
	minRows = 4
)

// A table is training data in memory: a row's numeric features as they are and
// its categories as feature numbers, both in the order of the features.
type table struct {
	features []feature // numeric ones first, each kind in the order of the CSV
	names    []string  // of the features, in the order of the CSV
	classes  []string
	rows     int
	numeric  int       // how many of the features are
	numbers  []float64 // rows × numeric
	codes    []uint32  // rows × (features − numeric)
	labels   []uint16  // rows: index into classes
}

// row is what makes up row i; the slices belong to the table.
func (t *table) row(i int) (numbers []float64, codes []uint32) {
	categories := len(t.features) - t.numeric
	return t.numbers[i*t.numeric : (i+1)*t.numeric], t.codes[i*categories : (i+1)*categories]
}

// tableSpec says how to read training data.
type tableSpec struct {
	target      string
	categorical []string // columns of categories even if all values are numbers
	maxValues   int
}

// readTable reads the payload twice: to learn the types and sizes of its
// columns, and to fill the table.
func readTable(ctx context.Context, c *worker.Call, spec tableSpec) (*table, error) {
	var s *scan
	err := eachRow(ctx, c, "checking", func(r *csvReader) (err error) {
		s, err = newScan(r, spec)
		return err
	}, func(r *csvReader, row []string) error { return s.add(r, row) })
	if err != nil {
		return nil, err
	}
	t, err := s.table()
	if err != nil {
		return nil, err
	}
	i := 0
	var enc *encoder
	err = eachRow(ctx, c, "loading", func(r *csvReader) (err error) {
		enc, err = newEncoder(t.features, r)
		return err
	}, func(r *csvReader, row []string) error {
		if i == t.rows {
			return errors.New("read payload: it has changed")
		}
		numbers, codes := t.row(i)
		if err := enc.encode(r, row, numbers, codes); err != nil {
			return err
		}
		t.labels[i] = s.classes[row[s.target.index]]
		i++
		return nil
	})
	if err == nil && i != t.rows {
		err = errors.New("read payload: it has changed")
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// eachRow reads the payload as CSV: head sees the header, row each row.
func eachRow(ctx context.Context, c *worker.Call, note string, head func(*csvReader) error,
	row func(r *csvReader, row []string) error,
) error {
	m, err := openMeter(ctx, c, note)
	if err != nil {
		return err
	}
	defer m.src.Close()
	r, err := newCSVReader(m)
	if err != nil {
		return err
	}
	if err := head(r); err != nil {
		return err
	}
	rows := 0
	for {
		cells, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		rows++
		if err := row(r, cells); err != nil {
			return err
		}
	}
	if rows == 0 {
		return worker.Invalidf("line %d: the header is there, but no row follows it", r.line)
	}
	return nil
}
