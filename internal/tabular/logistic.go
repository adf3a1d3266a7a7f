package tabular

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/optimize"
)

// A linear is the linear part of a multinomial logistic regression: inputs to
// one score a class. The weight of input i and class k is w[i*classes+k]; the
// classes' biases follow those of the last input.
type linear struct {
	classes int
	w       []float64
}

// score puts the classes' scores of one row into dst.
func (l linear) score(dst, numbers []float64, codes []uint32) {
	k := l.classes
	copy(dst, l.w[len(l.w)-k:])
	for i, v := range numbers {
		for c, w := range l.w[i*k : i*k+k] {
			dst[c] += w * v
		}
	}
	for _, code := range codes {
		i := int(code)
		for c, w := range l.w[i*k : i*k+k] {
			dst[c] += w
		}
	}
}

// softmax turns scores into probabilities in place and returns the logarithm
// of the sum of the exponentials of the scores. Scores are taken relative to
// the largest, so that none overflows (Goodfellow, Bengio, Courville: Deep
// Learning, 2016, §4.1).
func softmax(scores []float64) float64 {
	top := slices.Max(scores)
	sum := 0.0
	for i, s := range scores {
		scores[i] = math.Exp(s - top)
		sum += scores[i]
	}
	for i := range scores {
		scores[i] /= sum
	}
	return top + math.Log(sum)
}

// An objective is what training minimises over the weights w: the mean over
// the rows of −ln p(class of the row), plus l2/(2·rows) times the sum of the
// squares of w without the biases. It is convex; its minimum is that of
// scikit-learn's LogisticRegression with C = 1/l2.
type objective struct {
	table *table
	rows  []int32
	l2    float64
	done  <-chan struct{} // once closed, values are cut short and worthless

	// The last evaluation, since the optimizer asks for value and gradient of
	// one point one after the other.
	at, grad []float64
	value    float64
}

// evaluate makes value and grad those of w.
func (o *objective) evaluate(w []float64) {
	if o.at != nil && floats.Equal(o.at, w) {
		return
	}
	o.at = append(o.at[:0], w...)
	o.grad = slices.Grow(o.grad[:0], len(w))[:len(w)]
	clear(o.grad)
	o.value = 0
	k := len(o.table.classes)
	model := linear{classes: k, w: w}
	p := make([]float64, k)
	bias := o.grad[len(w)-k:]
	for n, i := range o.rows {
		if n%4096 == 0 && o.stopped() {
			return
		}
		numbers, codes := o.table.row(int(i))
		label := o.table.labels[i]
		model.score(p, numbers, codes)
		own := p[label]
		o.value += softmax(p) - own
		p[label]-- // p is now the gradient by the scores
		for j, v := range numbers {
			g := o.grad[j*k : j*k+k]
			for c, d := range p {
				g[c] += d * v
			}
		}
		for _, code := range codes {
			floats.Add(o.grad[int(code)*k:int(code)*k+k], p)
		}
		floats.Add(bias, p)
	}
	n := float64(len(o.rows))
	o.value /= n
	floats.Scale(1/n, o.grad)
	weights := w[:len(w)-k]
	o.value += o.l2 / (2 * n) * floats.Dot(weights, weights)
	floats.AddScaled(o.grad[:len(weights)], o.l2/n, weights)
}

func (o *objective) stopped() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// fitted is how a fit ended.
type fitted struct {
	linear
	loss       float64 // the objective's
	iterations int
	converged  bool // false when the iterations ran out
}

// gradientTolerance ends a fit: it bounds the largest component of the
// objective's gradient.
const gradientTolerance = 1e-7

// fit minimises the objective from w = 0 by L-BFGS (Nocedal, Wright: Numerical
// Optimization, 2006, §7.2). Each iteration is reported to step, whose loss is
// the objective's. When ctx is done, the error is its cause.
func fit(ctx context.Context, o *objective, maxIterations int, step func(iteration int, loss float64)) (fitted, error) {
	k := len(o.table.classes)
	width := 1 // the biases
	for i := range o.table.features {
		width += o.table.features[i].width()
	}
	o.done = ctx.Done()
	problem := optimize.Problem{
		Func: func(w []float64) float64 {
			o.evaluate(w)
			return o.value
		},
		Grad: func(grad, w []float64) {
			o.evaluate(w)
			copy(grad, o.grad)
		},
		Status: func() (optimize.Status, error) {
			if ctx.Err() != nil {
				return optimize.Failure, context.Cause(ctx)
			}
			return optimize.NotTerminated, nil
		},
	}
	settings := &optimize.Settings{
		GradientThreshold: gradientTolerance,
		Converger:         &optimize.FunctionConverge{Relative: 1e-12, Iterations: 10},
		// The start counts as one.
		MajorIterations: maxIterations + 1,
		Recorder:        recorder{step},
	}
	res, err := optimize.Minimize(problem, make([]float64, width*k), settings, &optimize.LBFGS{Store: 10})
	switch {
	case ctx.Err() != nil:
		return fitted{}, context.Cause(ctx)
	case res == nil:
		return fitted{}, fmt.Errorf("fit: %w", err)
	case stalled(err):
		// No step makes it better in 64 bits: that is as good as it gets.
	case err != nil:
		return fitted{}, fmt.Errorf("fit: %w", err)
	}
	return fitted{
		linear:     linear{classes: k, w: res.X},
		loss:       res.F,
		iterations: max(res.MajorIterations-1, 0),
		converged:  res.Status != optimize.IterationLimit,
	}, nil
}

func stalled(err error) bool {
	return errors.Is(err, optimize.ErrLinesearcherFailure) || errors.Is(err, optimize.ErrNoProgress) ||
		errors.Is(err, optimize.ErrNonDescentDirection)
}

// A recorder hears of each iteration.
type recorder struct {
	step func(iteration int, loss float64)
}

func (recorder) Init() error { return nil }

func (r recorder) Record(loc *optimize.Location, op optimize.Operation, stats *optimize.Stats) error {
	if op == optimize.MajorIteration && stats.MajorIterations > 1 {
		r.step(stats.MajorIterations-1, loc.F)
	}
	return nil
}
