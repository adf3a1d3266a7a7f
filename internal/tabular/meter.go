package tabular

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aipod/aipod/internal/worker"
)

const (
	copyBuffer    = 256 << 10
	progressEvery = 100 * time.Millisecond
)

// A meter reads a call's payload: it stops with context.Cause when ctx is done
// and reports progress in bytes, at the end too.
type meter struct {
	stop func() error // the cause once ctx is done, nil before
	call *worker.Call
	note string // what the reading is for
	src  io.ReadCloser
	done int64
	last time.Time // of the last report
}

// openMeter opens the call's payload; the caller closes src.
func openMeter(ctx context.Context, c *worker.Call, note string) (*meter, error) {
	src, err := c.Input.Open()
	if err != nil {
		return nil, err
	}
	stop := func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	return &meter{stop: stop, call: c, note: note, src: src, last: time.Now()}, nil
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.stop(); err != nil {
		return 0, err
	}
	n, err := m.src.Read(p)
	m.done += int64(n)
	if now := time.Now(); err != nil || now.Sub(m.last) >= progressEvery {
		m.last = now
		m.call.Progress(m.done, m.call.Input.Size(), "bytes", m.note)
	}
	return n, err
}

// copyPayload writes the call's payload to dst through one small buffer and
// returns its size.
func copyPayload(ctx context.Context, c *worker.Call, dst io.Writer) (int64, error) {
	m, err := openMeter(ctx, c, "")
	if err != nil {
		return 0, err
	}
	defer m.src.Close()
	// The bare Writer keeps a ReadFrom of dst from choosing its own buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{dst}, m, make([]byte, min(copyBuffer, max(c.Input.Size(), 1))))
	if err != nil {
		return n, err
	}
	if n != c.Input.Size() {
		return n, fmt.Errorf("read payload: %d of %d bytes", n, c.Input.Size())
	}
	return n, nil
}
