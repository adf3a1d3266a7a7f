package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// runFunc is a Runner that tests steer.
type runFunc func(ctx context.Context, c *worker.Call, observe func(worker.Stage)) (json.RawMessage, error)

func (f runFunc) Run(ctx context.Context, c *worker.Call, observe func(worker.Stage)) (json.RawMessage, error) {
	return f(ctx, c, observe)
}

func (runFunc) Position(*worker.Call) int { return 0 }
func (runFunc) Full() error               { return nil }

// testTable is a table whose spool must be empty when the test ends.
func testTable(t *testing.T, run runFunc) *Table {
	t.Helper()
	s, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if diff := cmp.Diff(spool.Usage{}, s.Usage()); diff != "" {
			t.Errorf("the spool still holds something (-want +got):\n%s", diff)
		}
	})
	table, err := NewTable(Config{Spool: s, Runner: run, EventTail: 4, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func open(t *testing.T, table *Table, payload string) *Job {
	t.Helper()
	j, err := table.Open(Spec{Func: "do"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(j.Input(), payload); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJobRuns(t *testing.T) {
	table := testTable(t, func(_ context.Context, c *worker.Call, observe func(worker.Stage)) (json.RawMessage, error) {
		observe(worker.Queued)
		observe(worker.Running)
		c.Progress(1, 2, "rows", "")
		c.Logf("half way")
		r, err := c.Input.Open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		return json.Marshal(string(data))
	})
	j := open(t, table, "the payload")
	if err := j.Start(Spec{}); err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	result, err := j.Result()
	if err != nil || string(result.JSON) != `"the payload"` {
		t.Errorf("result %s, %v", result.JSON, err)
	}
	if j.State() != Succeeded {
		t.Errorf("state %v", j.State())
	}
	events, _ := j.Events(2) // RECEIVING and QUEUED are 1 and 2
	var got []string
	for _, e := range events {
		switch {
		case e.Progress != nil:
			got = append(got, "progress "+e.Progress.Unit)
		case e.Log != nil:
			got = append(got, "log "+e.Log.Text)
		default:
			got = append(got, e.State.String())
		}
	}
	want := []string{"RUNNING", "progress rows", "log half way", "SUCCEEDED"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	j.Close()
	if table.Len() != 0 {
		t.Errorf("%d jobs are left in the table", table.Len())
	}
}

func TestJobOutput(t *testing.T) {
	table := testTable(t, func(_ context.Context, c *worker.Call, _ func(worker.Stage)) (json.RawMessage, error) {
		w, err := c.OpenOutput()
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(w, "bytes")
		return nil, err
	})
	j := open(t, table, "")
	defer j.Close()
	if err := j.Start(Spec{}); err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	result, err := j.Result()
	if err != nil || result.Output == nil || result.Output.Size() != 5 {
		t.Errorf("result %+v, %v", result, err)
	}
}

func TestJobFailureDropsOutput(t *testing.T) {
	cause := errors.New("no")
	table := testTable(t, func(_ context.Context, c *worker.Call, _ func(worker.Stage)) (json.RawMessage, error) {
		w, err := c.OpenOutput()
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(make([]byte, 2<<20)); err != nil {
			return nil, err
		}
		return nil, cause
	})
	j := open(t, table, "x")
	defer j.Close()
	if err := j.Start(Spec{}); err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	if _, err := j.Result(); !errors.Is(err, cause) || j.State() != Failed {
		t.Errorf("%v, state %v", err, j.State())
	}
}

func TestJobClosedBeforeItsInputIsComplete(t *testing.T) {
	table := testTable(t, nil)
	j := open(t, table, string(make([]byte, 3<<20)))
	j.Close()
	if j.State() != Canceled {
		t.Errorf("state %v", j.State())
	}
	if err := j.Start(Spec{}); err == nil {
		t.Error("a closed job was started")
	}
}

// The caller of a job learns at once that it was canceled, whatever the
// function does; what the function holds is freed when it returns.
func TestJobFunctionIgnoresCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := testTable(t, func(_ context.Context, c *worker.Call, _ func(worker.Stage)) (json.RawMessage, error) {
			time.Sleep(time.Hour)
			w, err := c.OpenOutput()
			if err != nil {
				return nil, err
			}
			_, err = w.Write(make([]byte, 2<<20))
			return nil, err
		})
		j := open(t, table, string(make([]byte, 3<<20)))
		if err := j.Start(Spec{}); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("gone")
		j.Cancel(cause)
		<-j.Done()
		if _, err := j.Result(); !errors.Is(err, cause) || j.State() != Canceled {
			t.Errorf("%v, state %v", err, j.State())
		}
		j.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := table.Drain(ctx); err == nil {
			t.Error("drained while the function still ran")
		}
		if err := table.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTableDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := testTable(t, func(ctx context.Context, _ *worker.Call, _ func(worker.Stage)) (json.RawMessage, error) {
			select {
			case <-time.After(10 * time.Second):
				return json.RawMessage("1"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		j := open(t, table, "x")
		if err := j.Start(Spec{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- table.Drain(ctx) }()
		synctest.Wait()
		if _, err := table.Open(Spec{Func: "do"}); !errors.Is(err, ErrDraining) {
			t.Errorf("a new job: %v, want ErrDraining", err)
		}
		if err := <-drained; err == nil {
			t.Error("drained with a job that runs for longer")
		}
		<-j.Done()
		if _, err := j.Result(); !errors.Is(err, ErrShutdown) {
			t.Errorf("the job: %v, want ErrShutdown", err)
		}
		j.Close()
		synctest.Wait()
	})
}

func TestDroppedEventsAreNotKept(t *testing.T) {
	table := testTable(t, func(_ context.Context, c *worker.Call, _ func(worker.Stage)) (json.RawMessage, error) {
		for i := range int64(1000) {
			c.Progress(i, 1000, "rows", "")
		}
		return json.RawMessage("1"), nil
	})
	j := open(t, table, "")
	defer j.Close()
	j.DropEvents()
	if err := j.Start(Spec{Func: "do"}); err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	if events, lost := j.Events(0); len(events) != 0 || !lost {
		t.Errorf("%d events, lost %v; want none, and to be told so", len(events), lost)
	}
	s := j.Snapshot()
	if s.Progress == nil || s.Progress.Done != 999 || s.LastSeq < 1000 {
		t.Errorf("progress %v, last number %d; both go on without events", s.Progress, s.LastSeq)
	}
}

func TestEventLogIsBounded(t *testing.T) {
	l := newEventLog(4)
	for range 1000 {
		l.add(Event{})
		events, _ := l.since(0)
		if len(events) > 8 {
			t.Fatalf("%d events are kept", len(events))
		}
		for i, e := range events {
			if want := l.seq - uint64(len(events)-1-i); e.Seq != want {
				t.Fatalf("event %d has the number %d, want %d", i, e.Seq, want)
			}
		}
	}
	if events, lost := l.since(998); lost || len(events) != 2 || events[0].Seq != 999 {
		t.Errorf("since(998) = %v, lost %v", events, lost)
	}
	if events, lost := l.since(1); !lost || len(events) == 0 || events[len(events)-1].Seq != 1000 {
		t.Errorf("since(1) = %v, lost %v", events, lost)
	}
	if events, lost := l.since(5000); !lost || len(events) == 0 {
		t.Errorf("since a number that was never given = %v, lost %v", events, lost)
	}
}
