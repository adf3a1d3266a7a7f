package load

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// A callerFunc is a caller that takes fake time.
type callerFunc func(ctx context.Context) error

func (f callerFunc) call(ctx context.Context, _ *measure.Call) error { return f(ctx) }

func sleep(ctx context.Context, d time.Duration) error { return sleepUntil(ctx, time.Now().Add(d)) }

// simulate runs a load of fake calls in fake time.
func simulate(ctx context.Context, r *runner, workers int, call callerFunc) *measure.Run {
	r.recorder = measure.NewRecorder(workers)
	r.plan.cfg.Drain = 10 * time.Second
	r.rest = func(at time.Time) { time.Sleep(time.Until(at)) }
	took := r.run(ctx, &ways{n: workers, make: func(int, *measure.Shard) caller { return call }})
	run := &measure.Run{Seconds: took.Seconds()}
	r.recorder.Fill(run)
	if r.pacer != nil {
		run.Unsent = max(0, r.pacer.Count(r.stopped)-r.started.Load())
	}
	return run
}

// stalling takes 1 ms a call, but nothing goes on for a second after 3 s.
func stalling(begin time.Time) callerFunc {
	return func(ctx context.Context) error {
		if since := time.Since(begin); since >= 3*time.Second && since < 4*time.Second {
			return sleep(ctx, 4*time.Second-since)
		}
		return sleep(ctx, time.Millisecond)
	}
}

// A stall of a second hits 1 call of each stream, but all calls that should have
// begun meanwhile waited for it.
func TestOpenLoopSeesAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{plan: &plan{}, pacer: &Pacer{Rate: 500}, until: 10 * time.Second}
		run := simulate(t.Context(), r, 2, stalling(time.Now()))
		if run.Calls != 5000 || run.Unsent != 0 || run.Latency.Count() != 5000 || run.Raw.Count() != 5000 {
			t.Errorf("%d calls, %d never begun", run.Calls, run.Unsent)
		}
		if got := run.Latency.Percentile(99.9); got < 900*time.Millisecond {
			t.Errorf("p99.9 is %v, want about 1s", got)
		}
		if got := run.Raw.Percentile(99.9); got > 10*time.Millisecond {
			t.Errorf("the raw p99.9 is %v, want about 1ms", got)
		}
		// 500 come during the stall. Two streams of 1 ms a call make 2000 a second, so
		// that catching up takes a third of a second more, with some 166 more.
		if run.Deferred < 490 || run.Deferred > 700 {
			t.Errorf("%d were deferred, want 500 to 700", run.Deferred)
		}
	})
}

func TestClosedLoopCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{plan: &plan{}, until: 10 * time.Second}
		run := simulate(t.Context(), r, 2, stalling(time.Now()))
		if run.Calls < 17990 || run.Calls > 18010 || run.Deferred != 0 || run.Raw != nil {
			t.Errorf("%d calls, %d deferred, raw %v, want 2 × 9000", run.Calls, run.Deferred, run.Raw)
		}
		if got := run.Latency.Percentile(99.9); got > 10*time.Millisecond {
			t.Errorf("p99.9 is %v: a closed loop can't see the stall", got)
		}
		if got := run.Latency.Max(); got < 990*time.Millisecond {
			t.Errorf("the longest took %v", got)
		}
	})
}

func TestNumberOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pacer := range []*Pacer{nil, {Rate: 100}} {
			r := &runner{plan: &plan{}, limit: 37, pacer: pacer}
			calls := 0
			run := simulate(t.Context(), r, 1, func(ctx context.Context) error {
				if calls++; calls%5 == 0 {
					return errors.New("broken")
				}
				return sleep(ctx, time.Millisecond)
			})
			if run.Calls != 30 || run.Failed() != 7 || run.Errors["unknown"] != 7 || run.Details["unknown"] != "broken" {
				t.Errorf("%d calls, errors %v %v, want 30 and 7", run.Calls, run.Errors, run.Details)
			}
		}
	})
}

// More than the streams can do is never begun, and the load ends nevertheless.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{plan: &plan{}, pacer: &Pacer{Rate: 100}, until: 10 * time.Second}
		run := simulate(t.Context(), r, 1, func(ctx context.Context) error { return sleep(ctx, 20*time.Millisecond) })
		if run.Calls < 499 || run.Calls > 501 || run.Calls+run.Unsent != 1000 || run.Deferred < 495 {
			t.Errorf("%d calls, %d never begun, %d deferred, want 500 of each", run.Calls, run.Unsent, run.Deferred)
		}
	})
}

// The end of ctx ends calls, which are then no errors.
func TestInterruptedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		r := &runner{plan: &plan{}, until: time.Hour}
		run := simulate(ctx, r, 3, func(ctx context.Context) error { return sleep(ctx, time.Second) })
		if run.Calls != 3 || run.Failed() != 0 || run.Canceled != 3 || run.Seconds < 1.5 || run.Seconds > 1.6 {
			t.Errorf("%+v", run)
		}
	})
}

// A call that hangs at the end has some time, and is then ended.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{plan: &plan{}, until: time.Second}
		run := simulate(t.Context(), r, 1, func(ctx context.Context) error { return sleep(ctx, time.Hour) })
		if run.Canceled != 1 || run.Failed() != 0 || run.Seconds < 11 || run.Seconds > 11.1 {
			t.Errorf("%d ended after %v s, want 11", run.Canceled, run.Seconds)
		}
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{plan: &plan{cfg: Config{Timeout: 100 * time.Millisecond}}, limit: 2}
		run := simulate(t.Context(), r, 1, func(ctx context.Context) error { return sleep(ctx, time.Hour) })
		if run.Errors["deadline_exceeded"] != 2 {
			t.Errorf("errors %v", run.Errors)
		}
	})
}
