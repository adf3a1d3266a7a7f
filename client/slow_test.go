package client

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// A stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	gate  chan struct{}
	begun atomic.Bool
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.begun.Store(true)
	<-w.gate
	return len(p), nil
}

// Outputs that nobody takes hold up only themselves: other calls of the client have
// the same connection, but not the same window.
func TestSlowOutputsHoldUpNobody(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	c := newClient(t, p.addr, Config{})
	data := make([]byte, 12<<20) // more than a stream's window
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	echo := Call{Func: "echo", Payload: Bytes(data)}
	gate, ended := make(chan struct{}), make(chan struct{})
	run := func(call Call) {
		r, err := c.Run(t.Context(), call)
		if err != nil {
			t.Error(err)
		} else if r.Stats.Streams != 1 || r.Stats.Received != int64(len(data)) {
			t.Errorf("%+v, want all over one stream", r.Stats)
		}
	}
	const slow = 4
	for range slow {
		w, call := &stuckWriter{gate: gate}, echo
		call.Output = w
		go func() {
			run(call)
			ended <- struct{}{}
		}()
		eventually(t, "the output has begun to come", func() (any, bool) { return nil, w.begun.Load() })
	}
	time.Sleep(500 * time.Millisecond) // the windows fill

	run(echo)
	close(gate)
	for range slow {
		<-ended
	}
}
