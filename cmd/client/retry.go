package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// A retryPolicy says when a call of ai.AI is made again.
type retryPolicy struct {
	attempts   int           // in all, until the pod has answered
	first, max time.Duration // pauses: the first, and the longest
	factor     float64       // of each pause to the one before
	patience   time.Duration // for pauses in all, once a pod that keeps the job has answered
	steady     time.Duration // how long a stream has to last for both counts to begin again
	wait       func(ctx context.Context, d time.Duration) error
}

// seedRetry is the policy of the seed's client.
func seedRetry(wait func(context.Context, time.Duration) error) retryPolicy {
	return retryPolicy{attempts: 5, first: time.Second, max: 30 * time.Second, factor: 2, patience: 15 * time.Minute, steady: 10 * time.Second, wait: wait}
}

// next decides after the failed attempt number n, and pauses that were waited in
// all. A call that the pod has begun to answer is not made again: it might run
// twice. Before that, codes that can pass are tried again, and whatever the pod
// says a time for.
//
// A job that the pod keeps is different, once it has answered: the same call
// attaches to it, so whatever cuts the stream is tried again for long. What the
// pod says then is how the job ended, unless it is that the pod shuts down.
func (p retryPolicy) next(n int, waited time.Duration, kept bool, err error) (pause time.Duration, ok bool) {
	var failed *callError
	if !errors.As(err, &failed) || failed.local {
		return 0, false
	}
	if kept {
		if waited >= p.patience {
			return 0, false
		}
	} else if n >= p.attempts || failed.answered {
		return 0, false
	}
	if after, told := retryAfter(err); told {
		return min(max(after, 0), p.max), true
	}
	code := connect.CodeOf(failed.err)
	switch {
	case kept && !failed.wire, code == connect.CodeUnavailable:
	case !kept && (code == connect.CodeInternal || code == connect.CodeUnknown):
	default:
		return 0, false
	}
	return p.pause(n, rand.Float64()), true
}

// pause is the one after attempt n, up to a fifth shorter or longer by jitter,
// which is from 0 to 1: gRFC A6 has it so.
func (p retryPolicy) pause(n int, jitter float64) time.Duration {
	d := float64(p.first)
	for range n - 1 {
		d = min(d*p.factor, float64(p.max))
	}
	return time.Duration(d * (0.8 + 0.4*jitter))
}

// retryAfter is the pod's own word on when to try again.
func retryAfter(err error) (time.Duration, bool) {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return 0, false
	}
	for _, detail := range rpc.Details() {
		value, err := detail.Value()
		if err != nil {
			continue // of a type that this client does not know
		}
		if info, ok := value.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}
