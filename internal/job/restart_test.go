package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/aipod/aipod/internal/worker"
)

// The ways in which a process ends.
var ends = map[string]func(p *testPod, t testing.TB) *testPod{
	"crash": (*testPod).crash,
	"stop":  (*testPod).restart,
}

func eachEnd(t *testing.T, test func(t *testing.T, next func(p *testPod, t testing.TB) *testPod)) {
	for name, next := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, next) })
		})
	}
}

// What a durable job has received is there after a restart, and it goes on from
// there, also with bytes that were sent before.
func TestRestartReceiving(t *testing.T) {
	data := pattern(recordedInput + 1000)
	for _, size := range []int{0, 1, 1000, recordedInput, recordedInput + 1, len(data)} {
		for _, had := range []int{0, size / 2, size} {
			t.Run(fmt.Sprintf("%d_of_%d", had, size), func(t *testing.T) {
				eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
					p := startPod(t, t.TempDir(), podConfig{})
					j := p.create(t, "j", Spec{Func: "echo", Kwargs: json.RawMessage(`{"a":[1,"<"]}`)})
					put(t, j, 0, data[:had])
					for range 2 {
						p = next(p, t)
						j = p.get(t, "j")
						s := j.Snapshot()
						if s.State != Receiving || s.Committed != int64(had) || s.Attempt != 0 {
							t.Fatalf("after the restart: %+v", s)
						}
					}
					put(t, j, had/2, data[had/2:size])
					closeInput(t, j, data[:size])
					wantResult(t, j, echoed(data[:size]))
				})
			})
		}
	}
}

// Jobs that wait are run by the next process in the order in which they came.
func TestRestartQueued(t *testing.T) {
	eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
		p := startPod(t, t.TempDir(), podConfig{slots: 1})
		await(t, p.queue(t, "first", Spec{Func: "wait"}, nil), Running)
		want := []string{"first"}
		for i := range 9 { // with ids that aren't in order
			time.Sleep(time.Second)
			id := fmt.Sprintf("j%d", 9-i)
			p.queue(t, id, Spec{Func: "echo"}, pattern(i*10_000))
			want = append(want, id)
		}
		var mu sync.Mutex
		var got []string
		run := func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %d", c.JobID, c.Input.Size()))
			return c.Kwargs, nil
		}
		p = next(p.with("echo", run).with("wait", run), t)
		for i, id := range want {
			j := p.get(t, id)
			await(t, j, Succeeded)
			wantAttempt := 1
			if i == 0 {
				wantAttempt = 2
			}
			if s := j.Snapshot(); s.Attempt != wantAttempt {
				t.Errorf("%s: %+v", id, s)
			}
			want[i] = fmt.Sprintf("%s %d", id, max(0, i-1)*10_000)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("run (-want +got):\n%s", diff)
		}
	})
}

// A function is begun again when its process has died, but only so often. That it
// may not be begun again outlives the process, too.
func TestRestartRunning(t *testing.T) {
	for _, tt := range []struct {
		function        string
		attempts, table int // as configured
		want            int
	}{
		{"wait", 0, 0, 2},
		{"wait", 0, 3, 3},
		{"wait", 4, 3, 4},
		{"wait", 1, 3, 1},
		{"train", 0, 0, 1},
		{"train", 0, 3, 1},
		{"train", 2, 0, 2},
	} {
		t.Run(fmt.Sprintf("%s %d of %d", tt.function, tt.attempts, tt.table), func(t *testing.T) {
			eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
				p := startPod(t, t.TempDir(), podConfig{Config: Config{MaxAttempts: tt.table}})
				var last time.Time
				for i := range tt.want {
					id := "j"
					if i == 0 {
						p.queue(t, id, Spec{Func: tt.function, MaxAttempts: tt.attempts}, pattern(recordedInput+i))
					}
					await(t, p.get(t, id), Running)
					s := p.get(t, id).Snapshot()
					if s.Attempt != i+1 || !s.Started.After(last) {
						t.Errorf("attempt %d: %+v", i+1, s)
					}
					last = s.Started
					time.Sleep(time.Minute)
					p = next(p, t)
				}
				j := p.get(t, "j")
				await(t, j, Failed)
				_, err := j.Result()
				var attempts *AttemptsError
				if !errors.As(err, &attempts) || attempts.Attempts != tt.want {
					t.Fatalf("it ended with %v", err)
				}
				p = next(p, t)
				_, again := p.get(t, "j").Result()
				want := &ExplainedError{Code: 2, Message: attempts.Error()}
				if diff := cmp.Diff(want, again); diff != "" {
					t.Errorf("after one more restart (-want +got):\n%s", diff)
				}
				if s := p.get(t, "j").Snapshot(); s.State != Failed || s.Attempt != tt.want {
					t.Errorf("after one more restart: %+v", s)
				}
			})
		})
	}
}

// What has ended is the same after any number of restarts.
func TestRestartFinished(t *testing.T) {
	sum := make([]byte, 32)
	big := pattern(recordedInput + 10_000)
	eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
		p := startPod(t, t.TempDir(), podConfig{})
		p.queue(t, "echo", Spec{Func: "echo", Metadata: map[string]string{"k": "v"}}, big)
		p.queue(t, "copy", Spec{Func: "copy"}, big)
		p.queue(t, "empty", Spec{Func: "copy"}, nil)
		p.queue(t, "long", Spec{Func: "long"}, big[:5])
		p.queue(t, "fail", Spec{Func: "fail"}, big[:5])
		p.queue(t, "canceled", Spec{Func: "wait"}, big[:5])
		wrong := p.create(t, "wrong", Spec{Func: "echo", SHA256: sum})
		put(t, wrong, 0, big)
		if err := wrong.Writer().Close(t.Context(), int64(len(big)), nil); !errors.As(err, new(*worker.InputError)) {
			t.Errorf("closed with the wrong digest: %v", err)
		}
		await(t, p.get(t, "canceled"), Running)
		p.get(t, "canceled").Cancel(ErrCanceled)
		ids := []string{"echo", "copy", "empty", "long", "fail", "canceled", "wrong"}
		had := map[string]Snapshot{}
		for _, id := range ids {
			j := p.get(t, id)
			<-j.Done()
			had[id] = j.Snapshot()
			if had[id].Expires.IsZero() {
				t.Errorf("%s: %+v", id, had[id])
			}
		}
		for range 2 {
			time.Sleep(time.Minute)
			p = next(p, t)
			for _, id := range ids {
				var ignore cmp.Option
				if id == "wrong" { // its input was never closed
					ignore = cmpopts.IgnoreFields(Snapshot{}, "Committed")
				}
				if diff := cmp.Diff(had[id], p.get(t, id).Snapshot(), ignore); diff != "" {
					t.Errorf("%s (-before +after):\n%s", id, diff)
				}
				events, lost := p.get(t, id).Events(had[id].LastSeq - 1)
				if len(events) != 1 || lost || events[0].State != had[id].State || !events[0].Time.Equal(had[id].Ended) {
					t.Errorf("%s: the last event is %+v, lost %v, of %+v", id, events, lost, had[id])
				}
			}
			wantResult(t, p.get(t, "echo"), echoed(big))
			wantOutput(t, p.get(t, "copy"), big)
			wantOutput(t, p.get(t, "empty"), nil)
			wantOutput(t, p.get(t, "long"), longResult)
			if r, _ := p.get(t, "long").Result(); !r.Output.JSON {
				t.Error("the long result isn't JSON any more")
			}
			for id, want := range map[string]*ExplainedError{
				"fail":     {Code: 2, Message: "it went wrong"},
				"canceled": {Code: 2, Message: ErrCanceled.Error()},
				"wrong":    {Code: 3, Message: fmt.Sprintf("the input has the SHA-256 %x, not %x as its spec says", sumOf(big), sum)},
			} {
				_, err := p.get(t, id).Result()
				if diff := cmp.Diff(want, err); diff != "" {
					t.Errorf("%s (-want +got):\n%s", id, diff)
				}
			}
			if diff := cmp.Diff(map[string]string{"k": "v"}, p.get(t, "echo").Spec().Metadata); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
		}
	})
}

// A result is the same to the byte, whatever JSON it is.
func TestRestartResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		results := []string{`{ "a" : "<&>",	"b":1.0 }`, `null`, ``, `"` + strings.Repeat("x", recordedResult-2) + `"`, "\"\u2028\""}
		p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{
			"give": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
				data, err := readBlob(c.Input)
				return json.RawMessage(data), err
			},
		}})
		for i, r := range results {
			wantResult(t, p.queue(t, fmt.Sprint(i), Spec{Func: "give"}, []byte(r)), r)
		}
		p = p.crash(t)
		for i, r := range results {
			wantResult(t, p.get(t, fmt.Sprint(i)), r)
		}
	})
}

// Numbers of events go on ascending, and a caller who has seen what the crash has
// taken hears that something is lost.
func TestRestartEvents(t *testing.T) {
	eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
		p := startPod(t, t.TempDir(), podConfig{Config: Config{MaxAttempts: 3}})
		j := p.queue(t, "j", Spec{Func: "wait"}, pattern(10))
		var seen uint64
		for attempt := range 3 {
			await(t, j, Running)
			synctest.Wait()
			events, lost := j.Events(seen)
			if lost != (attempt > 0) {
				t.Errorf("attempt %d: lost is %v after %d", attempt+1, lost, seen)
			}
			if !slices.IsSortedFunc(events, cmpSeq) || events[0].Seq <= seen {
				t.Errorf("attempt %d: events after %d: %+v", attempt+1, seen, events)
			}
			last := events[len(events)-1]
			if last.Progress == nil || last.Seq != j.Snapshot().LastSeq {
				t.Errorf("attempt %d: the last event is %+v", attempt+1, last)
			}
			seen = last.Seq
			if events, lost := j.Events(seen); len(events) > 0 || lost {
				t.Errorf("after the last one come %+v, lost %v", events, lost)
			}
			p = next(p, t)
			j = p.get(t, "j")
		}
		await(t, j, Failed)
		all, lost := j.Events(0)
		var states []State
		for i, e := range all {
			if i > 0 && e.Seq <= all[i-1].Seq {
				t.Errorf("event %d comes after event %d", e.Seq, all[i-1].Seq)
			}
			if e.Progress == nil {
				states = append(states, e.State)
			}
		}
		want := []State{Receiving, Queued, Loading, Running, Queued, Loading, Running, Queued, Loading, Running, Failed}
		if diff := cmp.Diff(want, states); diff != "" || !lost {
			t.Errorf("lost %v, all states (-want +got):\n%s", lost, diff)
		}
		if e, lost := j.Events(all[len(all)-1].Seq + 1); !lost || len(e) != len(all) {
			t.Errorf("after a number that was never given: %d of %d events, lost %v", len(e), len(all), lost)
		}
	})
}

func cmpSeq(a, b Event) int {
	if a.Seq < b.Seq {
		return -1
	}
	return 1
}
