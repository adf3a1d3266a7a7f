package transport

import (
	"context"
	"encoding/binary"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/codec"
)

// minCompress is the smallest message that is worth compressing, in bytes.
// Heartbeats are far below it.
const minCompress = 1024

// HandlerOptions are connect's options for every handler of the pod.
func HandlerOptions() []connect.HandlerOption {
	return append(codec.HandlerOptions(), connect.WithCompressMinBytes(minCompress))
}

// Bulk makes the handler of a service that answers with payloads. Requests may
// come in gzip, but no answer leaves in it: the accept list of a stock gRPC
// client would make connect gzip everything, which costs ten times the rest.
// zstd is used when the client accepts it.
func Bulk(build func(...connect.HandlerOption) (string, http.Handler), opts ...connect.HandlerOption) (string, http.Handler) {
	path, normal := build(opts...)
	_, plain := build(append(slices.Clip(opts), connect.WithCompressMinBytes(math.MaxInt))...)
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, key := range []string{"Grpc-Accept-Encoding", "Connect-Accept-Encoding"} {
			if accept := r.Header.Get(key); strings.Contains(accept, codec.Gzip) {
				r.Header.Set(key, without(accept, codec.Gzip))
			}
		}
		// connect answers in the encoding of the request, whatever is accepted.
		if r.Header.Get("Grpc-Encoding") == codec.Gzip || r.Header.Get("Connect-Content-Encoding") == codec.Gzip {
			plain.ServeHTTP(w, r)
			return
		}
		normal.ServeHTTP(w, r)
	})
}

func without(list, name string) string {
	names := slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return strings.TrimSpace(s) == name })
	return strings.Join(names, ",")
}

// Middleware is what goes around all of connect's handlers. Inside it
// [Controller] works.
func Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		contentType := r.Header.Get("Content-Type")
		x := &Exchange{controller: rc, w: w, envelopes: hasEnvelopes(contentType)}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		if isStream(contentType) {
			x.answer.ResponseWriter = w
			w = &x.answer
			x.w = w
		}
		switch {
		case r.ProtoMajor == 1 && isStream(contentType):
			// connect refuses bidi streams over HTTP/1.1, but net/http can write
			// while it reads, and a client that sends all before it reads is
			// served just as well: its heartbeats wait in its socket buffer.
			if rc.EnableFullDuplex() == nil {
				r.ProtoMajor, r.ProtoMinor = 2, 0
				// net/http would say it at the first read, unless a heartbeat was
				// written before that; curl waits for it with large bodies.
				if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
					w.WriteHeader(http.StatusContinue)
				}
			}
			next.ServeHTTP(w, r)
			// net/http closes the body too late for its own good: if that reaches
			// its end, the connection dies under the next request
			// (https://go.dev/issue/68560). connect closes it in time, but not of a
			// call that is refused for its path, method or content type.
			_ = rc.Flush()
			_ = r.Body.Close()
		case isGRPC(contentType):
			t := &trailersOnly{ResponseWriter: w, outer: maps.Clone(w.Header())}
			x.w = t
			next.ServeHTTP(t, r)
			t.finish()
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// An Exchange is a request and its answer, below connect. It belongs to the
// handler's goroutine.
type Exchange struct {
	controller *http.ResponseController
	w          http.ResponseWriter // that connect writes to
	envelopes  bool                // each message is an envelope of protobuf
	answer     answer              // of a stream: what is around the server's own
}

type exchangeKey struct{}

// ExchangeOf is that which ctx belongs to; nil outside of Middleware.
func ExchangeOf(ctx context.Context) *Exchange {
	x, _ := ctx.Value(exchangeKey{}).(*Exchange)
	return x
}

// Controller is the http.ResponseController of the request that ctx belongs to;
// nil outside of Middleware.
func Controller(ctx context.Context) *http.ResponseController {
	if x := ExchangeOf(ctx); x != nil {
		return x.controller
	}
	return nil
}

// Hold has what is sent wait for Release, or for the end of the call. It is for the
// answers of streams, and does nothing for others.
func (x *Exchange) Hold() {
	if x != nil {
		x.answer.held = true
	}
}

// Release sends what has waited since Hold.
func (x *Exchange) Release() error {
	if x == nil || !x.answer.held {
		return nil
	}
	x.answer.held = false
	return x.controller.Flush()
}

// An answer is a ResponseWriter whose flushes can be held back.
type answer struct {
	http.ResponseWriter
	held bool
}

func (a *answer) Flush() {
	if f, ok := a.ResponseWriter.(http.Flusher); ok && !a.held {
		f.Flush()
	}
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Envelope is a message of protobuf as gRPC, gRPC-Web and Connect have it in a
// stream, not compressed: a byte of flags, four with the length, and the message.
func Envelope(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// SendEnvelope sends a message that was encoded once and for all, past connect, which
// would encode it each time. The handler has to have sent a message by connect
// before, because headers go with the first. ok is false when the request's codec is
// another one, or x is nil: then nothing has been sent.
func (x *Exchange) SendEnvelope(envelope []byte) (ok bool, err error) {
	if x == nil || !x.envelopes {
		return false, nil
	}
	if _, err := x.w.Write(envelope); err != nil {
		return true, err
	}
	return true, x.controller.Flush()
}

// hasEnvelopes is for requests whose answers are streams of protobuf, in octets.
func hasEnvelopes(contentType string) bool {
	switch contentType {
	case "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto", "application/connect+proto":
		return true
	}
	return false
}

func isGRPC(contentType string) bool {
	return contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+")
}

func isStream(contentType string) bool {
	return strings.HasPrefix(contentType, "application/connect+") ||
		strings.HasPrefix(contentType, "application/grpc")
}

// trailersOnly sends a gRPC response that has no message as one HEADERS frame,
// status included. connect always sends it as headers and then trailers, which
// gRPC clients take for an answer that has begun, so that their retryPolicy
// never fires. An answer with headers of its own is not changed: gRPC clients
// look for them in front, and would find them among the trailers.
type trailersOnly struct {
	http.ResponseWriter
	outer http.Header // set by whoever is around Middleware: not the answer's own
	sent  bool        // the headers are on their way
	held  bool        // a flush was held back because only trailers are left to send
}

func (t *trailersOnly) WriteHeader(code int) {
	t.sent = true
	t.ResponseWriter.WriteHeader(code)
}

func (t *trailersOnly) Write(p []byte) (int, error) {
	if len(p) > 0 {
		t.sent = true
	}
	return t.ResponseWriter.Write(p)
}

// Flush holds back the flush that connect ends a call with; net/http sends the
// headers when the handler returns.
func (t *trailersOnly) Flush() {
	if !t.sent && t.Header().Get(http.TrailerPrefix+"Grpc-Status") != "" && !t.ownHeaders() {
		t.held = true
		return
	}
	t.sent = true
	if f, ok := t.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// ownHeaders tells whether the handler set headers that the protocol does not.
func (t *trailersOnly) ownHeaders() bool {
	for key := range t.Header() {
		if _, ok := t.outer[key]; !ok && key != "Content-Type" &&
			!strings.HasPrefix(key, "Grpc-") && !strings.HasPrefix(key, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// Unwrap is for http.ResponseController.
func (t *trailersOnly) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// finish turns the trailers into headers when nothing was sent before them.
func (t *trailersOnly) finish() {
	if t.sent || !t.held {
		return
	}
	header := t.Header()
	for key, values := range header {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			name = http.CanonicalHeaderKey(name)
			header[name] = append(header[name], values...)
			delete(header, key)
		}
	}
}
