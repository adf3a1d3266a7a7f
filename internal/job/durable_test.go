package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/worker"
)

// A durable job's way from its creation to its end, as its callers see it and as
// it is recorded.
func TestDurableJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := startPod(t, t.TempDir(), podConfig{Config: Config{TTL: testTTL}})
		j := p.create(t, "j", Spec{Func: "wait"})
		put(t, j, 0, pattern(10))
		want := Snapshot{State: Receiving, Committed: 10, LastSeq: 1, WorkerAge: -1, Created: start}
		check := func() {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, j.Snapshot()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if s := recordOf(t, p, "j"); s.State != want.State || s.Attempt != want.Attempt || !s.Ended.Equal(want.Ended) {
				t.Errorf("recorded is %+v, want %+v", s, want)
			}
		}
		check()
		time.Sleep(time.Second)
		closeInput(t, j, pattern(10))
		want.State, want.Attempt, want.LastSeq, want.Started = Running, 1, 5, time.Now() // queued, loading, running, progress
		want.Progress, want.WorkerAge = &Progress{Done: 1, Total: 2, Unit: "steps"}, 0
		check()
		time.Sleep(time.Second)
		want.WorkerAge = time.Second
		check()
		j.Cancel(ErrCanceled)
		<-j.Done()
		want.State, want.LastSeq, want.WorkerAge, want.Ended = Canceled, 6, -1, time.Now()
		want.Expires = want.Ended.Add(testTTL)
		check()
	})
}

// recordOf is what the store has of a job.
func recordOf(t *testing.T, p *testPod, id string) *record {
	t.Helper()
	s, entries, _, err := openStore(filepath.Join(p.copy(t), "jobs.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, e := range entries {
		if e.id == id {
			r, err := decodeRecord(e.value)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatalf("no record of %s", id)
	return nil
}

// A cancellation is the job's end in every state, also for the next process.
func TestCancel(t *testing.T) {
	for _, state := range []State{Receiving, Queued, Running, Succeeded, Failed, Canceled} {
		t.Run(state.String(), func(t *testing.T) {
			eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
				p := startPod(t, t.TempDir(), podConfig{slots: 1})
				name := map[State]string{Succeeded: "copy", Failed: "fail"}[state]
				if name == "" {
					name = "wait"
				}
				if state == Queued {
					await(t, p.queue(t, "before", Spec{Func: "wait"}, nil), Running)
				}
				j := p.create(t, "j", Spec{Func: name})
				put(t, j, 0, pattern(100_000))
				if state != Receiving {
					closeInput(t, j, pattern(100_000))
				}
				if state == Canceled {
					j.Cancel(errors.New("the first reason"))
				}
				await(t, j, state)
				synctest.Wait()
				j.Cancel(ErrCanceled)
				j.Cancel(errors.New("too late"))
				<-j.Done()
				synctest.Wait()
				want, reason := Canceled, ErrCanceled.Error()
				switch state {
				case Succeeded, Failed:
					want, reason = state, map[State]string{Succeeded: "<nil>", Failed: "it went wrong"}[state]
				case Canceled:
					reason = "the first reason"
				}
				for range 2 {
					_, err := j.Result()
					if j.State() != want || fmt.Sprint(err) != reason {
						t.Errorf("%v, %v, want %v, %s", j.State(), err, want, reason)
					}
					p = next(p, t)
					j = p.get(t, "j")
				}
			})
		})
	}
}

// A cancellation wins over what is being recorded at the same time, or loses, but
// the record and what callers are told are the same.
func TestCancelAtOnce(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	ends := map[State]int{}
	for i := range 40 {
		j := p.create(t, fmt.Sprint(i), Spec{Func: "echo"})
		put(t, j, 0, pattern(10))
		go func() { _ = j.Writer().Close(t.Context(), 10, nil) }()
		for range i * 20 {
			_ = j.State() // as a way to pass some time
		}
		j.Cancel(ErrCanceled)
		<-j.Done()
		ends[j.State()]++
	}
	t.Logf("%v", ends)
	states := map[string]State{}
	for _, j := range p.List() {
		states[j.ID] = j.State()
	}
	p = p.restart(t)
	got := map[string]State{}
	for _, j := range p.List() {
		got[j.ID] = j.State()
	}
	if diff := cmp.Diff(states, got); diff != "" {
		t.Errorf("states (-told +recorded):\n%s", diff)
	}
}

// A cancellation that comes while a record is being written isn't undone by it.
func TestCancelWhileRecording(t *testing.T) {
	for _, state := range []State{Queued, Running} {
		synctest.Test(t, func(t *testing.T) {
			p := startPod(t, t.TempDir(), podConfig{})
			j := p.create(t, "j", Spec{Func: "wait"})
			j.mu.Lock()
			j.ending = true // as Cancel does first
			j.mu.Unlock()
			err := j.record(func(r *record) { r.State = state })
			if !errors.Is(err, errEnded) {
				t.Errorf("recorded as %v: %v", state, err)
			}
			if r := recordOf(t, p, "j"); r.State != Receiving {
				t.Errorf("recorded is %v", r.State)
			}
			j.mu.Lock()
			j.ending = false
			j.mu.Unlock()
		})
	}
}

// A job that is deleted while its end is being recorded ends once.
func TestDeleteWhileEnding(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	for i := range 100 {
		j := p.create(t, "j", Spec{Func: "echo"})
		if i%2 == 0 {
			j.Cancel(ErrCanceled)
		} else {
			closeInput(t, j, nil)
		}
		if err := p.Delete("j"); err != nil {
			t.Fatal(err)
		}
		<-j.Done()
	}
}

// A shutdown leaves durable jobs that wait to the next process, and waits for
// those that run.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		p := startPod(t, t.TempDir(), podConfig{slots: 1, functions: map[string]function{
			"slow": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
				<-finish
				return json.RawMessage(`"done"`), nil
			},
		}})
		running := p.queue(t, "running", Spec{Func: "slow"}, pattern(10))
		await(t, running, Running)
		queued := p.queue(t, "queued", Spec{Func: "train"}, pattern(10))
		await(t, queued, Queued)
		receiving := p.create(t, "receiving", Spec{Func: "echo"})
		put(t, receiving, 0, pattern(10))
		drained := make(chan error)
		go func() { drained <- p.Drain(t.Context()) }()
		synctest.Wait()
		closeInput(t, receiving, pattern(10)) // which the caller may do, and nobody runs it
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, j := range []*Job{queued, receiving} {
			if s := j.State(); s != Queued {
				t.Errorf("%s is %v", j.ID, s)
			}
		}
		select {
		case err := <-drained:
			t.Fatalf("drained while a function ran: %v", err)
		default:
		}
		close(finish)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		wantResult(t, running, `"done"`)
		// What has ended is recorded when Drain returns.
		for id, want := range map[string]State{"running": Succeeded, "queued": Queued, "receiving": Queued} {
			if r := recordOf(t, p, id); r.State != want {
				t.Errorf("%s is recorded as %v", id, r.State)
			}
		}
		p = p.restart(t)
		wantResult(t, p.get(t, "running"), `"done"`)
		wantRunningAgain(t, p.get(t, "queued"), 1)
		p.get(t, "queued").Cancel(ErrCanceled)
		wantResult(t, p.get(t, "receiving"), echoed(pattern(10)))
	})
}

func wantRunningAgain(t *testing.T, j *Job, attempt int) {
	t.Helper()
	await(t, j, Running)
	if s := j.Snapshot(); s.Attempt != attempt {
		t.Errorf("%s: %+v, want attempt %d", j.ID, s, attempt)
	}
}

// Durable jobs that Drain doesn't wait for are run again; jobs without a name end.
func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{
			"ignore": func(context.Context, *worker.Call) (json.RawMessage, error) {
				<-finish
				return json.RawMessage(`"in time"`), nil
			},
		}})
		running := p.queue(t, "running", Spec{Func: "wait"}, pattern(10))
		ignoring := p.queue(t, "ignoring", Spec{Func: "ignore"}, pattern(10))
		failing := p.create(t, "failing", Spec{Func: "echo", SHA256: sumOf(nil)})
		put(t, failing, 0, pattern(10))
		unnamed := openJob(t, p.Table)
		if err := unnamed.Start(Spec{Func: "wait"}); err != nil {
			t.Fatal(err)
		}
		for _, j := range []*Job{running, ignoring, unnamed} {
			await(t, j, Running)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drained: %v", err)
		}
		<-unnamed.Done()
		if _, err := unnamed.Result(); !errors.Is(err, ErrShutdown) {
			t.Errorf("the job without a name: %v", err)
		}
		unnamed.Close()
		synctest.Wait()
		for _, j := range []*Job{running, ignoring} {
			if s := j.Snapshot(); s.State != Running {
				t.Errorf("%s: %+v", j.ID, s)
			}
			if r := recordOf(t, p, j.ID); r.State != Running || r.Attempt != 1 {
				t.Errorf("recorded is %+v", r)
			}
		}
		// An input that is wrong is so also now, and a cancellation is the caller's.
		_ = failing.Writer().Close(t.Context(), 10, nil)
		if _, err := failing.Result(); failing.State() != Failed || !errors.As(err, new(*worker.InputError)) {
			t.Errorf("with a wrong input: %v, %v", failing.State(), err)
		}
		// A function that makes it before the process ends has made it.
		close(finish)
		wantResult(t, ignoring, `"in time"`)
		p = p.restart(t)
		wantResult(t, p.get(t, "ignoring"), `"in time"`)
		wantRunningAgain(t, p.get(t, "running"), 2)
		p.Refuse()
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_ = p.Drain(ctx)
		j := p.get(t, "running")
		j.Cancel(ErrCanceled)
		<-j.Done()
		if _, err := j.Result(); j.State() != Canceled || !errors.Is(err, ErrCanceled) {
			t.Errorf("canceled after Drain: %v, %v", j.State(), err)
		}
	})
}

// A pool that closes before the table fails no durable job.
func TestPoolClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPod(t, t.TempDir(), podConfig{slots: 1})
		await(t, p.queue(t, "running", Spec{Func: "wait"}, nil), Running)
		j := p.queue(t, "queued", Spec{Func: "echo"}, nil)
		closed := make(chan error)
		go func() { closed <- p.pool.Close(t.Context()) }()
		synctest.Wait()
		if s := j.State(); s != Queued {
			t.Errorf("the queued job is %v", s)
		}
		p.get(t, "running").Cancel(ErrCanceled)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		p.pool = worker.NewPool(p.cfg, worker.Config{}) // for stop
	})
}

// Jobs without a name cost no record and no fsync.
func TestUnnamedIsNotRecorded(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	n := p.store.transactions()
	for _, name := range []string{"echo", "copy", "long", "fail"} {
		j := openJob(t, p.Table)
		w := j.Writer()
		if _, err := w.Put(0, pattern(2<<20)); err != nil {
			t.Fatal(err)
		}
		j.spec.Func = name
		if err := w.Close(t.Context(), 2<<20, nil); err != nil {
			t.Fatal(err)
		}
		<-j.Done()
		j.Close()
		if _, err := p.Get(j.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("it can be found: %v", err)
		}
	}
	if got := p.store.transactions(); got != n {
		t.Errorf("%d transactions", got-n)
	}
	p.checkFiles(t)
	p.create(t, "j", Spec{Func: "echo"})
	if got := p.store.transactions(); got != n+1 {
		t.Errorf("%d transactions for a durable job", got-n)
	}
}

// BenchmarkNamedJobs runs small jobs from Create to Done: named ones, which are
// recorded as they are queued, begun and ended, and unnamed ones, which are not.
func BenchmarkNamedJobs(b *testing.B) {
	input := pattern(1024)
	crc := checksumOf(input)
	for _, named := range []bool{true, false} {
		b.Run(fmt.Sprintf("named=%v", named), func(b *testing.B) {
			p := startPod(b, b.TempDir(), podConfig{slots: 64})
			before := p.store.transactions()
			var n atomic.Int64
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					var j *Job
					var err error
					if named {
						j, _, err = p.Create(fmt.Sprintf("job-%d", n.Add(1)), Spec{Func: "echo", Size: -1})
					} else {
						j, err = p.Open(Spec{Func: "echo", Size: -1})
					}
					if err != nil {
						b.Fatal(err)
					}
					w := j.Writer()
					if _, err := w.Put(0, input); err != nil {
						b.Fatal(err)
					}
					if err := w.Close(b.Context(), int64(len(input)), &crc); err != nil {
						b.Fatal(err)
					}
					<-j.Done()
					if _, err := j.Result(); err != nil {
						b.Fatal(err)
					}
					if !named {
						j.Close()
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			b.ReportMetric(float64(p.store.transactions()-before)/float64(b.N), "transactions/job")
		})
	}
}
