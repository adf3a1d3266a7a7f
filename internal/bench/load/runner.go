package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// Progress is how a load goes: what has become of it since the last.
type Progress struct {
	measure.Point
	Warmup bool
	Opened int64 // calls that were answered, of Idle
}

// timerSlack is how late Go's timers are, at most: epoll counts in ms.
const timerSlack = 1200 * time.Microsecond

// openRate is how many idle calls are begun each second.
const openRate = 2000

// A runner is one phase of a load.
type runner struct {
	plan     *plan
	recorder *measure.Recorder
	pacer    *Pacer // nil is a closed loop
	until    time.Duration
	limit    int64 // calls; 0 is no limit
	warmup   bool
	// rest waits for a moment that is near: sleepRest, or a test's.
	rest func(time.Time)

	begun time.Time
	// counting is when all idle calls waited; until then begun.
	counting time.Time
	stopped  time.Duration // when no more calls were begun
	next     atomic.Int64  // number of the next call
	started  atomic.Int64
}

// run makes the load and waits until all calls have ended. It returns how long
// that took.
func (r *runner) run(ctx context.Context, w *ways) time.Duration {
	cfg := &r.plan.cfg
	calls, cancelCalls := context.WithCancel(ctx)
	defer cancelCalls()
	begin, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	done := make(chan struct{})
	begun := time.Now()
	r.begun, r.counting = begun, begun
	for i := range w.n {
		shard := r.recorder.Shard(i)
		worker := way{w.make(i, shard), shard}
		wg.Go(func() {
			if cfg.Scenario == Idle && sleepUntil(begin, begun.Add(time.Duration(i)*time.Second/openRate)) != nil {
				return
			}
			r.work(begin, calls, worker)
		})
	}
	go func() { wg.Wait(); close(done) }()
	r.watch(done, stop, cancelCalls)
	return time.Since(r.counting)
}

// watch samples each second, and ends the load when its time is up.
func (r *runner) watch(done <-chan struct{}, stop, cancelCalls context.CancelFunc) {
	cfg := &r.plan.cfg
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.NewTimer(r.until)
	defer end.Stop()
	drain := time.NewTimer(cfg.Drain)
	drain.Stop()
	if r.until == 0 {
		end.Stop()
	}
	opened := make(<-chan time.Time)
	if cfg.Scenario == Idle {
		// The time begins when all calls wait.
		end.Stop()
		poll := time.NewTicker(10 * time.Millisecond)
		defer poll.Stop()
		opened = poll.C
	}
	for {
		select {
		case <-done:
			at := time.Since(r.begun)
			if r.stopped == 0 {
				r.stopped = at
			}
			r.sample(at)
			return
		case <-tick.C:
			r.sample(time.Since(r.begun))
		case <-opened:
			if r.plan.counts() {
				opened = nil
				r.counting = time.Now()
				end.Reset(r.until)
			}
		case <-end.C:
			r.stopped = time.Since(r.begun)
			stop()
			if cfg.Scenario == Idle {
				cancelCalls()
			}
			drain.Reset(cfg.Drain)
		case <-drain.C:
			cancelCalls()
		}
	}
}

func (r *runner) sample(at time.Duration) {
	p := r.recorder.Sample(at)
	if r.plan.cfg.Progress != nil {
		r.plan.cfg.Progress(Progress{Point: p, Warmup: r.warmup, Opened: r.plan.opened.Load()})
	}
}

// work makes calls until there is nothing more to do. Without a schedule it begins
// the next when one has ended; with one it takes the next time of the schedule,
// and waits for it: whoever is free has one, so a call that begins late does so
// because nobody was free.
func (r *runner) work(begin, calls context.Context, w way) {
	for begin.Err() == nil && calls.Err() == nil {
		n := r.next.Add(1) - 1
		if r.limit > 0 && n >= r.limit {
			return
		}
		var c measure.Call
		if r.pacer != nil {
			at := r.pacer.At(n)
			if r.until > 0 && at >= r.until {
				return
			}
			c.Intended = r.begun.Add(at)
			if c.Deferred = time.Now().After(c.Intended); !c.Deferred {
				if sleepUntil(begin, c.Intended.Add(-timerSlack)) != nil {
					return
				}
				r.rest(c.Intended)
				w.shard.Lag(time.Since(c.Intended))
			}
		}
		r.started.Add(1)
		r.one(calls, w, &c)
	}
}

// one makes a call.
func (r *runner) one(ctx context.Context, w way, c *measure.Call) {
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	if limit := r.plan.cfg.Timeout; limit > 0 {
		var stop context.CancelFunc
		call, stop = context.WithTimeout(call, limit)
		defer stop()
	}
	w.shard.Begin()
	c.Start = time.Now()
	err := w.caller.call(call, c)
	c.End = time.Now()
	if c.FirstByte.IsZero() {
		r.plan.opened.Add(1)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		c.Code = measure.Canceled
	default:
		c.Code, c.Detail = codeOf(err), err.Error()
	}
	w.shard.End(c)
}

// sleepUntil waits for a time, or for ctx to end.
func sleepUntil(ctx context.Context, at time.Time) error {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
