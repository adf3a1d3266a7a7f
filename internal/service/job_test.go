package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/worker"
)

// A job in half-duplex steps. Each may be repeated, when its answer was lost.
func TestJobInSteps(t *testing.T) {
	tp := startPod(t, nil)
	eachStep(t, tp, func(t *testing.T, s steps) {
		defer s.delete("a") //nolint:errcheck // checked below
		spec := &aipodv1.Spec{Func: "sha256", KwargsJson: []byte(`{"a":1}`), Metadata: map[string]string{"k": "v"}}
		for range 2 {
			j := s.mustCreate("a", spec)
			if j.GetJobId() != "a" || j.GetState() != aipodv1.State_STATE_RECEIVING || j.GetCreateTime() == nil {
				t.Errorf("created %v", j)
			}
			if diff := cmp.Diff(spec, j.GetSpec(), protocmp.Transform()); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		}
		for _, step := range []struct {
			chunk     *aipodv1.Chunk
			end       *aipodv1.CloseInput
			committed int64
		}{
			{&aipodv1.Chunk{Data: []byte("ab")}, nil, 2}, // without a checksum
			{chunkOf(0, []byte("ab")), nil, 2},
			{chunkOf(1, []byte("bcd")), nil, 4},
			{packedChunkOf(t, 4, []byte("ef")), nil, 6},
			{chunkOf(6, []byte("gh")), &aipodv1.CloseInput{Size: 8}, 8}, // both, and without a checksum
			{chunkOf(6, []byte("gh")), endOf([]byte("abcdefgh")), 8},
			{nil, endOf([]byte("abcdefgh")), 8},
			{chunkOf(0, []byte("abcdefgh")), nil, 8},
		} {
			res := s.mustWrite("a", step.chunk, step.end)
			if res.GetCommitted() != step.committed {
				t.Errorf("%v %v: committed %d, want %d", step.chunk, step.end, res.GetCommitted(), step.committed)
			}
			// Who closes the input may be answered before it is closed.
			if step.committed < 8 && res.GetState() != aipodv1.State_STATE_RECEIVING {
				t.Errorf("%v %v: state %v", step.chunk, step.end, res.GetState())
			}
		}
		s.untilState("a", aipodv1.State_STATE_SUCCEEDED)
		j := s.mustGet("a")
		if string(j.GetDone().GetResultJson()) != digest([]byte("abcdefgh")) || j.GetAttempt() != 1 || j.GetCommitted() != 8 ||
			j.GetStartTime() == nil || j.GetEndTime() == nil || j.GetLastSeq() == 0 || j.GetFailed() != nil {
			t.Errorf("the job in the end: %v", j)
		}
		if ttl := j.GetExpireTime().AsTime().Sub(j.GetEndTime().AsTime()); ttl != time.Hour {
			t.Errorf("it expires after %v", ttl)
		}
		// Nothing that comes now changes it.
		s.mustWrite("a", chunkOf(0, []byte("abcdefgh")), endOf([]byte("abcdefgh")))
		if _, err := s.create("a", spec); err != nil {
			t.Error(err)
		}
		if _, err := s.cancel("a"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(j, s.mustGet("a"), protocmp.Transform()); diff != "" {
			t.Errorf("changed afterwards (-want +got):\n%s", diff)
		}
		if n := tp.model.runs("a"); n != 1 {
			t.Errorf("the function was begun %d times", n)
		}
		tp.model.reset()
		for range 2 {
			if err := s.delete("a"); err != nil {
				t.Error(err)
			}
		}
		_, err := s.get("a")
		wantCode(t, err, connect.CodeNotFound, "there is no such job")
		// The pod chooses an id.
		j = s.mustCreate("", spec)
		if !validJobID.MatchString(j.GetJobId()) {
			t.Errorf("id %q", j.GetJobId())
		}
		if err := s.delete(j.GetJobId()); err != nil {
			t.Error(err)
		}
	})
}

func TestNoSuchJob(t *testing.T) {
	tp := startPod(t, nil)
	unnamed := startRun(t, tp.jobs(t, grpcWay.p), &aipodv1.Open{Spec: specOf("hello", "")}).accept().GetJobId()
	eachStep(t, tp, func(t *testing.T, s steps) {
		for id, code := range map[string]connect.Code{
			"nobody": connect.CodeNotFound,
			// A job without a name is its stream's alone.
			unnamed:                 connect.CodeNotFound,
			"":                      connect.CodeInvalidArgument,
			"../a":                  connect.CodeInvalidArgument,
			strings.Repeat("x", 65): connect.CodeInvalidArgument,
		} {
			text := map[connect.Code]string{connect.CodeNotFound: "there is no such job", connect.CodeInvalidArgument: "job_id"}[code]
			_, err := s.get(id)
			wantCode(t, err, code, text)
			_, err = s.cancel(id)
			wantCode(t, err, code, text)
			_, err = s.write(id, chunkOf(0, []byte("a")), nil)
			wantCode(t, err, code, text)
			_, err = watch(s, &aipodv1.WatchJobRequest{JobId: id}).end()
			wantCode(t, err, code, text)
			if err := s.delete(id); code == connect.CodeNotFound && err != nil {
				t.Errorf("delete: %v", err)
			} else if code != connect.CodeNotFound {
				wantCode(t, err, code, text)
			}
			if id != "" && code == connect.CodeInvalidArgument {
				_, err = s.create(id, specOf("hello", ""))
				wantCode(t, err, code, text)
			}
		}
	})
}

// What can't be an input of the job leaves it as it is.
func TestWriteInputErrors(t *testing.T) {
	const limit = 1 << 20
	tp := startPod(t, func(cfg *Config) { cfg.MaxPayload = limit })
	badSum := chunkOf(3, []byte("def"))
	badSum.Crc32C = proto.Uint32(1)
	eachStep(t, tp, func(t *testing.T, s steps) {
		s.mustCreate("a", specOf("sha256", ""))
		s.mustCreate("sized", &aipodv1.Spec{Func: "sha256", Size: proto.Int64(4)})
		s.mustWrite("a", chunkOf(0, []byte("abc")), nil)
		s.mustWrite("sized", chunkOf(0, []byte("abc")), nil)
		for _, test := range []struct {
			name, id string
			chunk    *aipodv1.Chunk
			end      *aipodv1.CloseInput
			code     connect.Code
			want     string
			fact     proto.Message
		}{
			{"nothing", "a", nil, nil, connect.CodeInvalidArgument, "nothing to do", nil},
			{"checksum of the chunk", "a", badSum, nil, connect.CodeInvalidArgument, "crc32c", nil},
			{"other bytes", "a", chunkOf(1, []byte("xx")), nil, connect.CodeInvalidArgument, "byte 1 of the payload", nil},
			{"gap", "a", chunkOf(maxAhead+4, []byte("f")), nil, connect.CodeOutOfRange, "beyond the 3 bytes", &aipodv1.Committed{Offset: 3}},
			{"too large", "a", chunkOf(3, make([]byte, limit)), nil, connect.CodeResourceExhausted, "limit of 1.0 MiB", &aipodv1.SizeLimit{Limit: limit}},
			{"closed too late", "a", nil, &aipodv1.CloseInput{Size: 4}, connect.CodeOutOfRange, "3 bytes, not 4", &aipodv1.Committed{Offset: 3}},
			{"closed too early", "a", nil, &aipodv1.CloseInput{Size: 2}, connect.CodeInvalidArgument, "3 bytes, not 2", nil},
			{"over its size", "sized", chunkOf(3, []byte("de")), nil, connect.CodeInvalidArgument, "4 bytes by its spec", nil},
			{"closed under its size", "sized", nil, endOf([]byte("abc")), connect.CodeInvalidArgument, "4 by its spec", nil},
		} {
			_, err := s.write(test.id, test.chunk, test.end)
			wantCode(t, err, test.code, test.want)
			switch want := test.fact.(type) {
			case *aipodv1.Committed:
				if got, ok := factOf[*aipodv1.Committed](err); !ok || !proto.Equal(got, want) {
					t.Errorf("%s: detail %v, want %v", test.name, got, want)
				}
			case *aipodv1.SizeLimit:
				if got, ok := factOf[*aipodv1.SizeLimit](err); !ok || !proto.Equal(got, want) {
					t.Errorf("%s: detail %v, want %v", test.name, got, want)
				}
			}
			if j := s.mustGet(test.id); j.GetCommitted() != 3 || j.GetState() != aipodv1.State_STATE_RECEIVING {
				t.Errorf("%s: left %v", test.name, j)
			}
		}
		// A wrong checksum of the whole takes all away, and it is sent again.
		_, err := s.write("a", chunkOf(3, []byte("xyz")), endOf([]byte("abcdef")))
		wantCode(t, err, connect.CodeDataLoss, "send it again")
		if got, ok := factOf[*aipodv1.Committed](err); !ok || got.GetOffset() != 0 {
			t.Errorf("detail %v", got)
		}
		res := s.mustWrite("a", chunkOf(0, []byte("abcdef")), endOf([]byte("abcdef")))
		if res.GetCommitted() != 6 {
			t.Errorf("sent again: %v", res)
		}
		s.untilState("a", aipodv1.State_STATE_SUCCEEDED)
		_, err = s.write("a", chunkOf(6, []byte("g")), nil)
		wantCode(t, err, connect.CodeInvalidArgument, "closed with 6 bytes")
		_, err = s.write("a", nil, &aipodv1.CloseInput{Size: 7})
		wantCode(t, err, connect.CodeInvalidArgument, "closed with 6 bytes")
		for _, id := range []string{"a", "sized"} {
			if err := s.delete(id); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestCreateJobRefusals(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		cfg.MaxPayload = 1 << 20
		cfg.Pool = worker.Config{Instances: 1, Slots: 1, Queue: 1}
	})
	eachStep(t, tp, func(t *testing.T, s steps) {
		for _, test := range []struct {
			spec *aipodv1.Spec
			code connect.Code
			want string
		}{
			{nil, connect.CodeInvalidArgument, "spec.func is empty"},
			{specOf("nope", ""), connect.CodeUnimplemented, "not implemented"},
			{specOf("hello", "nope"), connect.CodeInvalidArgument, "not JSON"},
			{specOf("hello", strings.Repeat("x", maxKwargs+1)), connect.CodeInvalidArgument, "the most is 1048576"},
			{&aipodv1.Spec{Func: "hello", Version: "a", KwargsJson: []byte(`{"version":"b"}`)}, connect.CodeInvalidArgument, "give one"},
			{&aipodv1.Spec{Func: "hello", Size: proto.Int64(1<<20 + 1)}, connect.CodeResourceExhausted, "limit of 1.0 MiB"},
		} {
			_, err := s.create("a", test.spec)
			wantCode(t, err, test.code, test.want)
		}
		s.made("running", specOf("wait", ""), "")
		s.untilState("running", aipodv1.State_STATE_RUNNING)
		s.mustCreate("late", specOf("wait", ""))
		s.made("waiting", specOf("wait", ""), "")
		s.untilState("waiting", aipodv1.State_STATE_QUEUED)
		eventually(t, "the queue is not full", func() (any, bool) { return nil, tp.pool.Full() != nil })
		_, err := s.create("a", specOf("hello", ""))
		wantCode(t, err, connect.CodeResourceExhausted, "queue is full")
		if retryDelay(err) <= 0 {
			t.Errorf("no RetryInfo in %v", err)
		}
		// One that is there is found, but not begun.
		s.mustCreate("late", specOf("wait", ""))
		_, err = s.write("late", nil, endOf(nil))
		wantCode(t, err, connect.CodeResourceExhausted, "queue is full")
		if j := s.mustGet("waiting"); j.GetQueuePosition() != 1 {
			t.Errorf("queued: %v", j)
		}
		for _, id := range []string{"running", "late", "waiting"} {
			if err := s.delete(id); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "the function still runs", func() (any, bool) { return nil, tp.table.Len() == 0 })
	})
}

// Whatever state it is in, a job that is canceled is canceled at once, and stays
// so.
func TestCancelJob(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Pool = worker.Config{Instances: 1, Slots: 1} })
	eachStep(t, tp, func(t *testing.T, s steps) {
		s.mustCreate("receiving", specOf("wait", ""))
		s.mustWrite("receiving", chunkOf(0, []byte("abc")), nil)
		s.made("running", specOf("deaf", ""), "")
		s.untilState("running", aipodv1.State_STATE_RUNNING)
		s.made("queued", specOf("wait", ""), "")
		for _, id := range []string{"queued", "running", "receiving"} {
			w := watch(s, &aipodv1.WatchJobRequest{JobId: id})
			w.accept()
			for range 2 {
				j, err := s.cancel(id)
				if err != nil {
					t.Fatal(err)
				}
				if j.GetState() != aipodv1.State_STATE_CANCELED || j.GetFailed().GetCode() != 1 || j.GetEndTime() == nil {
					t.Errorf("%s: %v", id, j)
				}
			}
			got, err := w.end()
			if err != nil || got.failed.GetCode() != 1 || got.failed.GetMessage() != "the job was canceled" {
				t.Errorf("the watcher of %s: %v, %v", id, got.failed, err)
			}
		}
		close(tp.model.release)
		eventually(t, "a function still runs", func() (any, bool) { return nil, tp.table.Len() == 0 })
		for _, id := range []string{"queued", "running", "receiving"} {
			if state := s.mustGet(id).GetState(); state != aipodv1.State_STATE_CANCELED {
				t.Errorf("%s is %v in the end", id, state)
			}
			if err := s.delete(id); err != nil {
				t.Error(err)
			}
		}
		if n := tp.model.runs("queued") + tp.model.runs("receiving"); n != 0 {
			t.Errorf("%d functions of canceled jobs were begun", n)
		}
		tp.model.reset()
	})
}

// GetJob has the result, if it isn't too large; ListJobs hasn't.
func TestGetJobResult(t *testing.T) {
	tp := startPod(t, nil)
	eachStep(t, tp, func(t *testing.T, s steps) {
		for _, n := range []int{10, 100_000, maxResult} {
			s.made("big", specOf("big", fmt.Sprintf(`{"n":%d}`, n)), "")
			s.untilState("big", aipodv1.State_STATE_SUCCEEDED)
			done := s.mustGet("big").GetDone()
			want := n + 2
			if want > maxResult {
				want = 0
			}
			if len(done.GetResultJson()) != want || done.GetHasOutput() != (n > 32<<10) || done.GetOutputIsJson() != done.GetHasOutput() {
				t.Errorf("%d: a result of %d bytes, has_output %v", n, len(done.GetResultJson()), done.GetHasOutput())
			}
			if err := s.delete("big"); err != nil {
				t.Error(err)
			}
		}
		s.made("bad", specOf("refuse", ""), "")
		s.made("good", specOf("hello", ""), "")
		s.untilState("bad", aipodv1.State_STATE_FAILED)
		s.untilState("good", aipodv1.State_STATE_SUCCEEDED)
		if f := s.mustGet("bad").GetFailed(); f.GetCode() != 3 || f.GetMessage() != "column 3 is empty" || len(f.GetLogTail()) != logTail {
			t.Errorf("failed %v", f)
		}
		res, err := s.c.ListJobs(soon(t), connect.NewRequest(&aipodv1.ListJobsRequest{}))
		if err != nil || len(res.Msg.GetJobs()) != 2 {
			t.Fatalf("%v, %v", res, err)
		}
		good, bad := res.Msg.GetJobs()[0], res.Msg.GetJobs()[1]
		if good.GetDone() == nil || good.GetDone().GetResultJson() != nil || bad.GetFailed().GetCode() != 3 || bad.GetFailed().GetLogTail() != nil {
			t.Errorf("listed %v and %v", good, bad)
		}
		for _, id := range []string{"good", "bad"} {
			if err := s.delete(id); err != nil {
				t.Error(err)
			}
		}
	})
}

// The cause of a failure is told once, however often people ask for it.
func TestFailureIsLoggedOnce(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.made("a", specOf("panic", ""), "")
	s.untilState("a", aipodv1.State_STATE_FAILED)
	for range 3 {
		if _, err := watch(s, &aipodv1.WatchJobRequest{JobId: "a"}).end(); err != nil {
			t.Error(err)
		}
		s.mustGet("a")
	}
	if n := strings.Count(tp.log.String(), "function panicked"); n != 1 {
		t.Errorf("the panic was logged %d times:\n%s", n, tp.log)
	}
}

func TestListJobs(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	var want []string
	for i := range 7 {
		id := fmt.Sprintf("job-%d", i)
		want = append([]string{id}, want...)
		s.mustCreate(id, specOf("hello", ""))
		if i%2 == 0 {
			s.mustWrite(id, nil, endOf(nil))
			s.untilState(id, aipodv1.State_STATE_SUCCEEDED)
		}
	}
	startRun(t, s.c, &aipodv1.Open{Spec: specOf("hello", "")}).accept() // isn't listed
	ended := []string{"job-6", "job-4", "job-2", "job-0"}
	receiving := []string{"job-5", "job-3", "job-1"}
	eachStep(t, tp, func(t *testing.T, s steps) {
		for _, test := range []struct {
			states []aipodv1.State
			want   []string
		}{
			{nil, want},
			{[]aipodv1.State{aipodv1.State_STATE_SUCCEEDED}, ended},
			{[]aipodv1.State{aipodv1.State_STATE_RECEIVING, aipodv1.State_STATE_RUNNING}, receiving},
			{[]aipodv1.State{aipodv1.State_STATE_RECEIVING, aipodv1.State_STATE_SUCCEEDED}, want},
			{[]aipodv1.State{aipodv1.State_STATE_FAILED}, nil},
		} {
			for _, size := range []int32{0, 1, 2, 3, 4, 7, 100_000} {
				var got []string
				req := &aipodv1.ListJobsRequest{PageSize: size, States: test.states}
				for pages := 1; ; pages++ {
					ids, next, err := s.list(req)
					if err != nil || size > 0 && len(ids) > int(size) || pages > 10 {
						t.Fatalf("page %d of %d: %v, %v", pages, size, ids, err)
					}
					got = append(got, ids...)
					if next == "" {
						break
					}
					req.PageToken = next
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("%v in pages of %d: %v, want %v", test.states, size, got, test.want)
				}
			}
		}
		_, _, err := s.list(&aipodv1.ListJobsRequest{PageSize: -1})
		wantCode(t, err, connect.CodeInvalidArgument, "page_size is -1")
		_, _, err = s.list(&aipodv1.ListJobsRequest{PageToken: "gone"})
		wantCode(t, err, connect.CodeInvalidArgument, "page_token")
	})
}

// Whoever leaves takes nothing of a durable job along.
func TestCallerLeavesDurableJob(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.made("a", specOf("hold", ""), "abc")
	<-tp.model.started
	ctx, leave := context.WithCancel(t.Context())
	stream, err := s.c.WatchJob(ctx, connect.NewRequest(&aipodv1.WatchJobRequest{JobId: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	stream.Receive()
	leave()
	_ = stream.Close()
	r := startRun(t, s.c, &aipodv1.Open{JobId: "a", Spec: specOf("hold", "")})
	r.accept()
	r.cut()
	close(tp.model.release)
	s.untilState("a", aipodv1.State_STATE_SUCCEEDED)
}
