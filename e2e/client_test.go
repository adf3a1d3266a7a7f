//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// A request is one call of chaos by the project's own transport, with plain
// kwargs.
type request struct {
	protocol transport.Protocol // default gRPC
	fn       string
	kwargs   string // JSON, default {}
	payload  io.Reader
	header   map[string]string
	// first, if not nil, is closed when the first message has come.
	first chan<- struct{}
}

// A response is how a call went.
type response struct {
	err    error
	result []byte // JSON; nil unless one came
	header http.Header
	beats  int
	gap    time.Duration // longest silence of the server
	took   time.Duration
	ended  time.Time
}

func (r response) code() connect.Code {
	if r.err == nil {
		return 0
	}
	return connect.CodeOf(r.err)
}

// do makes one call on a connection of its own.
func do(ctx context.Context, addr string, req request) response {
	var res response
	client := transport.NewHTTPClient(transport.ClientConfig{})
	defer client.CloseIdleConnections()
	protocol := req.protocol
	if protocol == "" {
		protocol = transport.GRPC
	}
	opts, err := transport.ClientOptions(protocol)
	if err != nil {
		return response{err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := aiconnect.NewAIClient(client, "http://"+addr, opts...).Chaos(ctx)
	stream.RequestHeader().Set("x-func-name", req.fn)
	for key, value := range req.header {
		stream.RequestHeader().Set(key, value)
	}
	begun := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// After an error the receiving side knows why.
		_ = send(stream, req)
	}()
	last := begun
	for {
		msg, err := stream.Receive()
		now := time.Now()
		res.gap, last = max(res.gap, now.Sub(last)), now
		if err != nil {
			if !errors.Is(err, io.EOF) {
				res.err = err
			}
			break
		}
		if req.first != nil {
			close(req.first)
			req.first = nil
		}
		if string(msg.GetData()) == codec.Pong {
			res.beats++
		} else {
			res.result = msg.GetData()
		}
	}
	res.ended, res.took, res.header = last, last.Sub(begun), stream.ResponseHeader()
	if res.err == nil && res.result == nil {
		res.err = errors.New("the stream ended without a result or an error")
	}
	cancel()
	<-sent
	_ = stream.CloseResponse()
	return res
}

func send(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], req request) error {
	kwargs := req.kwargs
	if kwargs == "" {
		kwargs = "{}"
	}
	if err := stream.Send(&ai.Raw{Data: []byte(kwargs)}); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for req.payload != nil {
		n, err := io.ReadFull(req.payload, buf)
		if n > 0 {
			if err := stream.Send(&ai.Raw{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err != nil {
			break
		}
	}
	return stream.CloseRequest()
}

// goDo is do in a goroutine; it returns when the first message has come.
func goDo(t *testing.T, ctx context.Context, addr string, req request) <-chan response {
	t.Helper()
	first, done := make(chan struct{}), make(chan response, 1)
	req.first = first
	go func() { done <- do(ctx, addr, req) }()
	select {
	case <-first:
	case r := <-done:
		t.Fatalf("%s ended early: %v", req.fn, r.err)
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no message for 10 s", req.fn)
	}
	return done
}

// digest is the result of the function sha256.
type digest struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

func digestOf(data []byte) digest {
	sum := sha256.Sum256(data)
	return digest{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
}

func expectDigest(t *testing.T, result []byte, want digest) {
	t.Helper()
	var got digest
	if err := json.Unmarshal(result, &got); err != nil {
		t.Fatalf("the result %q: %v", result, err)
	}
	if got != want {
		t.Errorf("the pod says %+v, want %+v", got, want)
	}
}

// stallingReader pauses once, half-way.
type stallingReader struct {
	io.Reader
	at   int // bytes left until the pause
	stop time.Duration
}

func newStallingReader(data []byte, stop time.Duration) io.Reader {
	return &stallingReader{Reader: bytes.NewReader(data), at: len(data) / 2, stop: stop}
}

func (r *stallingReader) Read(p []byte) (int, error) {
	if r.at == 0 && r.stop > 0 {
		time.Sleep(r.stop)
		r.stop = 0
	}
	if r.at > 0 {
		p = p[:min(len(p), r.at)]
	}
	n, err := r.Reader.Read(p)
	r.at = max(0, r.at-n)
	return n, err
}

// randomBytes can't be compressed.
func randomBytes(n int) []byte {
	data := make([]byte, n)
	seed := sha256.Sum256([]byte("aipod"))
	_, _ = rand.NewChaCha8(seed).Read(data)
	return data
}

// textBytes can be compressed well, but not to nothing.
func textBytes(n int) []byte {
	var b bytes.Buffer
	b.Grow(n + 64)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,%d.%d,setosa,versicolor,virginica\n", i, i%97, i*7919%1000)
	}
	return b.Bytes()[:n]
}

// writePayload writes a file that is too large to hold.
func writePayload(t *testing.T, kind bench.Kind, size int64) (path string, want digest) {
	t.Helper()
	payload, err := bench.NewPayload(kind, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), string(kind))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, hash), payload)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path, digest{SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size}
}

// writeFile writes a file that lives as long as the test.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
