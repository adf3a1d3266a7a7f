package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// A caller makes one call after the other. It belongs to a worker, and keeps its
// buffers from call to call.
type caller interface {
	// call makes a call and fills in all of c but its code.
	call(ctx context.Context, c *measure.Call) error
}

// A plan is what all callers of a run have in common.
type plan struct {
	cfg     Config
	payload *payload
	kwargs  []byte // the first message of ai.AI
	expect  expectation
	output  string // the job whose output is downloaded; empty if each call makes one

	// wanted is how many calls have to be answered before heartbeats count, which is
	// never if there aren't so many; opened is how many were, or failed.
	wanted int64
	opened atomic.Int64
	cuts   cutCounts
}

// answered notes the time of a call's first message.
func (p *plan) answered(m *measure.Call) {
	if m.FirstByte.IsZero() {
		m.FirstByte = time.Now()
		p.opened.Add(1)
	}
}

// counts says whether heartbeats do.
func (p *plan) counts() bool { return p.opened.Load() >= p.wanted }

// A JobError is a job that failed.
type JobError struct {
	Code    connect.Code
	Message string
}

func (e *JobError) Error() string { return e.Message }

// A ResultError is a call that succeeded with a result that is wrong.
type ResultError struct{ What string }

func (e *ResultError) Error() string { return "the result is wrong: " + e.What }

// errCut is a stream that ends without an end of its job.
var errCut = errors.New("the stream ended without a result")

// codeOf is the kind of an error.
func codeOf(err error) string {
	var (
		job    *JobError
		result *ResultError
	)
	switch {
	case errors.As(err, &job):
		return job.Code.String()
	case errors.As(err, &result):
		return "wrong_result"
	case errors.Is(err, errCut):
		return "cut"
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded.String()
	}
	return connect.CodeOf(err).String()
}

// An expectation is what the result has to be. The zero value takes anything.
type expectation struct {
	size   int64 // of the output, in bytes; -1 isn't checked
	crc    uint32
	json   []byte // of ai.AI
	sha256 string // of the payload, in hex
}

// expect makes out what the functions of the built-in model answer.
func (p *plan) makeExpectation() error {
	p.expect.size = -1
	switch {
	case p.cfg.Func == "sha256":
		h := sha256.New()
		if _, err := io.Copy(h, p.payload.reader()); err != nil {
			return fmt.Errorf("read payload: %w", err)
		}
		p.expect.sha256 = hex.EncodeToString(h.Sum(nil))
	case p.cfg.Func == "chaos" && p.cfg.Service == Job:
		p.expect.size, p.expect.crc = p.payload.size, p.payload.crc
	case p.cfg.Func == "chaos":
		text, err := io.ReadAll(p.payload.reader())
		if err != nil {
			return fmt.Errorf("read payload: %w", err)
		}
		p.expect.json, err = json.Marshal(string(text))
		return err
	}
	return nil
}

// checkJSON checks a result.
func (e *expectation) checkJSON(result []byte) error {
	if e.sha256 != "" {
		var got struct{ SHA256 string }
		if err := json.Unmarshal(result, &got); err != nil || got.SHA256 != e.sha256 {
			return &ResultError{fmt.Sprintf("%.100q is not the SHA-256 %s", result, e.sha256)}
		}
	}
	if e.json != nil && !bytes.Equal(result, e.json) {
		return &ResultError{fmt.Sprintf("%d bytes of JSON aren't the %d of the payload", len(result), len(e.json))}
	}
	return nil
}

// A sink takes an output, of which it keeps nothing.
type sink struct {
	n   int64
	crc uint32
	buf []byte // to decode into
	got func(n int)

	sent int64 // bytes of payload, as a client counts them
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *sink) reset() { s.n, s.crc = 0, 0 }

func (s *sink) take(c codec.Chunk, sum bool) error {
	if c.Offset != s.n {
		return &ResultError{fmt.Sprintf("output at %d comes where %d is due", c.Offset, s.n)}
	}
	decode := codec.DecodeChunk
	if !sum {
		decode = codec.DecodeChunkUnchecked
	}
	data, err := decode(c, s.buf)
	if err != nil {
		return &ResultError{err.Error()}
	}
	if c.Coding == codec.CodingZstd {
		s.buf = data[:0]
	}
	return s.write(data)
}

func (s *sink) write(data []byte) error {
	s.n += int64(len(data))
	s.crc = crc32.Update(s.crc, castagnoli, data)
	s.got(len(data))
	return nil
}

func (s *sink) check(e *expectation) error {
	if e.size >= 0 && (s.n != e.size || s.crc != e.crc) {
		return &ResultError{fmt.Sprintf("%d bytes of output with CRC-32C %08x, not %d with %08x", s.n, s.crc, e.size, e.crc)}
	}
	return nil
}

// A link is one connection's HTTP client, with the options to use it.
type link struct {
	http    *http.Client
	addr    string
	options []connect.ClientOption
	header  http.Header
}

// newLink makes a client of its own, so that its calls share a connection with
// nobody else's.
func newLink(cfg *Config) (*link, error) {
	options, err := transport.ClientOptions(cfg.Protocol)
	if err != nil {
		return nil, err
	}
	return &link{
		http:    transport.NewHTTPClient(transport.ClientConfig{TLS: cfg.TLS}),
		addr:    cfg.Addr,
		options: append(options, connect.WithCodec(inPlace{codec.Proto()})),
		header:  cfg.Header,
	}, nil
}

func (l *link) headers(h http.Header) {
	for name, values := range l.header {
		h[http.CanonicalHeaderKey(name)] = values
	}
}

// first notes a time, once.
func first(at *time.Time) {
	if at.IsZero() {
		*at = time.Now()
	}
}

// settle ends a stream that has had its last message.
func settle(conn connect.StreamingClientConn, message any) {
	_ = conn.Receive(message) // the end, so that nothing has to be reset
	_ = conn.CloseResponse()
}

// put sends a message. If that fails, so does receiving, which knows why.
func put(conn connect.StreamingClientConn, message any) bool { return conn.Send(message) == nil }

// unless is an error that doesn't matter when the stream is over.
func unless(over bool, err error) error {
	if over {
		return nil
	}
	return err
}
