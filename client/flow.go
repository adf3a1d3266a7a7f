package client

import (
	"context"
	"sync"
	"time"
)

// A flow is where sending and receiving on one stream meet. The goroutine that
// follows the stream tells what the pod has; the one that sends waits for it.
type flow struct {
	mu        sync.Mutex
	accepted  bool
	receiving bool  // the pod takes input
	committed int64 // bytes of the input that the pod has
	began     int64 // committed as the stream began
	sent      int64 // where sending is; bytes of the input
	moved     time.Time
	changed   chan struct{} // closed when something has changed
}

func newFlow() *flow {
	return &flow{changed: make(chan struct{}), moved: time.Now()}
}

// change changes fields and wakes who waits.
func (f *flow) change(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
	close(f.changed)
	f.changed = make(chan struct{})
}

// update tells what the pod says.
func (f *flow) update(receiving bool, committed int64) {
	f.change(func() {
		if !f.accepted {
			f.accepted = true
			f.began, f.committed = committed, committed
		}
		if committed > f.committed {
			f.committed, f.moved = committed, time.Now()
		}
		f.receiving = receiving
	})
}

// wait waits until ok, which is called with f locked. It is false when ctx ends.
func (f *flow) wait(ctx context.Context, ok func() bool) bool {
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// stand is what the pod said last.
func (f *flow) stand() (receiving bool, committed int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.receiving, f.committed
}

// start tells that sending starts at an offset.
func (f *flow) start(offset int64) {
	f.change(func() { f.sent, f.moved = offset, time.Now() })
}

// room waits until n more bytes may be on the way, and counts them. It is false
// when they are not wanted any more.
func (f *flow) room(ctx context.Context, n int, limit func(carried int64) int64) bool {
	ok := f.wait(ctx, func() bool {
		inFlight := f.sent - f.committed
		return f.accepted && !f.receiving || inFlight <= 0 || inFlight+int64(n) <= limit(f.committed-f.began)
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || f.accepted && !f.receiving {
		return false
	}
	if f.sent <= f.committed {
		f.moved = time.Now() // nothing was on the way until now
	}
	f.sent += int64(n)
	return true
}

// carried is how many bytes the stream brought to the pod, and whether it was
// given any.
func (f *flow) carried() (n int64, given bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.committed - f.began, f.sent > f.began
}

// stalled tells whether bytes are on the way for longer than that without the pod
// having more of them.
func (f *flow) stalled(limit time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.receiving && f.sent > f.committed && time.Since(f.moved) > limit
}
