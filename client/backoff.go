package client

import (
	"context"
	"time"
)

// A backoff says how long to wait before trying again: each time twice as long as
// before, and up to a fifth more or less by chance (gRFC A6).
type backoff struct {
	first, max time.Duration
}

// connectAttempts is how many streams are tried before the pod counts as
// unreachable, if it never accepted the job.
const connectAttempts = 5

// pause is the one after n failures, n from 1. jitter is from 0 to 1.
func (b backoff) pause(n int, jitter float64) time.Duration {
	d := b.first
	for i := 1; i < n && d < b.max; i++ {
		d *= 2
	}
	return time.Duration(float64(min(d, b.max)) * (0.8 + 0.4*jitter))
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
