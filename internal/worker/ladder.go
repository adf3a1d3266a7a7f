package worker

import (
	"fmt"
	"log/slog"
	"syscall"
	"time"
)

// ladder is what a process gets whose canceled call doesn't end, a CancelGrace
// after the notification and after each other. The last goes to its whole group.
var ladder = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}

// cancel tells the worker that nobody wants the call's result.
func (p *process) cancel(r *runningCall) {
	p.mu.Lock()
	again := !r.canceled.IsZero()
	if !again {
		r.canceled = time.Now()
	}
	p.mu.Unlock()
	if again {
		return
	}
	// It may block on a worker that doesn't read; the ladder doesn't wait for it.
	go func() {
		if err := p.conn.notify("cancel", cancelParams{r.JobID}); err != nil {
			p.log.Debug("worker not told of a cancellation", "err", err)
		}
	}()
}

// supervise is called often: it takes the next step against canceled calls that
// don't end, and looks for calls that show no life.
func (p *process) supervise() {
	p.mu.Lock()
	now := time.Now()
	overdue, others := false, 0
	var stalled []*runningCall
	for _, r := range p.calls {
		switch {
		case r.canceled.IsZero():
			others++
			if p.cfg.StallTimeout > 0 && now.Sub(r.alive) > p.cfg.StallTimeout && !r.warned {
				r.warned = true
				stalled = append(stalled, r)
			}
		case now.Sub(r.canceled) >= p.cfg.CancelGrace:
			overdue = true
		}
	}
	if overdue {
		p.stepLocked(now, others)
	}
	p.mu.Unlock()
	for _, r := range stalled {
		r.Log(slog.LevelWarn, fmt.Sprintf("no sign of life for %v", p.cfg.StallTimeout))
		if p.cfg.StallKill {
			p.kill(fmt.Sprintf("it showed no life for %v", p.cfg.StallTimeout))
		}
	}
}

// stepLocked signals the process, unless calls run in it that are to go on. p.mu
// is held, so that no call ends or begins meanwhile.
func (p *process) stepLocked(now time.Time, others int) {
	if p.cfg.Slots > 1 {
		p.retireLocked(nil)
	}
	if others > 0 || p.signaled > 0 && now.Sub(p.stepped) < p.cfg.CancelGrace {
		return
	}
	s := ladder[min(p.signaled, len(ladder)-1)]
	p.signaled++
	p.stepped = now
	if s != syscall.SIGINT { // which it may survive
		p.retireLocked(nil)
	}
	p.log.Warn("canceled call goes on, worker signaled", "signal", s.String())
	p.child.signal(s)
}
