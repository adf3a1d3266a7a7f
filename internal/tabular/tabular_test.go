package tabular

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

func openModel(t testing.TB, dir string) *Model {
	t.Helper()
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A run is a call's doing, as the pool would see it.
type run struct {
	mu       sync.Mutex
	progress []string
	lines    []string
	output   *bytes.Buffer // nil when it was not opened
	onReport func()        // nil, or called at each progress
}

func (r *run) Progress(done, total int64, unit, _ string) {
	r.mu.Lock()
	r.progress = append(r.progress, fmt.Sprintf("%d/%d %s", done, total, unit))
	r.mu.Unlock()
	if r.onReport != nil {
		r.onReport()
	}
}

func (r *run) Alive() {}

func (r *run) Log(_ slog.Level, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func newBlob(t testing.TB, payload []byte) *spool.Blob {
	t.Helper()
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), Inline: max(len(payload), 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(0)
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	b, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Remove(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// do runs a function on the base instance; kwargs may be "".
func (r *run) do(ctx context.Context, t testing.TB, m *Model, name, kwargs string, payload []byte) (json.RawMessage, error) {
	t.Helper()
	return r.on(ctx, m, &worker.Call{Func: name, Kwargs: json.RawMessage(kwargs), Input: newBlob(t, payload)})
}

// on runs a call on the base instance.
func (r *run) on(ctx context.Context, m *Model, c *worker.Call) (json.RawMessage, error) {
	i, err := m.Load(context.Background(), "")
	if err != nil {
		return nil, err
	}
	c.Report = r
	c.OpenOutput = func() (io.Writer, error) {
		if r.output == nil {
			r.output = new(bytes.Buffer)
		}
		return r.output, nil
	}
	return i.Call(ctx, c)
}

func do(t testing.TB, m *Model, name, kwargs string, payload []byte) (json.RawMessage, error) {
	t.Helper()
	return new(run).do(context.Background(), t, m, name, kwargs, payload)
}

// must runs a function that has to succeed and decodes its result.
func must[T any](t testing.TB, m *Model, name, kwargs string, payload []byte) T {
	t.Helper()
	data, err := do(t, m, name, kwargs, payload)
	if err != nil {
		t.Fatalf("%s %s: %v", name, kwargs, err)
	}
	var result T
	if err := json.Unmarshal(data, &result); err != nil {
		t.Fatalf("%s %s: %v", name, kwargs, err)
	}
	return result
}

// wantInputError asserts that the caller is told where and what.
func wantInputError(t *testing.T, err error, parts ...string) {
	t.Helper()
	var input *worker.InputError
	if !errors.As(err, &input) {
		t.Fatalf("error is %v, not an InputError", err)
	}
	for _, p := range parts {
		if !strings.Contains(input.Reason, p) {
			t.Errorf("error %q does not say %q", input.Reason, p)
		}
	}
}
