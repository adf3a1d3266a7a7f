package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A mortal model's instances die when tests say so.
type mortal struct {
	fakeModel
	mu        sync.Mutex
	instances []*fakeInstance
	versions  []string    // that were loaded
	loaded    []time.Time // when
}

func (m *mortal) Load(ctx context.Context, version string) (Instance, error) {
	m.mu.Lock()
	m.versions, m.loaded = append(m.versions, version), append(m.loaded, time.Now())
	m.mu.Unlock()
	inst, err := m.fakeModel.Load(ctx, version)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instances = append(m.instances, inst.(*fakeInstance))
	return inst, nil
}

// end ends the instance that was loaded last.
func (m *mortal) end(err error) {
	m.mu.Lock()
	inst := m.instances[len(m.instances)-1]
	m.mu.Unlock()
	inst.err = err
	close(inst.done)
	synctest.Wait()
}

// health records what a pool tells of versions.
type health struct {
	mu   sync.Mutex
	told []string
}

func (h *health) onVersion(version string, up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, fmt.Sprint(version, " ", up))
}

func (h *health) check(t *testing.T, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.told, want) {
		t.Errorf("told of versions: %q, want %q", h.told, want)
	}
}

var errCrash = &CrashError{What: "the worker", How: "signal 9 (killed)"}

func TestVersionThatDiesAtEachCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		m.call = func(_ context.Context, c *Call) (json.RawMessage, error) {
			if c.Version == "bad" {
				m.end(errCrash)
				return nil, errCrash
			}
			return json.RawMessage(`"fine"`), nil
		}
		var h health
		p := testPool(t, &m.fakeModel, Config{OnVersion: h.onVersion})
		p.model = &m
		var pauses []time.Duration
		for n := range 12 {
			begun := time.Now()
			_, err := p.Run(t.Context(), &Call{Func: "do", Version: "bad"}, ignore)
			var crash *CrashError
			if !errors.As(err, &crash) {
				t.Fatalf("call %d: %v", n, err)
			}
			pauses = append(pauses, m.loaded[len(m.loaded)-1].Sub(begun))
			if n == 1 {
				h.check(t)
			}
			if n == 2 {
				h.check(t, "bad false")
			}
			// Other versions serve, and do not wait.
			begun = time.Now()
			value, err := p.Run(t.Context(), &Call{Func: "do", Version: "good"}, ignore)
			if err != nil || string(value) != `"fine"` || time.Since(begun) > 0 {
				t.Errorf("another version: %s, %v after %v", value, err, time.Since(begun))
			}
		}
		h.check(t, "bad false")
		for n, pause := range pauses {
			full := min(firstPause<<max(n-1, 0), lastPause)
			if n == 0 {
				full = 0
			}
			if pause < full/2 || pause > full {
				t.Errorf("pause %d is %v, want half of %v to all of it", n, pause, full)
			}
		}
	})
}

func TestVersionComesUpByACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		dies := true
		m.call = func(context.Context, *Call) (json.RawMessage, error) {
			if dies {
				m.end(errCrash)
				return nil, errCrash
			}
			return nil, &InputError{Reason: "a function may well fail"}
		}
		var h health
		p := testPool(t, &m.fakeModel, Config{OnVersion: h.onVersion})
		p.model = &m
		for range 3 {
			_, _ = p.Run(t.Context(), &Call{Func: "do", Version: "v"}, ignore)
		}
		h.check(t, "v false")
		dies = false
		_, _ = p.Run(t.Context(), &Call{Func: "do", Version: "v"}, ignore)
		h.check(t, "v false", "v true")
	})
}

// TestVersionComesUpByItself gets no calls while it is down, as behind a balancer
// that asks for its health.
func TestVersionComesUpByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		m.call = func(context.Context, *Call) (json.RawMessage, error) {
			m.end(errCrash)
			return nil, errCrash
		}
		var h health
		p := testPool(t, &m.fakeModel, Config{OnVersion: h.onVersion})
		p.model = &m
		for range 3 {
			_, _ = p.Run(t.Context(), &Call{Func: "do", Version: "v"}, ignore)
		}
		h.check(t, "v false")
		time.Sleep(reprieve)
		h.check(t, "v false")
		time.Sleep(time.Second)
		synctest.Wait()
		h.check(t, "v false", "v true")
		if n := m.loads.Load(); n != 4 {
			t.Errorf("%d loads, want one that nobody has asked for", n)
		}
	})
}

func TestVersionThatDiesAtItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		m.load = func(_ context.Context, version string) error {
			if version == "bad" {
				return errCrash
			}
			return nil
		}
		var h health
		p := testPool(t, &m.fakeModel, Config{OnVersion: h.onVersion})
		p.model = &m
		_, err := p.Run(t.Context(), &Call{Func: "do", Version: "bad"}, ignore)
		var crash *CrashError
		if !errors.As(err, &crash) {
			t.Fatalf("got %v", err)
		}
		if n := m.loads.Load(); n != maxStarts {
			t.Errorf("%d starts, want %d", n, maxStarts)
		}
		synctest.Wait()
		h.check(t, "bad false")
		if _, err := p.Run(t.Context(), &Call{Func: "do"}, ignore); err != nil {
			t.Errorf("another version: %v", err)
		}
	})
}

func TestInstanceIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		var h health
		p := testPool(t, &m.fakeModel, Config{Instances: 1, Slots: 2, OnVersion: h.onVersion})
		p.model = &m
		release := make(chan struct{})
		m.call = func(_ context.Context, c *Call) (json.RawMessage, error) {
			if c.JobID == "long" {
				<-release
			}
			return nil, nil
		}
		ended := make(chan error, 2)
		go func() {
			_, err := p.Run(t.Context(), &Call{Func: "do", JobID: "long"}, ignore)
			ended <- err
		}()
		synctest.Wait()
		m.end(nil) // it wants to be replaced, but a call runs
		go func() {
			_, err := p.Run(t.Context(), &Call{Func: "do", JobID: "next"}, ignore)
			ended <- err
		}()
		synctest.Wait()
		if m.loads.Load() != 1 || m.open.Load() != 1 || len(ended) != 0 {
			t.Errorf("%d loads, %d instances, %d calls ended before the old instance is idle", m.loads.Load(), m.open.Load(), len(ended))
		}
		close(release)
		synctest.Wait()
		if m.loads.Load() != 2 || m.open.Load() != 1 || m.peak.Load() != 1 || len(ended) != 2 {
			t.Errorf("%d loads, %d instances, %d at the most, %d calls ended", m.loads.Load(), m.open.Load(), m.peak.Load(), len(ended))
		}
		h.check(t)
	})
}

func TestInstancesOfAMadeVersionAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mortal
		p := testPool(t, &m.fakeModel, Config{Instances: 4})
		p.model = &m
		for _, c := range []*Call{
			{Func: "do", Version: "a"}, {Func: "do", Version: "b"},
			{Func: "make", Version: "a"}, {Func: "do", Version: "a"}, {Func: "do", Version: "b"},
		} {
			if _, err := p.Run(t.Context(), c, ignore); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if want := []string{"a", "b", "", "a"}; !slices.Equal(m.versions, want) {
			t.Errorf("loaded %q, want %q", m.versions, want)
		}
	})
}
