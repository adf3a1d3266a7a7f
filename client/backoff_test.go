package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBackoffPause(t *testing.T) {
	b := backoff{first: time.Second, max: 30 * time.Second}
	var got []time.Duration
	for n := 1; n <= 7; n++ {
		got = append(got, b.pause(n, 0.5))
	}
	var want []time.Duration
	for _, seconds := range []int{1, 2, 4, 8, 16, 30, 30} {
		want = append(want, time.Duration(seconds)*time.Second)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
	if d := b.pause(1, 0); d != 800*time.Millisecond {
		t.Errorf("the shortest is %v", d)
	}
	if d := b.pause(1, 1); d != 1200*time.Millisecond {
		t.Errorf("the longest is %v", d)
	}
	if d := b.pause(1<<20, 0.5); d != 30*time.Second {
		t.Errorf("after many failures it is %v", d)
	}
}

func TestSleepEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := sleep(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
	})
}
