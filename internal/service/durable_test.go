package service

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// reopen stops a pod, if it isn't stopped yet, and opens another one on its data,
// with the same model. Jobs that ran are cut off.
func (tp *testPod) reopen(t *testing.T) *testPod {
	t.Helper()
	tp.http.CloseIdleConnections() // or net/http gives each a second to close
	tp.stop()
	tp.model.reset()
	next := startPod(t, func(cfg *Config) {
		*cfg = Config{
			OpenModel: func(string) (worker.Model, error) { return tp.model, nil },
			DataDir:   tp.cfg.DataDir, Heartbeat: tp.cfg.Heartbeat, DrainTimeout: tp.cfg.DrainTimeout,
			Pool: tp.cfg.Pool, Logger: cfg.Logger, StreamAge: tp.cfg.StreamAge,
		}
	})
	next.model = tp.model
	return next
}

// impatient makes a pod that doesn't wait for functions when it stops.
func impatient(cfg *Config) { cfg.DrainTimeout = 50 * time.Millisecond }

// wantRetry fails unless err tells the caller to come back.
func wantRetry(t *testing.T, err error) {
	t.Helper()
	wantCode(t, err, connect.CodeUnavailable, "try again")
	if retryDelay(err) <= 0 {
		t.Errorf("no RetryInfo in %v", err)
	}
}

// An upload goes on in the next process from what the last one had.
func TestRestartInMidUpload(t *testing.T) {
	payload := randomBytes(4<<20 + 1)
	spec := specOf("sha256", "")
	for _, have := range []int64{0, 1000, 3 << 20} {
		t.Run(fmt.Sprint(have), func(t *testing.T) {
			tp := startPod(t, impatient)
			r := startRun(t, tp.jobs(t, grpcWay.p), &aipodv1.Open{JobId: "a", Spec: spec})
			r.accept()
			if have > 0 {
				r.chunk(chunkOf(0, payload[:have]))
				r.untilCommitted(have)
			}
			stopped := make(chan struct{})
			go func() { tp.stop(); close(stopped) }()
			_, err := r.end() // nobody waits for it
			wantRetry(t, err)
			<-stopped

			tp = tp.reopen(t)
			s := steps{t, tp.jobs(t, transport.Connect)}
			if j := s.mustGet("a"); j.GetState() != aipodv1.State_STATE_RECEIVING || j.GetCommitted() != have || j.GetAttempt() != 0 {
				t.Errorf("after the restart: %v", j)
			}
			before := r.last
			r = startRun(t, s.c, &aipodv1.Open{JobId: "a", Spec: spec, AfterSeq: before})
			r.last = before
			if a := r.accept(); a.GetCommitted() != have || !a.GetAttached() {
				t.Errorf("accepted %v", a)
			}
			r.upload(payload, have)
			r.result().wantJSON(digest(payload))
		})
	}
}

// A function that was cut off runs again, and who reattaches gets its result and
// none of the events twice.
func TestRestartInMidRun(t *testing.T) {
	for _, input := range []string{"", "small", strings.Repeat("x", 1<<20)} {
		t.Run(fmt.Sprint(len(input)), func(t *testing.T) {
			tp := startPod(t, impatient)
			open := &aipodv1.Open{JobId: "a", Spec: specOf("grow", `{"a":1}`)}
			r := startRun(t, tp.jobs(t, grpcWay.p), open)
			r.upload([]byte(input), 0)
			tp.model.parts <- []byte("first")
			r.until("progress", func(e *aipodv1.Event) bool { return e.GetProgress().GetDone() == 1 })
			stopped := make(chan struct{})
			go func() { tp.stop(); close(stopped) }()
			before, err := r.end()
			wantRetry(t, err)
			if before.accepted.GetAttempt() != 0 || string(before.output) != "first" {
				t.Errorf("before: %v, output %q", before.accepted, before.output)
			}
			<-stopped

			tp = tp.reopen(t)
			<-tp.model.started
			open.AfterSeq, open.OutputOffset, open.OutputAttempt = before.last, before.offset, 1
			r = startRun(t, tp.jobs(t, grpcWay.p), open)
			r.last, r.offset = before.last, 0 // the output begins again
			a := r.accept()
			if a.GetAttempt() != 2 || a.GetState() != aipodv1.State_STATE_RUNNING || a.GetLastSeq() <= before.last ||
				a.GetCommitted() != int64(len(input)) {
				t.Errorf("accepted %v", a)
			}
			tp.model.parts <- []byte("second")
			close(tp.model.parts)
			s := r.result()
			s.wantOutput([]byte("second"), 0, false)
			if diff := cmp.Diff([]int64{1}, s.progress); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
			if n := len(s.beats); n == 0 || s.beats[n-1].GetAttempt() != 2 {
				t.Errorf("no heartbeat tells of the second attempt before its output")
			}
			if tp.model.calls[0].Input.Size() != int64(len(input)) {
				t.Errorf("the function got %d bytes", tp.model.calls[0].Input.Size())
			}
		})
	}
}

// What has ended is there as it was, with its output.
func TestRestartAfterTheEnd(t *testing.T) {
	tp := startPod(t, impatient)
	s := steps{t, tp.jobs(t, transport.Connect)}
	payload := randomBytes(3 << 20)
	for id, spec := range map[string]*aipodv1.Spec{
		"small": specOf("hello", ""), "large": specOf("big", `{"n":100000}`), "bad": specOf("refuse", ""),
		"panic": specOf("panic", ""), "fail": specOf("fail", ""), "talk": specOf("talk", `{"n":20}`),
	} {
		s.made(id, spec, "")
	}
	s.mustCreate("canceled", specOf("hello", ""))
	if _, err := s.cancel("canceled"); err != nil {
		t.Fatal(err)
	}
	out := startRun(t, s.c, &aipodv1.Open{JobId: "out", Spec: specOf("chaos", "")})
	out.upload(payload, 0)
	out.result().wantOutput(payload, 0, false)
	empty := startRun(t, s.c, &aipodv1.Open{JobId: "empty", Spec: specOf("chaos", "")})
	empty.upload(nil, 0)
	empty.result().wantOutput(nil, 0, false)

	jobs := map[string]*aipodv1.Job{}
	seqs := map[string]uint64{}
	lines := map[string][]string{}
	ids := []string{"small", "large", "bad", "panic", "fail", "talk", "canceled", "out", "empty"}
	for _, id := range ids {
		eventually(t, id+" has not ended", func() (any, bool) { return nil, s.mustGet(id).GetEndTime() != nil })
		got, err := watch(s, &aipodv1.WatchJobRequest{JobId: id}).end()
		if err != nil {
			t.Fatal(err)
		}
		jobs[id], seqs[id], lines[id] = s.mustGet(id), got.last, got.lines
	}
	order, _, err := s.list(&aipodv1.ListJobsRequest{})
	if err != nil || len(order) != len(ids) {
		t.Fatalf("%v, %v", order, err)
	}

	tp = tp.reopen(t)
	s.c = tp.jobs(t, transport.Connect)
	for _, id := range ids {
		if diff := cmp.Diff(jobs[id], s.mustGet(id), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", id, diff)
		}
		got, err := watch(s, &aipodv1.WatchJobRequest{JobId: id}).end()
		if err != nil || got.last != seqs[id] || !cmp.Equal(got.lines, lines[id]) {
			t.Errorf("%s: events to %d, lines %v, %v, want %d, %v", id, got.last, got.lines, err, seqs[id], lines[id])
		}
		w := watch(s, &aipodv1.WatchJobRequest{JobId: id, AfterSeq: seqs[id]})
		if got, err := w.end(); err != nil || got.last != 0 || got.accepted.GetTruncated() {
			t.Errorf("%s: something after the last event: %d, %v, %v", id, got.last, got.accepted, err)
		}
	}
	after, _, err := s.list(&aipodv1.ListJobsRequest{})
	if diff := cmp.Diff(order, after); diff != "" || err != nil {
		t.Errorf("listed (-before +after):\n%s%v", diff, err)
	}
	watch(s, &aipodv1.WatchJobRequest{JobId: "out"}).result().wantOutput(payload, 0, false)
	watch(s, &aipodv1.WatchJobRequest{JobId: "out", OutputOffset: 2 << 20, OutputAttempt: 1, AcceptZstd: true}).
		result().wantOutput(payload, 2<<20, false)
	watch(s, &aipodv1.WatchJobRequest{JobId: "empty"}).result().wantOutput(nil, 0, false)
	watch(s, &aipodv1.WatchJobRequest{JobId: "large"}).result().
		wantOutput(bytes.Join([][]byte{{'"'}, bytes.Repeat([]byte("x"), 100_000), {'"'}}, nil), 0, true)
	if n := len(tp.model.calls); n != 0 {
		t.Errorf("%d functions were begun again", n)
	}
	_, err = s.create("small", specOf("big", ""))
	wantCode(t, err, connect.CodeAlreadyExists, "func is")
}

// A function is begun only as often as the job allows, train once unless told
// otherwise.
func TestRestartAttempts(t *testing.T) {
	tp := startHolding(t, impatient)
	m := tp.model
	s := steps{t, tp.jobs(t, grpcWay.p)}
	for id, spec := range map[string]*aipodv1.Spec{
		"train": specOf("train", ""), "train-twice": {Func: "train", MaxAttempts: 2},
		"hold": specOf("hold", ""), "hold-once": {Func: "hold", MaxAttempts: 1},
	} {
		s.made(id, spec, "abc")
		<-m.started
	}
	tp = tp.reopen(t)
	s.c = tp.jobs(t, grpcWay.p)
	for _, id := range []string{"train", "hold-once"} {
		got, err := watch(s, &aipodv1.WatchJobRequest{JobId: id}).end()
		if err != nil || connect.Code(got.failed.GetCode()) != connect.CodeAborted ||
			!strings.Contains(got.failed.GetMessage(), "the pod stopped while the function ran") {
			t.Errorf("%s: %v, %v", id, got.failed, err)
		}
		if n := m.runs(id); n != 0 {
			t.Errorf("%s was begun again", id)
		}
		if j := s.mustGet(id); j.GetAttempt() != 1 || j.GetState() != aipodv1.State_STATE_FAILED {
			t.Errorf("%s: %v", id, j)
		}
	}
	<-m.started
	<-m.started
	// A second time is one too many.
	tp = tp.reopen(t)
	s.c = tp.jobs(t, grpcWay.p)
	for _, id := range []string{"train-twice", "hold"} {
		got, err := watch(s, &aipodv1.WatchJobRequest{JobId: id}).end()
		if err != nil || connect.Code(got.failed.GetCode()) != connect.CodeAborted || s.mustGet(id).GetAttempt() != 2 {
			t.Errorf("%s: %v, %v", id, got.failed, err)
		}
	}
}

// While the pod drains, what runs is waited for, and all else is for the next
// process: who waits for that is told to come back.
func TestDrainWithDurableJobs(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		cfg.DrainTimeout = time.Minute
		cfg.Pool = worker.Config{Instances: 1, Slots: 1}
	})
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.made("running", specOf("hold", ""), "abc")
	<-tp.model.started
	s.made("queued", specOf("hold", ""), "abcd")
	s.made("ended", specOf("hello", ""), "")
	if _, err := s.cancel("ended"); err != nil {
		t.Fatal(err)
	}
	s.mustCreate("receiving", specOf("hold", ""))
	running := watch(s, &aipodv1.WatchJobRequest{JobId: "running"})
	running.accept()
	waiting := map[string]*watcher{}
	for _, id := range []string{"queued", "receiving"} {
		waiting[id] = watch(s, &aipodv1.WatchJobRequest{JobId: id})
		waiting[id].accept()
	}
	called := startAI(t, tp.client(t, transport.GRPC), "chaos", "running", "{}")
	called.upload([]byte("abc"))
	if _, err := called.next(); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan struct{})
	go func() { tp.stop(); close(stopped) }()
	for _, w := range waiting {
		_, err := w.end()
		wantRetry(t, err)
	}
	_, err := s.create("new", specOf("hello", ""))
	wantRetry(t, err)
	for _, id := range []string{"", "new"} {
		_, err := startRun(t, s.c, &aipodv1.Open{JobId: id, Spec: specOf("hello", "")}).end()
		wantRetry(t, err)
		_, err = startAI(t, tp.client(t, transport.GRPC), "chaos", id, "{}").result()
		wantRetry(t, err)
	}
	// What is there can still be looked at, and its result fetched.
	again := startRun(t, s.c, &aipodv1.Open{JobId: "running", Spec: specOf("hold", "")})
	again.accept()
	if got, err := watch(s, &aipodv1.WatchJobRequest{JobId: "ended"}).end(); err != nil || got.failed == nil {
		t.Errorf("a job that has ended: %v, %v", got.failed, err)
	}
	if j := s.mustGet("queued"); j.GetState() != aipodv1.State_STATE_QUEUED {
		t.Errorf("queued is %v", j.GetState())
	}
	close(tp.model.release)
	running.result().wantJSON("3")
	again.result().wantJSON("3")
	called.want(t, "3")
	<-stopped

	tp = tp.reopen(t)
	s.c = tp.jobs(t, grpcWay.p)
	<-tp.model.started
	close(tp.model.release)
	watch(s, &aipodv1.WatchJobRequest{JobId: "queued"}).result().wantJSON("4")
	if a := s.mustGet("queued").GetAttempt(); a != 1 {
		t.Errorf("queued was begun %d times", a)
	}
	s.mustWrite("receiving", nil, endOf(nil))
	watch(s, &aipodv1.WatchJobRequest{JobId: "receiving"}).result().wantJSON("0")
}

// The seed's client, called again after a restart, gets what it called for.
func TestAINamedCallAfterRestart(t *testing.T) {
	payload := randomBytes(2 << 20)
	for _, method := range []string{"chaos", "predict"} {
		t.Run(method, func(t *testing.T) {
			tp := startHolding(t, impatient)
			m := tp.model
			begin := func(id string) aiCall {
				t.Helper()
				return startAI(t, tp.client(t, transport.GRPC), method, id, "{}")
			}
			uploading := begin("uploading")
			if err := uploading.send(payload[:1<<20]); err != nil {
				t.Fatal(err)
			}
			tp.untilCommitted(t, "uploading", 1<<20)
			running := begin("running")
			running.upload(payload)
			<-m.started
			tp.stop()
			for _, call := range []aiCall{uploading, running} {
				_, err := call.result()
				wantRetry(t, err)
			}

			tp = tp.reopen(t)
			<-m.started
			running, uploading = begin("running"), begin("uploading")
			running.upload(payload)
			uploading.upload(payload)
			<-m.started
			close(m.release)
			running.want(t, fmt.Sprint(len(payload)))
			uploading.want(t, fmt.Sprint(len(payload)))

			tp = tp.reopen(t)
			for id, attempt := range map[string]int32{"running": 2, "uploading": 1} {
				call := begin(id)
				call.upload(payload)
				call.want(t, fmt.Sprint(len(payload)))
				if got := (steps{t, tp.jobs(t, grpcWay.p)}).mustGet(id).GetAttempt(); got != attempt {
					t.Errorf("%s was begun %d times", id, got)
				}
			}
			if n := len(m.calls); n != 0 {
				t.Errorf("%d functions were begun after their end", n)
			}
		})
	}
}
