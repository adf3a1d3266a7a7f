package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// testModel has one function for each thing that a job may do.
type testModel struct {
	mu    sync.Mutex
	calls []*worker.Call

	gates   map[string]chan struct{} // that trickle waits at
	patient atomic.Bool              // the function trickle always ends
	funcs   map[string]func(ctx context.Context, c *worker.Call) (json.RawMessage, error)
}

func newTestModel() *testModel {
	m := &testModel{gates: map[string]chan struct{}{}}
	m.funcs = map[string]func(context.Context, *worker.Call) (json.RawMessage, error){
		"hello":  func(context.Context, *worker.Call) (json.RawMessage, error) { return json.RawMessage(`"hello"`), nil },
		"kwargs": func(_ context.Context, c *worker.Call) (json.RawMessage, error) { return c.Kwargs, nil },
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
		"echo": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
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
		"large": func(context.Context, *worker.Call) (json.RawMessage, error) {
			return json.Marshal(strings.Repeat("large ", 1<<20))
		},
		"talk": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			for i := range int64(5) {
				c.Logf("line %d", i)
				c.Progress(i+1, 5, "lines", "")
				time.Sleep(50 * time.Millisecond)
			}
			return json.RawMessage("5"), nil
		},
		"sleep": func(ctx context.Context, _ *worker.Call) (json.RawMessage, error) {
			select {
			case <-time.After(1200 * time.Millisecond):
				return json.RawMessage(`"slept"`), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		"wait": func(ctx context.Context, _ *worker.Call) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		// trickle writes the first half of its input, waits for the milliseconds in its
		// kwargs or until it may go on, and writes the second. Unless the model is
		// patient, what runs first waits for ever.
		"trickle": func(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
			r, err := c.Input.Open()
			if err != nil {
				return nil, err
			}
			defer r.Close()
			w, err := c.OpenOutput()
			if err != nil {
				return nil, err
			}
			if _, err = io.CopyN(w, r, c.Input.Size()/2); err != nil {
				return nil, err
			}
			if m.runs() == 1 && !m.patient.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			var kwargs struct {
				Wait int
				Gate string
			}
			if err := c.DecodeKwargs(&kwargs); err != nil {
				return nil, err
			}
			time.Sleep(time.Duration(kwargs.Wait) * time.Millisecond)
			if kwargs.Gate != "" {
				select {
				case <-m.gate(kwargs.Gate):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			_, err = io.Copy(w, r)
			return nil, err
		},
		"fail": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			c.Logf("it does not look good")
			return nil, worker.Invalidf("the input is bad: mend it")
		},
	}
	return m
}

func (m *testModel) Describe() worker.Description {
	d := worker.Description{Model: "test"}
	for _, name := range []string{"echo", "fail", "hello", "kwargs", "large", "sha256", "sleep", "talk", "trickle", "wait"} {
		d.Functions = append(d.Functions, worker.Function{Name: name})
	}
	return d
}

func (m *testModel) Load(context.Context, string) (worker.Instance, error) { return m, nil }

func (m *testModel) Call(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
	m.mu.Lock()
	m.calls = append(m.calls, c)
	m.mu.Unlock()
	return m.funcs[c.Func](ctx, c)
}

func (m *testModel) Close() error          { return nil }
func (m *testModel) Done() <-chan struct{} { return nil }
func (m *testModel) Err() error            { return nil }

// gate is closed to let a job go on.
func (m *testModel) gate(name string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gates[name] == nil {
		m.gates[name] = make(chan struct{})
	}
	return m.gates[name]
}

// runs is how many functions were begun.
func (m *testModel) runs() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.calls)
}

// A testPod is a pod on a real port, which must hold nothing when the test ends.
type testPod struct {
	*service.Pod
	model *testModel
	dir   string
	addr  string // host:port
	stop  func() // as by SIGTERM
}

func startPod(t *testing.T) *testPod { return startPodIn(t, t.TempDir(), "127.0.0.1:0", nil) }

// startPodIn starts a pod on what another one may have left.
func startPodIn(t *testing.T, dir, addr string, change func(*service.Config)) *testPod {
	t.Helper()
	p := &testPod{model: newTestModel(), dir: dir}
	cfg := service.Config{
		OpenModel:    func(string) (worker.Model, error) { return p.model, nil },
		DataDir:      dir,
		Heartbeat:    200 * time.Millisecond,
		DrainTimeout: 100 * time.Millisecond,
		Pool:         worker.Config{Slots: 100},
		Logger:       slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	pod, err := service.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Pod = pod
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- pod.Serve(ctx, ln) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

// empty checks that no job has left anything.
func (p *testPod) empty(t *testing.T) {
	t.Helper()
	eventually(t, "the spool still holds something", func() (any, bool) {
		return p.Spool(), p.Spool() == spool.Usage{}
	})
}

// eventually fails the test when ok does not become true within five seconds.
func eventually(t *testing.T, what string, ok func() (any, bool)) {
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

// newClient makes a client that doesn't wait for long.
func newClient(t *testing.T, addr string, cfg Config) *Client {
	t.Helper()
	cfg.Addr = addr
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.pace.connect.first = 50 * time.Millisecond
	c.pace.reconnect.first = 2 * time.Millisecond
	c.pace.takeOver = 500 * time.Millisecond
	c.pace.unary = time.Second
	c.pace.probe = 500 * time.Millisecond
	t.Cleanup(c.Close)
	return c
}

// soonSilent makes a client that doesn't wait for long in silence, either.
func soonSilent(t *testing.T, addr string, cfg Config) *Client {
	t.Helper()
	c := newClient(t, addr, cfg)
	c.pace.silence = soon
	return c
}

// clientStacks are the stacks of this package's goroutines, and of HTTP clients.
func clientStacks() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, stack := range strings.Split(string(buf), "\n\n") {
		switch {
		case i == 0, strings.Contains(stack, "testing.tRunner"), strings.Contains(stack, "_test.go"),
			strings.Contains(stack, "service.("), strings.Contains(stack, "net/http.(*conn)"), strings.Contains(stack, "net/http.(*http2server"):
		case strings.Contains(stack, "aipod/client."), strings.Contains(stack, "net/http.(*http2"),
			strings.Contains(stack, "net/http.(*persistConn)"), strings.Contains(stack, "codec.(*ChunkReader)"):
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// events collects what a run tells.
type events struct {
	mu   sync.Mutex
	list []Event
	more chan struct{}
}

func newEvents() *events { return &events{more: make(chan struct{})} }

func (e *events) watch(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	close(e.more)
	e.more = make(chan struct{})
}

// await waits until an event of type T has come that ok likes.
func await[T Event](t *testing.T, e *events, ok func(T) bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		e.mu.Lock()
		list, more := e.list, e.more
		e.mu.Unlock()
		for _, event := range list {
			if got, is := event.(T); is && (ok == nil || ok(got)) {
				return
			}
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("no %T came, but %v", *new(T), e)
		}
	}
}

// all returns the events of one type.
func all[T Event](e *events) []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []T
	for _, event := range e.list {
		if got, ok := event.(T); ok {
			list = append(list, got)
		}
	}
	return list
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, event := range e.list {
		switch event.(type) {
		case Sent, Received:
		default:
			fmt.Fprintf(&b, "\n  %T%+v", event, event)
		}
	}
	return b.String()
}

func sum256(data []byte) string {
	h := sha256.Sum256(data)
	return `"` + hex.EncodeToString(h[:]) + `"`
}
