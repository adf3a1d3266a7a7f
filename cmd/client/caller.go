package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
)

const (
	// legacyChunk is how much payload goes into a message, in compressed bytes: as
	// much as the seed's client sends.
	legacyChunk = 32 << 10
	// legacyRead is how much is read of the payload at once, in bytes.
	legacyRead = 1 << 20
	// maxResult is the largest result, in bytes of JSON.
	maxResult = 256 << 20
)

// A callSpec is one call of a function.
type callSpec struct {
	fn        string
	version   string          // empty also if it is among the kwargs
	kwargs    json.RawMessage // an object without reserved keys
	payload   source
	level     client.Level
	jobID     string // empty is a job that nobody else is to know of
	heartbeat time.Duration
	legacy    bool // ai.AI, as the seed's client speaks
}

// A caller calls functions as the seed's client does, by ai.AI/chaos. It tells of
// what happens in the client package's events, as far as ai.AI has them. It is
// safe for concurrent use.
type caller struct {
	ai     aiconnect.AIClient
	header http.Header // of each call, besides its own
	retry  retryPolicy
}

func newCaller(c *conn, compression string, retry retryPolicy) *caller {
	options := c.options
	if compression != "" {
		options = append(options[:len(options):len(options)], connect.WithSendCompression(compression))
	}
	return &caller{ai: aiconnect.NewAIClient(c.http, c.addr, options...), header: c.header, retry: retry}
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

// call makes a call and returns its result, JSON. It is made again as the policy
// says. Errors are *callErrors. watch is called by several goroutines.
func (c *caller) call(ctx context.Context, spec callSpec, watch func(client.Event)) (json.RawMessage, error) {
	var (
		failures int
		waited   time.Duration
		kept     bool // the pod has a job that outlives the stream
	)
	for stream := 1; ; stream++ {
		began := time.Now()
		watch(client.Connecting{Stream: stream})
		result, err := c.attempt(ctx, spec, watch)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		var failed *callError
		if errors.As(err, &failed) && failed.answered && spec.jobID != "" {
			kept = true
			if time.Since(began) >= c.retry.steady {
				failures, waited = 0, 0
			}
		}
		failures++
		pause, ok := c.retry.next(failures, waited, kept, err)
		if !ok || !spec.payload.replayable() {
			return nil, err
		}
		watch(client.Reconnecting{Failures: failures, Pause: pause, Why: err})
		if c.retry.wait(ctx, pause) != nil {
			return nil, err // which says more than that time is up
		}
		waited += pause
	}
}

// attempt makes the call on one stream. A goroutine sends; this one receives,
// and knows why the stream ended when sending fails.
func (c *caller) attempt(ctx context.Context, spec callSpec, watch func(client.Event)) (json.RawMessage, error) {
	payload, err := spec.payload.open()
	if err != nil {
		return nil, &callError{err: err, local: true}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := c.ai.Chaos(ctx)
	header := stream.RequestHeader()
	for name, values := range c.header {
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
		if err := send(stream, spec, payload, watch); err != nil {
			cancel(&callError{err: err, local: true})
		}
	}()
	result, err := receive(stream, watch)
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
func receive(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], watch func(client.Event)) (json.RawMessage, error) {
	answered := false
	for {
		msg, err := stream.Receive()
		if !answered {
			// Headers may come without a message after them.
			if job := stream.ResponseHeader().Get("x-job-id"); job != "" {
				answered = true
				watch(client.Accepted{JobID: job})
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil, &callError{err: errCut, answered: answered}
		case err != nil:
			return nil, &callError{err: err, wire: connect.IsWireError(err), answered: answered}
		}
		answered = true
		if string(msg.Data) == codec.Pong {
			watch(client.Heartbeat{WorkerAge: -1})
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

// send sends the kwargs and the payload as one zstd stream, cut as the seed cuts
// it. Its error is about the payload; when the stream breaks, the receiver gets to
// know why.
func send(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], spec callSpec, payload io.Reader, watch func(client.Event)) error {
	size := spec.payload.size
	first, err := codec.EncodeKwargs(spec.kwargs, size, true)
	if err != nil {
		return err
	}
	out := &messages{stream: stream}
	if !out.send(first) {
		return nil
	}
	in := &counter{r: payload, size: size, watch: watch}
	err = compress(out, in)
	switch {
	case out.broken:
		return nil
	case err != nil:
		return fmt.Errorf("read the payload: %w", err)
	}
	if size >= 0 && in.n != size {
		return fmt.Errorf("the payload changed while it was sent: %d bytes instead of %d", in.n, size)
	}
	watch(client.Uploaded{Size: in.n})
	_ = stream.CloseRequest() // if it fails, so does receiving
	return nil
}

func compress(out *messages, in io.Reader) error {
	cut := &cutter{out: out, buf: make([]byte, 0, legacyChunk)}
	enc, err := codec.NewEncoder(cut, zstd.SpeedDefault)
	if err != nil {
		return err
	}
	buf := make([]byte, legacyRead)
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

// A counter tells of what is read.
type counter struct {
	r       io.Reader
	n, size int64
	watch   func(client.Event)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if n > 0 {
		c.n += int64(n)
		c.watch(client.Sent{Offset: c.n, Size: c.size})
	}
	return n, err
}
