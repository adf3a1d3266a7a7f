package tabular

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/aipod/aipod/internal/worker"
)

// maxInline is how many probabilities (rows times classes) are a call's result;
// when there are more, the same JSON is its output, so that memory is flat.
const maxInline = 100_000

// A prediction is the classes of the rows of a CSV, in their order.
type prediction struct {
	Version       string      `json:"version"`
	Target        string      `json:"target"`
	Classes       []string    `json:"classes"`
	Labels        []string    `json:"labels"`        // the likeliest class of each row
	Probabilities [][]float64 `json:"probabilities"` // by row, then in the order of Classes; a row sums to 1
	Rows          int         `json:"rows"`
	// Accuracy is the part of the rows whose class is known that have it
	// predicted; absent when the CSV has no target column or no value in it.
	Accuracy *float64 `json:"accuracy,omitempty"`
}

func (i instance) predict(ctx context.Context, c *worker.Call) (any, error) {
	var kwargs struct {
		Version word `json:"version"`
	}
	if err := decodeKwargs(c, &kwargs); err != nil {
		return nil, err
	}
	v, err := i.model.version(cmp.Or(i.named(kwargs.Version, c), DefaultVersion))
	if err != nil {
		return nil, err
	}
	p := &prediction{
		Version: v.Name, Target: v.Target, Classes: v.Classes,
		Labels: []string{}, Probabilities: [][]float64{},
	}
	var out *predictionWriter // once there is too much for a result
	known, right := 0, 0
	err = eachPrediction(ctx, c, v, "predicting", func(class string, probabilities []float64) error {
		label := v.Classes[best(probabilities)]
		p.Rows++
		if !missing(class) {
			known++
			if class == label {
				right++
			}
		}
		if out == nil && p.Rows*len(v.Classes) > i.model.maxInline {
			var err error
			if out, err = newPredictionWriter(c, p); err != nil {
				return err
			}
			p.Labels, p.Probabilities = nil, nil
		}
		if out != nil {
			return out.element(label)
		}
		p.Labels = append(p.Labels, label)
		p.Probabilities = append(p.Probabilities, slices.Clone(probabilities))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if known > 0 {
		accuracy := float64(right) / float64(known)
		p.Accuracy = &accuracy
	}
	if out == nil {
		return p, nil
	}
	// The rows are predicted once more for the second array: reading them twice
	// is what keeping nothing costs.
	if err := out.array("probabilities"); err != nil {
		return nil, err
	}
	err = eachPrediction(ctx, c, v, "writing", func(_ string, probabilities []float64) error {
		return out.element(probabilities)
	})
	if err != nil {
		return nil, err
	}
	return nil, out.end(p.Rows, p.Accuracy)
}

// eachPrediction predicts each row of the payload. The target's value is empty
// when unknown; the probabilities are valid until row returns.
func eachPrediction(ctx context.Context, c *worker.Call, v *version, note string,
	row func(target string, probabilities []float64) error,
) error {
	var enc *encoder
	var numbers []float64
	var codes []uint32
	model := v.linear()
	probabilities := make([]float64, model.classes)
	target := -1
	return eachRow(ctx, c, note, func(r *csvReader) (err error) {
		enc, err = newEncoder(v.Inputs, r)
		if err != nil {
			return err
		}
		numbers, codes = make([]float64, enc.numeric), make([]uint32, len(v.Inputs)-enc.numeric)
		target = slices.Index(r.header, v.Target)
		return nil
	}, func(r *csvReader, cells []string) error {
		if err := enc.encode(r, cells, numbers, codes); err != nil {
			return err
		}
		for j := range numbers {
			numbers[j] = v.Inputs[j].standardise(numbers[j])
		}
		model.score(probabilities, numbers, codes)
		softmax(probabilities)
		known := ""
		if target >= 0 {
			known = cells[target]
		}
		return row(known, probabilities)
	})
}

// A predictionWriter writes the JSON of a prediction piece by piece.
type predictionWriter struct {
	w     *bufio.Writer
	first bool // no element of the array is written yet
}

// newPredictionWriter writes what p has of its labels.
func newPredictionWriter(c *worker.Call, p *prediction) (*predictionWriter, error) {
	w, err := c.OpenOutput()
	if err != nil {
		return nil, err
	}
	o := &predictionWriter{w: bufio.NewWriterSize(w, 64<<10)}
	err = errors.Join(
		o.raw(`{"version":`), o.value(p.Version),
		o.raw(`,"target":`), o.value(p.Target),
		o.raw(`,"classes":`), o.value(p.Classes),
		o.raw(`,"labels":[`),
	)
	if err != nil {
		return nil, err
	}
	o.first = true
	for _, l := range p.Labels {
		if err := o.element(l); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// array ends the array and starts another.
func (o *predictionWriter) array(name string) error {
	o.first = true
	return errors.Join(o.raw(`],"`), o.raw(name), o.raw(`":[`))
}

func (o *predictionWriter) element(v any) error {
	if !o.first {
		if err := o.raw(","); err != nil {
			return err
		}
	}
	o.first = false
	return o.value(v)
}

func (o *predictionWriter) end(rows int, accuracy *float64) error {
	err := errors.Join(o.raw(`],"rows":`), o.value(rows))
	if accuracy != nil {
		err = errors.Join(err, o.raw(`,"accuracy":`), o.value(*accuracy))
	}
	return errors.Join(err, o.raw("}"), o.w.Flush())
}

func (o *predictionWriter) raw(s string) error {
	_, err := o.w.WriteString(s)
	return err
}

func (o *predictionWriter) value(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = o.w.Write(data)
	return err
}
