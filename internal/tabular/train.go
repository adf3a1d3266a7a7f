package tabular

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/aipod/aipod/internal/worker"
)

// trainKwargs are what train can be told. The default of l2 is a weak penalty:
// on the iris data, held-out accuracy is the same within noise from 0.03 to 0.3
// (0.97 in the mean over seeds 1 to 100) and lower at scikit-learn's 1 (0.96).
type trainKwargs struct {
	Target        word     `json:"target"`         // the column to learn
	Version       word     `json:"version"`        // to make, default "default"
	TestFraction  *float64 `json:"test_fraction"`  // of rows held out, 0 to 0.9, default 0.2
	Seed          *int64   `json:"seed"`           // of the split, default 1
	L2            *float64 `json:"l2"`             // strength of the penalty, see objective; 0 to 1e6, default 0.1
	MaxIterations *int     `json:"max_iterations"` // 1 to 10000, default 1000
	Categorical   []string `json:"categorical"`    // columns of categories even if all values are numbers
}

// A trainResult tells what was learned, and how well.
type trainResult struct {
	Version       string   `json:"version"`
	Target        string   `json:"target"`
	Classes       []string `json:"classes"`  // ascending
	Features      []string `json:"features"` // columns, in the order of the CSV
	Rows          int      `json:"rows"`
	TrainRows     int      `json:"train_rows"`
	TestRows      int      `json:"test_rows"`
	Accuracy      *float64 `json:"accuracy"` // over the rows held out, 0 to 1; null when there are none
	TrainAccuracy float64  `json:"train_accuracy"`
	Loss          float64  `json:"loss"` // the objective's: nats a row, with the penalty
	Iterations    int      `json:"iterations"`
	Converged     bool     `json:"converged"` // false when max_iterations ended it
}

func (k *trainKwargs) decode(c *worker.Call) error {
	if err := decodeKwargs(c, k); err != nil {
		return err
	}
	fraction, seed, l2, iterations := 0.2, int64(1), 0.1, 1000
	setDefault(&k.TestFraction, &fraction)
	setDefault(&k.Seed, &seed)
	setDefault(&k.L2, &l2)
	setDefault(&k.MaxIterations, &iterations)
	switch {
	case *k.TestFraction < 0 || *k.TestFraction > 0.9:
		return worker.Invalidf("the kwarg \"test_fraction\" is %v: choose from 0 to 0.9", *k.TestFraction)
	case *k.L2 < 0 || *k.L2 > 1e6:
		return worker.Invalidf("the kwarg \"l2\" is %v: choose from 0 to 1e6", *k.L2)
	case *k.MaxIterations < 1 || *k.MaxIterations > 10_000:
		return worker.Invalidf("the kwarg \"max_iterations\" is %d: choose from 1 to 10000", *k.MaxIterations)
	}
	return nil
}

func setDefault[T any](field **T, value *T) {
	if *field == nil {
		*field = value
	}
}

// train reports progress in bytes while it reads, then in iterations.
func (i instance) train(ctx context.Context, c *worker.Call) (any, error) {
	var kwargs trainKwargs
	if err := kwargs.decode(c); err != nil {
		return nil, err
	}
	name := cmp.Or(string(kwargs.Version), c.Version, DefaultVersion)
	if err := checkName(name); err != nil {
		return nil, err
	}
	log := &trainLog{call: c}
	t, err := readTable(ctx, c, tableSpec{
		target: string(kwargs.Target), categorical: kwargs.Categorical, maxValues: i.model.maxValues,
	})
	if err != nil {
		return nil, err
	}
	train, test := split(t, *kwargs.TestFraction, uint64(*kwargs.Seed))
	log.addf("training version %s: %d rows, %d to train on and %d held out; %d features, %d classes",
		name, t.rows, len(train), len(test), len(t.features), len(t.classes))
	t.standardise(train)
	o := &objective{table: t, rows: train, l2: *kwargs.L2}
	found, err := fit(ctx, o, *kwargs.MaxIterations, func(iteration int, loss float64) {
		c.Progress(int64(iteration), int64(*kwargs.MaxIterations), "iterations", fmt.Sprintf("loss %.6g", loss))
		if sampled(iteration) {
			log.addf("iteration %d: loss %.6g", iteration, loss)
		}
	})
	if err != nil {
		return nil, err
	}
	c.Progress(int64(found.iterations), int64(found.iterations), "iterations", fmt.Sprintf("loss %.6g", found.loss))
	result := trainResult{
		Version: name, Target: string(kwargs.Target), Classes: t.classes, Features: t.names,
		Rows: t.rows, TrainRows: len(train), TestRows: len(test),
		TrainAccuracy: found.accuracy(t, train), Loss: found.loss, Iterations: found.iterations, Converged: found.converged,
	}
	end := "converged"
	if !found.converged {
		end = "stopped at max_iterations"
	}
	log.addf("%s after %d iterations: loss %.6g, accuracy %.4f on the training rows", end, found.iterations, found.loss, result.TrainAccuracy)
	if len(test) > 0 {
		held := found.accuracy(t, test)
		result.Accuracy = &held
		log.addf("accuracy %.4f on the rows held out", held)
	}
	v := &version{
		Name: name, Created: time.Now().UTC(), Target: result.Target, Classes: t.classes, Inputs: t.features,
		Weights: found.w, Result: result, Log: log.lines,
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := i.model.save(v); err != nil {
		return nil, err
	}
	return result, nil
}

// accuracy is the part of the rows whose class gets the highest score.
func (l linear) accuracy(t *table, rows []int32) float64 {
	scores := make([]float64, l.classes)
	right := 0
	for _, i := range rows {
		numbers, codes := t.row(int(i))
		l.score(scores, numbers, codes)
		if best(scores) == int(t.labels[i]) {
			right++
		}
	}
	return float64(right) / float64(len(rows))
}

// best is the index of the largest, the first of equal ones.
func best(scores []float64) int {
	top := 0
	for i, s := range scores {
		if s > scores[top] {
			top = i
		}
	}
	return top
}

// sampled chooses the iterations that are logged: all up to 10, then each 10th
// up to 100, then each 100th, at most 118 in all.
func sampled(iteration int) bool {
	return iteration <= 10 || iteration <= 100 && iteration%10 == 0 || iteration%100 == 0
}

// A trainLog keeps the lines of a training and passes them to the job's log.
type trainLog struct {
	call  *worker.Call
	lines []logLine
}

func (l *trainLog) addf(format string, args ...any) {
	line := logLine{Time: time.Now().UTC(), Line: fmt.Sprintf(format, args...)}
	l.lines = append(l.lines, line)
	l.call.Logf("%s", line.Line)
}
