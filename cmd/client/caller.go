package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
)

const (
	// plainChunk is how much payload goes into a message, in bytes: a message of
	// a full power of two needs a buffer of twice that.
	plainChunk = 1<<20 - 1<<10
	// legacyChunk is the seed's, in compressed bytes.
	legacyChunk = 32 << 10
	// maxResult is the largest result, in bytes of JSON.
	maxResult = 256 << 20
)

// A callSpec is one call of a function.
type callSpec struct {
	fn        string
	kwargs    json.RawMessage // an object without reserved keys
	payload   source
	header    http.Header // further metadata
	jobID     string      // empty lets the pod choose
	heartbeat time.Duration
	legacy    bool // as the seed's client speaks
}

// A callState is how far a call is. One call writes it; anyone may read it.
type callState struct {
	sent     atomic.Int64 // bytes of payload, uncompressed, handed to the stream
	uploaded atomic.Int64 // when that was all of them; 0 before, as in lastSeen
	beats    atomic.Int64 // heartbeats received
	lastSeen atomic.Int64 // when the last message came, Unix time in nanoseconds
	job      atomic.Value // the job's id, a string, once it is known
}

func (s *callState) jobID() string {
	id, _ := s.job.Load().(string)
	return id
}

// A watcher is told what happens to a call, by one goroutine at a time. It must
// not block.
type watcher interface {
	// accepted says that the pod has taken the call, as the job with this id.
	accepted(job, fn string)
	// beat says that the pod has shown that it is alive.
	beat()
	// retrying says that attempt number next starts after a pause, and why.
	retrying(next int, pause time.Duration, why error)
}

// A caller makes calls to one pod. It is safe for concurrent use.
type caller struct {
	ai    aiconnect.AIClient
	retry retryPolicy
}

func newCaller(c *conn, compression string, retry retryPolicy) *caller {
	options := c.options
	if compression != "" {
		options = append(options[:len(options):len(options)], connect.WithSendCompression(compression))
	}
	return &caller{ai: aiconnect.NewAIClient(c.http, c.addr, options...), retry: retry}
}

// A callError is the error of a call, with what is known of its stream.
type callError struct {
	err      error
	wire     bool // the pod said so; otherwise the connection broke
	answered bool // after the pod had begun to answer
	local    bool // this side is at fault: the payload could not be read
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// errCut is the end of a stream without a result.
var errCut = errors.New("the stream ended")

// call makes a call and returns its result, JSON. The connection phase is tried
// again as the policy says. Errors are *callErrors.
func (c *caller) call(ctx context.Context, spec callSpec, state *callState, watch watcher) (json.RawMessage, error) {
	for attempt := 1; ; attempt++ {
		state.sent.Store(0)
		state.uploaded.Store(0)
		result, err := c.attempt(ctx, spec, state, watch)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		pause, ok := c.retry.next(attempt, err)
		if !ok || !spec.payload.replayable() {
			return nil, err
		}
		watch.retrying(attempt+1, pause, err)
		if c.retry.wait(ctx, pause) != nil {
			return nil, err // which says more than that time is up
		}
	}
}

// attempt makes the call on one stream. A goroutine sends; this one receives,
// and knows why the stream ended when sending fails.
func (c *caller) attempt(ctx context.Context, spec callSpec, state *callState, watch watcher) (json.RawMessage, error) {
	payload, err := spec.payload.open()
	if err != nil {
		return nil, &callError{err: err, local: true}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := c.ai.Chaos(ctx)
	header := stream.RequestHeader()
	for name, values := range spec.header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	header.Set("x-func-name", spec.fn)
	header.Set("x-heartbeat", spec.heartbeat.String())
	if spec.jobID != "" {
		header.Set("x-job-id", spec.jobID)
	}

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer payload.Close()
		if err := send(stream, spec, payload, state); err != nil {
			cancel(&callError{err: err, local: true})
		}
	}()
	result, err := receive(stream, state, watch)
	local := context.Cause(ctx)
	cancel(errors.New("the call is over"))
	// It is over for the sender, too, unless that waits for a stream that can't be
	// interrupted, such as a terminal: it then ends with the process.
	if spec.payload.once == nil {
		<-sent
	}
	_ = stream.CloseResponse() // the stream has ended already
	var mine *callError
	if err != nil && errors.As(local, &mine) {
		return nil, mine
	}
	return result, err
}

// receive reads the stream to its result.
func receive(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], state *callState, watch watcher) (json.RawMessage, error) {
	answered := false
	for {
		msg, err := stream.Receive()
		if !answered {
			// Headers may come without a message after them.
			h := stream.ResponseHeader()
			if job := h.Get("x-job-id"); job != "" {
				answered = true
				state.job.Store(job)
				watch.accepted(job, h.Get("x-func-name"))
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil, &callError{err: errCut, answered: answered}
		case err != nil:
			return nil, &callError{err: err, wire: connect.IsWireError(err), answered: answered}
		}
		answered = true
		state.lastSeen.Store(time.Now().UnixNano())
		if string(msg.Data) == codec.Pong {
			state.beats.Add(1)
			watch.beat()
			continue
		}
		result, err := codec.DecodeResult(msg.Data, maxResult)
		if err == nil && !json.Valid(result) {
			err = errors.New("the result is not JSON")
		}
		if err != nil {
			return nil, &callError{err: err, answered: true, local: true}
		}
		return result, nil
	}
}

// send sends the kwargs and the payload. Its error is about the payload; when
// the stream breaks, the receiver gets to know why.
func send(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], spec callSpec, payload io.Reader, state *callState) error {
	first, err := codec.EncodeKwargs(spec.kwargs, spec.payload.size, spec.legacy)
	if err != nil {
		return err
	}
	out := &messages{stream: stream}
	if !out.send(first) {
		return nil
	}
	in := &progress{r: payload, sent: &state.sent}
	if spec.legacy {
		err = sendLegacy(out, in)
	} else {
		err = sendPlain(out, in)
	}
	switch {
	case out.broken:
		return nil
	case err != nil:
		return fmt.Errorf("read the payload: %w", err)
	}
	if size, n := spec.payload.size, state.sent.Load(); size >= 0 && n != size {
		return fmt.Errorf("the payload changed while it was sent: %d bytes instead of %d", n, size)
	}
	state.uploaded.Store(time.Now().UnixNano())
	_ = stream.CloseRequest() // if it fails, so does receiving
	return nil
}

// sendPlain sends the payload in large messages.
func sendPlain(out *messages, in io.Reader) error {
	buf := make([]byte, plainChunk)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !out.send(buf[:n]) {
			return nil
		}
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// sendLegacy sends the payload as one zstd stream, cut as the seed cuts it.
func sendLegacy(out *messages, in io.Reader) error {
	cut := &cutter{out: out, buf: make([]byte, 0, legacyChunk)}
	enc, err := codec.NewEncoder(cut, zstd.SpeedDefault)
	if err != nil {
		return err
	}
	buf := make([]byte, plainChunk)
	if _, err := io.CopyBuffer(onlyWriter{enc}, onlyReader{in}, buf); err != nil {
		_ = enc.Close()
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	return cut.flush()
}

// onlyWriter and onlyReader hide the shortcuts of io.CopyBuffer, which would
// bring buffers of their own.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// messages sends bytes as ai.Raw messages, always the same one.
type messages struct {
	stream *connect.BidiStreamForClient[ai.Raw, ai.Raw]
	msg    ai.Raw
	broken bool // the stream takes no more
}

func (m *messages) send(data []byte) bool {
	m.msg.Data = data
	m.broken = m.broken || m.stream.Send(&m.msg) != nil
	return !m.broken
}

// A cutter makes messages of at most cap(buf) bytes of what is written.
type cutter struct {
	out *messages
	buf []byte
}

func (c *cutter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(cap(c.buf)-len(c.buf), len(p))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (c *cutter) flush() error {
	if len(c.buf) > 0 && !c.out.send(c.buf) {
		return errCut
	}
	c.buf = c.buf[:0]
	return nil
}

// progress counts what is read.
type progress struct {
	r    io.Reader
	sent *atomic.Int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.sent.Add(int64(n))
	return n, err
}
