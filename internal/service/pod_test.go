package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// testModel has one function for each thing that a function may do.
type testModel struct {
	mu      sync.Mutex
	started chan string        // names of functions as they start
	gone    chan struct{}      // tells that the function "wait" was told to end
	release chan struct{}      // lets "deaf" and "hold" return and the version "slow" load
	parts   chan []byte        // what "grow" writes
	calls   []*worker.Call     // in order of arrival
	funcs   map[string]runFunc // by name
	// described is a function that ListFunctions has besides, the last one.
	described worker.Function
}

type runFunc func(ctx context.Context, c *worker.Call) (json.RawMessage, error)

func newTestModel() *testModel {
	m := &testModel{
		started: make(chan string, 100),
		gone:    make(chan struct{}, 100),
		release: make(chan struct{}),
		parts:   make(chan []byte),
	}
	m.funcs = map[string]runFunc{
		"hello":  func(context.Context, *worker.Call) (json.RawMessage, error) { return json.RawMessage(`"hello"`), nil },
		"kwargs": func(_ context.Context, c *worker.Call) (json.RawMessage, error) { return c.Kwargs, nil },
		"meta": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			return json.Marshal(c.Metadata)
		},
		"sha256": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			r, err := c.Input.Open()
			if err != nil {
				return nil, err
			}
			defer r.Close()
			h := sha256.New()
			if _, err := io.Copy(h, r); err != nil {
				return nil, err
			}
			return json.Marshal(hex.EncodeToString(h.Sum(nil)))
		},
		"chaos": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			r, err := c.Input.Open()
			if err != nil {
				return nil, err
			}
			defer r.Close()
			w, err := c.OpenOutput()
			if err != nil {
				return nil, err
			}
			_, err = io.Copy(w, r)
			return nil, err
		},
		"wait": func(ctx context.Context, _ *worker.Call) (json.RawMessage, error) {
			<-ctx.Done()
			m.gone <- struct{}{}
			return nil, ctx.Err()
		},
		"deaf": func(context.Context, *worker.Call) (json.RawMessage, error) {
			<-m.release
			return nil, nil
		},
		"panic": func(context.Context, *worker.Call) (json.RawMessage, error) { panic("secret") },
		"fail":  func(context.Context, *worker.Call) (json.RawMessage, error) { return nil, errors.New("secret") },
	}
	maps.Copy(m.funcs, jobFuncs(m))
	for _, name := range []string{"train", "predict", "log"} {
		m.funcs[name] = func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			return json.Marshal([]any{c.Func, c.Version, c.Kwargs, c.Input.Size()})
		}
	}
	return m
}

func (m *testModel) Describe() worker.Description {
	d := worker.Description{Model: "test"}
	for name := range m.funcs {
		d.Functions = append(d.Functions, worker.Function{Name: name})
	}
	if m.described.Name != "" {
		d.Functions = append(d.Functions, m.described)
	}
	return d
}

func (m *testModel) Load(_ context.Context, version string) (worker.Instance, error) {
	if version == "slow" {
		m.started <- "load"
		<-m.release
		return testInstance{testModel: m}, nil
	}
	if version != "" && version != "v1" {
		return nil, &worker.VersionError{Version: version, Have: []string{"v1"}}
	}
	return testInstance{testModel: m}, nil
}

type testInstance struct {
	worker.Lasting
	*testModel
}

func (i testInstance) Call(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
	i.mu.Lock()
	i.calls = append(i.calls, c)
	i.mu.Unlock()
	i.started <- c.Func
	return i.funcs[c.Func](ctx, c)
}

func (testInstance) Close() error { return nil }

// testPod is a pod on a real port that must be left clean when the test ends.
type testPod struct {
	*Pod
	model *testModel
	url   string
	http  *http.Client
	log   *syncBuffer
	stop  func() // drains, and waits for Serve to return

	stopped bool // stop was called
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func startPod(t testing.TB, change func(*Config)) *testPod {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	tp := &testPod{model: newTestModel(), log: new(syncBuffer)}
	cfg := Config{
		OpenModel:    func(string) (worker.Model, error) { return tp.model, nil },
		DataDir:      t.TempDir(),
		Heartbeat:    minHeartbeat,
		DrainTimeout: 5 * time.Second,
		Pool:         worker.Config{Slots: 100},
		Logger:       slog.New(slog.NewTextHandler(tp.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	pod, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tp.Pod = pod
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tp.url = "http://" + ln.Addr().String()
	tp.http = transport.NewHTTPClient(transport.ClientConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- pod.Serve(ctx, ln) }()
	var once sync.Once
	tp.stop = func() {
		once.Do(func() {
			tp.stopped = true
			cancel()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		// Durable jobs of a pod that was stopped are for the next one.
		durable := pod.table.List()
		if !tp.stopped {
			for _, j := range durable {
				if err := pod.table.Delete(j.ID); err != nil {
					t.Error(err)
				}
			}
		}
		// What a call holds is freed when its stream has ended, which the client
		// may see first.
		if !tp.stopped || len(durable) == 0 {
			eventually(t, "the spool still holds something", func() (any, bool) {
				return pod.Spool(), pod.Spool() == spool.Usage{}
			})
		}
		eventually(t, "jobs are left in the table", func() (any, bool) { return pod.table.Len(), pod.table.Len() == 0 })
		tp.http.CloseIdleConnections()
		tp.stop()
		eventually(t, "goroutines are left", func() (any, bool) {
			n := runtime.NumGoroutine()
			return stacks(n), n <= goroutines
		})
		if strings.Contains(tp.log.String(), "not cleaned up") || strings.Contains(tp.log.String(), "not removed") {
			t.Errorf("the log tells of leftovers:\n%s", tp.log)
		}
	})
	return tp
}

func stacks(n int) string {
	buf := make([]byte, 1<<16)
	return fmt.Sprintf("%d:\n%s", n, buf[:runtime.Stack(buf, true)])
}

// eventually fails the test when ok does not become true within five seconds.
func eventually(t testing.TB, what string, ok func() (any, bool)) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		got, done := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v", what, got)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// client makes a client of ai.AI.
func (tp *testPod) client(t testing.TB, p transport.Protocol, opts ...connect.ClientOption) aiconnect.AIClient {
	t.Helper()
	base, err := transport.ClientOptions(p)
	if err != nil {
		t.Fatal(err)
	}
	return aiconnect.NewAIClient(tp.http, tp.url, append(base, opts...)...)
}

// A reply is all that a call got.
type reply struct {
	header http.Header
	pongs  int
	result []byte // of the last message that is not a heartbeat
}

// chaos calls a function with messages as they are given.
func chaos(ctx context.Context, c aiconnect.AIClient, fn string, messages ...[]byte) (reply, error) {
	stream := c.Chaos(ctx)
	stream.RequestHeader().Set(headerFunc, fn)
	return exchange(stream, messages)
}

func exchange(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw], messages [][]byte) (reply, error) {
	for _, m := range messages {
		if err := stream.Send(&ai.Raw{Data: m}); err != nil {
			break // Receive says why
		}
	}
	if err := stream.CloseRequest(); err != nil && !errors.Is(err, io.EOF) {
		return reply{}, err
	}
	return receive(stream)
}

func receive(stream *connect.BidiStreamForClient[ai.Raw, ai.Raw]) (reply, error) {
	var r reply
	defer stream.CloseResponse() //nolint:errcheck // the stream has ended
	for {
		m, err := stream.Receive()
		if r.header == nil {
			r.header = stream.ResponseHeader()
		}
		switch {
		case errors.Is(err, io.EOF):
			return r, nil
		case err != nil:
			return r, err
		case string(m.GetData()) == codec.Pong:
			r.pongs++
		default:
			r.result = m.GetData()
		}
	}
}

// zstdParts are kwargs and payload as the seed's client sends them, the payload
// cut into parts of n bytes.
func zstdParts(t testing.TB, kwargs string, payload []byte, n int) [][]byte {
	t.Helper()
	first, err := codec.EncodeKwargs(json.RawMessage(kwargs), int64(len(payload)), true)
	if err != nil {
		t.Fatal(err)
	}
	return append([][]byte{first}, cut(compress(t, payload), n)...)
}

func compress(t testing.TB, payload []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := codec.NewEncoder(&out, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func cut(b []byte, n int) [][]byte {
	var parts [][]byte
	for len(b) > 0 {
		k := min(n, len(b))
		parts = append(parts, b[:k])
		b = b[k:]
	}
	return parts
}

// wantCode fails unless err has the code and a text that contains what.
func wantCode(t testing.TB, err error, code connect.Code, what string) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code || !strings.Contains(err.Error(), what) {
		t.Errorf("got error %v, want %v: …%s…", err, code, what)
	}
}

// postGRPC makes a gRPC call without a gRPC client. The caller closes the body.
func (tp *testPod) postGRPC(t testing.TB, procedure, fn string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tp.url+procedure, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set(headerFunc, fn)
	res, err := tp.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
