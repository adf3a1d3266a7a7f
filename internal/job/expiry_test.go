package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

const testTTL = 10 * time.Minute

// wantIDs checks which jobs are there, in the table and on the disk.
func wantIDs(t *testing.T, p *testPod, want ...string) {
	t.Helper()
	synctest.Wait()
	ids := func(p *testPod) map[string]bool {
		m := map[string]bool{}
		for _, j := range p.List() {
			m[j.ID] = true
		}
		return m
	}
	wants := map[string]bool{}
	for _, id := range want {
		wants[id] = true
	}
	if diff := cmp.Diff(wants, ids(p)); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wants, ids(p.crash(t))); diff != "" {
		t.Errorf("jobs that are recorded (-want +got):\n%s", diff)
	}
}

// A job is kept for the TTL after its end, however it ended.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPod(t, t.TempDir(), podConfig{Config: Config{TTL: testTTL}})
		begun := time.Now()
		await(t, p.queue(t, "copy", Spec{Func: "copy"}, pattern(100_000)), Succeeded)
		time.Sleep(time.Minute)
		await(t, p.queue(t, "fail", Spec{Func: "fail"}, pattern(100_000)), Failed)
		time.Sleep(time.Minute)
		j := p.queue(t, "canceled", Spec{Func: "wait"}, nil)
		j.Cancel(ErrCanceled)
		<-j.Done()
		await(t, p.queue(t, "wait", Spec{Func: "wait"}, pattern(100_000)), Running)
		if s := p.get(t, "copy").Snapshot(); !s.Expires.Equal(begun.Add(testTTL)) {
			t.Errorf("%+v, begun %v", s, begun)
		}
		out := p.get(t, "copy").Output()
		time.Sleep(testTTL - 2*time.Minute - 1)
		wantIDs(t, p, "copy", "fail", "canceled", "wait")
		time.Sleep(time.Nanosecond)
		wantIDs(t, p, "fail", "canceled", "wait")
		if n, err := out.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, ErrGone) {
			t.Errorf("read of an output that has expired: %d, %v", n, err)
		}
		time.Sleep(time.Minute)
		wantIDs(t, p, "canceled", "wait")
		time.Sleep(time.Minute)
		wantIDs(t, p, "wait")
		time.Sleep(10 * testTTL)
		wantIDs(t, p, "wait") // for as long as it runs
	})
}

// A restart doesn't change when a job expires.
func TestExpiryAfterRestart(t *testing.T) {
	eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
		p := startPod(t, t.TempDir(), podConfig{Config: Config{TTL: testTTL}})
		await(t, p.queue(t, "a", Spec{Func: "echo"}, nil), Succeeded)
		time.Sleep(testTTL / 2)
		await(t, p.queue(t, "b", Spec{Func: "copy"}, pattern(100_000)), Succeeded)
		p = next(p, t)
		time.Sleep(testTTL/2 - 1)
		wantIDs(t, p, "a", "b")
		time.Sleep(time.Nanosecond)
		wantIDs(t, p, "b")
		p.stop()
		time.Sleep(testTTL) // while no pod is there
		p = startPod(t, p.dir, p.cfg)
		wantIDs(t, p)
	})
}

// A job whose input doesn't come expires; each sign of its caller postpones that.
func TestExpiryOfReceiving(t *testing.T) {
	eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
		p := startPod(t, t.TempDir(), podConfig{Config: Config{TTL: testTTL}})
		p.create(t, "silent", Spec{Func: "echo"})
		j := p.create(t, "j", Spec{Func: "echo"})
		for i := range 4 {
			time.Sleep(testTTL - 1)
			if i == 2 {
				if err := j.Writer().Close(t.Context(), 99, nil); err == nil {
					t.Error("closed with a wrong size")
				}
				continue
			}
			put(t, j, 0, pattern(i+1)) // new or not
		}
		wantIDs(t, p, "j")
		p = next(p, t) // which counts as a sign, too: the caller could send nothing meanwhile
		j = p.get(t, "j")
		time.Sleep(testTTL - 1)
		wantIDs(t, p, "j")
		time.Sleep(time.Nanosecond)
		wantIDs(t, p)
		if _, err := j.Writer().Put(0, pattern(10)); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("put after it has expired: %v", err)
		}
		if _, err := j.Result(); !errors.Is(err, ErrDeleted) {
			t.Errorf("it ended with %v", err)
		}
		// An input that is complete is no reason to expire any more.
		j = p.queue(t, "k", Spec{Func: "wait"}, pattern(10))
		time.Sleep(2 * testTTL)
		await(t, j, Running)
	})
}

// A job can be deleted in every state. Nothing of it is left, and nothing brings
// it back.
func TestDelete(t *testing.T) {
	release := func() (function, func()) { // a function that ignores its context
		c := make(chan struct{})
		return func(_ context.Context, call *worker.Call) (json.RawMessage, error) {
			w, err := call.OpenOutput()
			if err != nil {
				return nil, err
			}
			_, _ = w.Write(pattern(100_000))
			<-c
			call.Logf("still here")
			_, werr := w.Write(pattern(10))
			if werr == nil {
				return nil, errors.New("it could write")
			}
			return json.RawMessage(`1`), nil
		}, func() { close(c) }
	}
	for _, large := range []bool{false, true} {
		input := pattern(100)
		if large {
			input = pattern(recordedInput + 1)
		}
		for _, tt := range []struct {
			name    string
			prepare func(t *testing.T, p *testPod) *Job
		}{
			{"receiving nothing", func(t *testing.T, p *testPod) *Job {
				return p.create(t, "j", Spec{Func: "echo"})
			}},
			{"receiving", func(t *testing.T, p *testPod) *Job {
				j := p.create(t, "j", Spec{Func: "echo"})
				put(t, j, 0, input)
				return j
			}},
			{"queued", func(t *testing.T, p *testPod) *Job {
				await(t, p.queue(t, "before", Spec{Func: "wait"}, nil), Running)
				j := p.queue(t, "j", Spec{Func: "echo"}, input)
				await(t, j, Queued)
				return j
			}},
			{"running", func(t *testing.T, p *testPod) *Job {
				j := p.queue(t, "j", Spec{Func: "wait"}, input)
				await(t, j, Running)
				return j
			}},
			{"ignoring", func(t *testing.T, p *testPod) *Job {
				j := p.queue(t, "j", Spec{Func: "ignore"}, input)
				synctest.Wait()
				if j.Output() == nil {
					t.Error("it has no output yet")
				}
				return j
			}},
			{"canceled and ignoring", func(t *testing.T, p *testPod) *Job {
				j := p.queue(t, "j", Spec{Func: "ignore"}, input)
				await(t, j, Running)
				j.Cancel(ErrCanceled)
				<-j.Done()
				return j
			}},
			{"succeeded", func(t *testing.T, p *testPod) *Job {
				j := p.queue(t, "j", Spec{Func: "copy"}, input)
				await(t, j, Succeeded)
				return j
			}},
			{"failed", func(t *testing.T, p *testPod) *Job {
				j := p.queue(t, "j", Spec{Func: "fail"}, input)
				await(t, j, Failed)
				return j
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ignore, end := release()
					p := startPod(t, t.TempDir(), podConfig{
						Config: Config{TTL: testTTL}, slots: 1, functions: map[string]function{"ignore": ignore},
					})
					j := tt.prepare(t, p)
					out, had := j.Output(), j.State()
					_, before := j.Result()
					for range 2 { // the second time there is nothing
						if err := p.Delete("j"); err != nil {
							t.Error(err)
						}
					}
					<-j.Done()
					if _, err := p.Get("j"); !errors.Is(err, ErrNotFound) {
						t.Errorf("it is there: %v", err)
					}
					_, err := j.Result()
					switch {
					case had.Final():
						if j.State() != had || !errors.Is(err, before) {
							t.Errorf("it was %v, %v, and is %v, %v", had, before, j.State(), err)
						}
					case j.State() != Canceled || !errors.Is(err, ErrDeleted):
						t.Errorf("it ended as %v, %v", j.State(), err)
					}
					if out != nil {
						if _, err := io.ReadAll(io.NewSectionReader(out, 0, 10)); !errors.Is(err, ErrGone) {
							t.Errorf("read of its output: %v", err)
						}
					}
					events := j.events.last()
					// Its name is another's when its function ends, and its timers fire.
					next := p.queue(t, "j", Spec{Func: "copy"}, input)
					end()
					if had == Queued {
						p.get(t, "before").Cancel(ErrCanceled)
					}
					wantOutput(t, next, input)
					synctest.Wait()
					if n := j.events.last(); n != events {
						t.Errorf("%d events after its end", n-events)
					}
					time.Sleep(testTTL - 1)
					wantOutput(t, next, input)
					wantOutput(t, p.crash(t).get(t, "j"), input)
					time.Sleep(time.Nanosecond)
					wantIDs(t, p)
				})
			})
		}
	}
}
