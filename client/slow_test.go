package client

import (
	"math/rand/v2"
	"testing"
	"time"
)

// A stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	begun chan struct{} // gets one thing for each Write
	gate  chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.begun <- struct{}{}:
	case <-w.gate:
	}
	<-w.gate
	return len(p), nil
}

// Outputs that nobody takes hold up only themselves: other calls of the client have
// the same connection, but not the same window.
func TestSlowOutputsHoldUpNobody(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	c := newClient(t, p.addr, Config{})
	data := make([]byte, 9<<20) // more than a stream's window
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	// On a busy machine the pod is not taken for dead because it is slow.
	echo := Call{Func: "echo", Payload: Bytes(data), Heartbeat: 10 * time.Second}
	const slow = 3
	gate, ended := make(chan struct{}), make(chan struct{}, slow)
	run := func(call Call) {
		r, err := c.Run(t.Context(), call)
		if err != nil {
			t.Error(err)
		} else if r.Stats.Streams != 1 || r.Stats.Received != int64(len(data)) {
			t.Errorf("%+v, want all over one stream", r.Stats)
		}
	}
	for range slow {
		w, call := &stuckWriter{begun: make(chan struct{}), gate: gate}, echo
		call.Output = w
		go func() {
			run(call)
			ended <- struct{}{}
		}()
		select {
		case <-w.begun:
		case <-ended:
			t.Fatal("it ended without its output")
		}
	}
	time.Sleep(500 * time.Millisecond) // the windows fill

	run(echo)
	close(gate)
	for range slow {
		<-ended
	}
}
