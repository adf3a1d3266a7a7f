package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// A retryPolicy says when the connection phase of a call is tried again.
type retryPolicy struct {
	attempts   int           // in all
	first, max time.Duration // pauses: the first, and the longest
	factor     float64       // of each pause to the one before
	wait       func(ctx context.Context, d time.Duration) error
}

// seedRetry is the policy of the seed's client.
func seedRetry(wait func(context.Context, time.Duration) error) retryPolicy {
	return retryPolicy{attempts: 5, first: time.Second, max: 30 * time.Second, factor: 2, wait: wait}
}

// next decides after the failed attempt number n. A call that the pod has begun
// to answer is never made again: it might run twice. Before that, codes that
// can pass are tried again, and whatever the pod says a time for.
func (p retryPolicy) next(n int, err error) (pause time.Duration, ok bool) {
	var failed *callError
	if n >= p.attempts || !errors.As(err, &failed) || failed.answered || failed.local {
		return 0, false
	}
	if after, told := retryAfter(err); told {
		return min(max(after, 0), p.max), true
	}
	switch connect.CodeOf(failed.err) {
	case connect.CodeUnavailable, connect.CodeInternal, connect.CodeUnknown:
		return p.pause(n, rand.Float64()), true
	}
	return 0, false
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
