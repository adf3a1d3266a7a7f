package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeModel is a model whose functions tests steer.
type fakeModel struct {
	load  func(ctx context.Context, version string) error
	call  func(ctx context.Context, c *Call) (json.RawMessage, error)
	loads atomic.Int64
	open  atomic.Int64 // instances loaded and not closed
	peak  atomic.Int64
}

func (m *fakeModel) Describe() Description {
	return Description{Model: "fake", Functions: []Function{{Name: "do"}, {Name: "make", MakesVersion: true}}}
}

func (m *fakeModel) Load(ctx context.Context, version string) (Instance, error) {
	m.loads.Add(1)
	if m.load != nil {
		if err := m.load(ctx, version); err != nil {
			return nil, err
		}
	}
	if n := m.open.Add(1); n > m.peak.Load() {
		m.peak.Store(n)
	}
	return &fakeInstance{model: m, done: make(chan struct{})}, nil
}

type fakeInstance struct {
	model *fakeModel
	done  chan struct{}
	err   error
}

func (i *fakeInstance) Done() <-chan struct{} { return i.done }
func (i *fakeInstance) Err() error            { return i.err }

func (i *fakeInstance) Call(ctx context.Context, c *Call) (json.RawMessage, error) {
	if i.model.call == nil {
		return json.RawMessage(`"done"`), nil
	}
	return i.model.call(ctx, c)
}

func (i *fakeInstance) Close() error {
	i.model.open.Add(-1)
	return nil
}

func testPool(t *testing.T, m *fakeModel, cfg Config) *Pool {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	p := NewPool(m, cfg)
	t.Cleanup(func() {
		if err := p.Close(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if n := m.open.Load(); n != 0 {
			t.Errorf("%d instances were not released", n)
		}
	})
	return p
}

func ignore(Stage) {}

func TestPoolRunsUpToSlotsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, peak atomic.Int64
		m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
			if n := running.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			time.Sleep(time.Second)
			running.Add(-1)
			return nil, nil
		}}
		p := testPool(t, m, Config{Instances: 2, Slots: 3})
		begun := time.Now()
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := peak.Load(); got != 6 {
			t.Errorf("%d calls ran at once, want instances × slots = 6", got)
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("12 calls of 1s in 6 slots took %v, want 2s", took)
		}
		if m.loads.Load() != 2 {
			t.Errorf("%d instances were loaded, want 2", m.loads.Load())
		}
	})
}

func TestPoolLoadsOneInstanceForOneCall(t *testing.T) {
	m := &fakeModel{}
	p := testPool(t, m, Config{Instances: 4, Slots: 1})
	var stages []Stage
	for range 3 {
		if _, err := p.Run(t.Context(), &Call{Func: "do"}, func(s Stage) { stages = append(stages, s) }); err != nil {
			t.Fatal(err)
		}
	}
	if m.loads.Load() != 1 {
		t.Errorf("%d instances were loaded, want 1", m.loads.Load())
	}
	want := "[0 1 2 0 2 0 2]"
	if got := fmt.Sprint(stages); got != want {
		t.Errorf("stages %s, want %s", got, want)
	}
}

func TestPoolQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
			time.Sleep(time.Minute)
			return nil, nil
		}}
		p := testPool(t, m, Config{Instances: 1, Slots: 1, Queue: 2})
		var wg sync.WaitGroup
		for range 3 { // one runs, two wait
			wg.Go(func() {
				if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		var full *QueueFullError
		if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); !errors.As(err, &full) || full.Queue != 2 || full.RetryAfter <= 0 {
			t.Errorf("fourth call: %v, want a QueueFullError with the queue's length", err)
		}
		if err := p.Full(); !errors.As(err, &full) {
			t.Errorf("Full() = %v", err)
		}
		wg.Wait()
		if err := p.Full(); err != nil {
			t.Errorf("Full() of an idle pool = %v", err)
		}
	})
}

func TestPoolWithoutQueueStillLoads(t *testing.T) {
	p := testPool(t, &fakeModel{}, Config{Instances: 1, Slots: 1, Queue: -1})
	if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
		t.Errorf("first call, which waits for its instance only: %v", err)
	}
}

func TestPoolEvictsIdleVersions(t *testing.T) {
	m := &fakeModel{}
	p := testPool(t, m, Config{Instances: 2, Slots: 1})
	for _, v := range []string{"a", "b", "c", "a", "b", "c"} {
		if _, err := p.Run(t.Context(), &Call{Func: "do", Version: v}, ignore); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.peak.Load(); got > 2 {
		t.Errorf("%d instances were open at once", got)
	}
}

// A version that is always busy must not keep another one waiting for ever.
func TestPoolBusyVersionDoesNotStarveOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
			time.Sleep(time.Second)
			return nil, nil
		}}
		p := testPool(t, m, Config{Instances: 1, Slots: 2})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 300 * time.Millisecond)
				for ctx.Err() == nil {
					if _, err := p.Run(ctx, &Call{Func: "do", Version: "busy"}, ignore); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		begun := time.Now()
		if _, err := p.Run(t.Context(), &Call{Func: "do", Version: "other"}, ignore); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the other version waited %v", took)
		}
		stop()
		wg.Wait()
	})
}

func TestPoolLoadFailureEndsAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{load: func(_ context.Context, version string) error {
			time.Sleep(time.Second)
			return &VersionError{Version: version}
		}}
		p := testPool(t, m, Config{Instances: 1, Slots: 1})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				var want *VersionError
				if _, err := p.Run(t.Context(), &Call{Func: "do", Version: "gone"}, ignore); !errors.As(err, &want) {
					t.Errorf("got %v, want a VersionError", err)
				}
			})
		}
		wg.Wait()
		m.load = nil
		if _, err := p.Run(t.Context(), &Call{Func: "do", Version: "there"}, ignore); err != nil {
			t.Errorf("the next version: %v", err)
		}
	})
}

func TestPoolCanceledWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
			time.Sleep(10 * time.Second)
			return nil, nil
		}}
		p := testPool(t, m, Config{Instances: 1, Slots: 1})
		go p.Run(t.Context(), &Call{Func: "do"}, ignore) //nolint:errcheck // it only takes the slot
		synctest.Wait()
		cause := errors.New("the caller left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		begun := time.Now()
		if _, err := p.Run(ctx, &Call{Func: "do"}, ignore); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Minute)
		if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
			t.Errorf("the slot was lost: %v", err)
		}
	})
}

func TestPoolPanic(t *testing.T) {
	panics := true
	m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
		if panics {
			panic("boom")
		}
		return json.RawMessage("1"), nil
	}}
	p := testPool(t, m, Config{Instances: 1, Slots: 1})
	var want *PanicError
	if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); !errors.As(err, &want) || want.Value != "boom" || len(want.Stack) == 0 {
		t.Errorf("got %v, want a PanicError with value and stack", err)
	}
	panics = false
	if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}

func TestPoolCloseWaitsForRunningCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{call: func(ctx context.Context, _ *Call) (json.RawMessage, error) {
			time.Sleep(10 * time.Second)
			return json.RawMessage("1"), ctx.Err()
		}}
		p := testPool(t, m, Config{Instances: 1, Slots: 1})
		results := make(chan error, 2)
		for range 2 { // one runs, one waits
			go func() {
				_, err := p.Run(t.Context(), &Call{Func: "do"}, ignore)
				results <- err
			}()
			synctest.Wait()
		}
		closed := make(chan error, 1)
		go func() { closed <- p.Close(t.Context()) }()
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Errorf("the waiting call: %v, want ErrClosed", err)
		}
		if err := <-results; err != nil {
			t.Errorf("the running call: %v", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); !errors.Is(err, ErrClosed) {
			t.Errorf("a call after Close: %v", err)
		}
	})
}

func TestPoolCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeModel{call: func(context.Context, *Call) (json.RawMessage, error) {
			time.Sleep(time.Hour)
			return nil, nil
		}}
		p := NewPool(m, Config{Logger: slog.New(slog.DiscardHandler)})
		go p.Run(t.Context(), &Call{Func: "do"}, ignore) //nolint:errcheck // it only takes the slot
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestPoolMakesVersionRunsOnDefault(t *testing.T) {
	var loaded []string
	m := &fakeModel{load: func(_ context.Context, v string) error {
		loaded = append(loaded, v)
		return nil
	}}
	p := testPool(t, m, Config{})
	if _, err := p.Run(t.Context(), &Call{Func: "make", Version: "new"}, ignore); err != nil {
		t.Fatal(err)
	}
	if len(loaded) != 1 || loaded[0] != "" {
		t.Errorf("loaded %q, want the default version", loaded)
	}
}

func TestPoolUnknownFunction(t *testing.T) {
	p := testPool(t, &fakeModel{}, Config{})
	_, err := p.Run(t.Context(), &Call{Func: "nope"}, ignore)
	var want *FunctionError
	if !errors.As(err, &want) || err.Error() != `"fake.nope" not implemented yet` {
		t.Errorf("got %v", err)
	}
}
