package service

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/codec"
)

// remove deletes a job, so that its id can be used again.
func remove(t *testing.T, c aipodv1connect.JobServiceClient, id string) {
	t.Helper()
	if _, err := c.DeleteJob(soon(t), connect.NewRequest(&aipodv1.DeleteJobRequest{JobId: id})); err != nil {
		t.Error(err)
	}
}

// An upload that was cut goes on from what is there, and the job from where it
// is, during it and after its end.
func TestRunGoesOn(t *testing.T) {
	tp := startPod(t, nil)
	payload := randomBytes(4<<20 + 1)
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "cut")
		open := &aipodv1.Open{JobId: "cut", Spec: specOf("grow", `{"a":1}`)}
		r := startRun(t, c, open)
		if a := r.accept(); a.GetAttached() || a.GetCommitted() != 0 || a.GetState() != aipodv1.State_STATE_RECEIVING || a.GetJobId() != "cut" {
			t.Errorf("accepted %v", a)
		}
		r.chunk(chunkOf(0, payload[:1<<20]))
		r.chunk(packedChunkOf(t, 1<<20, payload[1<<20:3<<20]))
		r.untilCommitted(3 << 20)
		r.cut()

		r = startRun(t, c, open)
		a := r.accept()
		if !a.GetAttached() || a.GetCommitted() != 3<<20 {
			t.Errorf("accepted %v", a)
		}
		r.upload(payload, a.GetCommitted())
		r.untilState(aipodv1.State_STATE_RUNNING)
		r.cut()
		<-tp.model.started

		first := randomBytes(100)
		tp.model.parts <- first
		r = startRun(t, c, open)
		r.until("output", func(e *aipodv1.Event) bool { return e.GetOutput() != nil })
		if a := r.accepted; a.GetState() != aipodv1.State_STATE_RUNNING || a.GetCommitted() != int64(len(payload)) || a.GetAttempt() != 1 {
			t.Errorf("accepted %v", a)
		}
		r.closeInput(endOf(payload)) // again does no harm
		close(tp.model.parts)
		r.result().wantOutput(first, 0, false)

		r = startRun(t, c, open)
		r.result().wantOutput(first, 0, false)
		if a := r.accepted; a.GetState() != aipodv1.State_STATE_SUCCEEDED || a.GetOutputSize() != 100 {
			t.Errorf("accepted %v", a)
		}
		if n := tp.model.runs("cut"); n != 1 {
			t.Errorf("the function was begun %d times", n)
		}
		tp.model.reset()
	})
}

// A named upload whose checksum is wrong is sent again.
func TestRunAgainAfterWrongChecksum(t *testing.T) {
	tp := startPod(t, nil)
	c := tp.jobs(t, grpcWay.p)
	for _, size := range []int{10, 200 << 10} { // in the job's record, and in a file
		payload := randomBytes(size)
		open := &aipodv1.Open{JobId: "sum", Spec: specOf("sha256", "")}
		r := startRun(t, c, open)
		r.chunk(chunkOf(0, make([]byte, size)))
		r.closeInput(endOf(payload))
		_, err := r.end()
		wantCode(t, err, connect.CodeDataLoss, "send it again")
		if got, ok := factOf[*aipodv1.Committed](err); !ok || got.GetOffset() != 0 {
			t.Errorf("detail %v", got)
		}
		r = startRun(t, c, open)
		if n := r.accept().GetCommitted(); n != 0 {
			t.Errorf("%d bytes are there", n)
		}
		r.upload(payload, 0)
		r.result().wantJSON(digest(payload))
		remove(t, c, "sum")
	}
}

// What a caller has not seen comes once, in order, whenever it attaches.
func TestRunReplay(t *testing.T) {
	tp := startPod(t, nil)
	const n = 8
	open := &aipodv1.Open{JobId: "talk", Spec: specOf("talk", fmt.Sprintf(`{"n":%d}`, n))}
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "talk")
		r := startRun(t, c, open)
		r.closeInput(endOf(nil))
		whole := r.result()
		var steps []int64
		var lines []string
		for i := range n {
			steps = append(steps, int64(i+1))
			lines = append(lines, fmt.Sprintf("line %d", i+1))
		}
		if diff := cmp.Diff(steps, whole.progress) + cmp.Diff(lines, whole.lines); diff != "" {
			t.Errorf("progress and log (-want +got):\n%s", diff)
		}
		states := []aipodv1.State{
			aipodv1.State_STATE_RECEIVING, aipodv1.State_STATE_QUEUED, aipodv1.State_STATE_LOADING,
			aipodv1.State_STATE_RUNNING, aipodv1.State_STATE_SUCCEEDED,
		}
		if tp.model.runs("talk") > 1 { // the model is loaded
			states = slices.Delete(states, 2, 3)
		}
		if diff := cmp.Diff(states, whole.states); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		for after := uint64(0); after <= whole.last; after++ {
			open := proto.CloneOf(open)
			open.AfterSeq = after
			s := startRun(t, c, open).result()
			got := len(s.states) + len(s.progress) + len(s.lines)
			if s.accepted.GetTruncated() || s.accepted.GetLastSeq() != whole.last || got != int(whole.last-after) {
				t.Errorf("after %d: %d events, want %d; %v", after, got, whole.last-after, s.accepted)
			}
			if k := len(s.lines); k > 0 && s.lines[k-1] != lines[n-1] {
				t.Errorf("after %d: the last line is %q", after, s.lines[k-1])
			}
		}
		// A number that the pod has not given yet is of another numbering.
		open := proto.CloneOf(open)
		open.AfterSeq = 1 << 40
		s := startRun(t, c, open).result()
		if len(s.lines) != n || !s.accepted.GetTruncated() {
			t.Errorf("after a number of the future: %d lines, %v", len(s.lines), s.accepted)
		}
	})
}

// A job keeps only so many events, and says so.
func TestRunTruncated(t *testing.T) {
	tp := startPod(t, nil)
	c := tp.jobs(t, grpcWay.p)
	const n = 600
	open := &aipodv1.Open{JobId: "talk", Spec: specOf("talk", fmt.Sprintf(`{"n":%d}`, n))}
	r := startRun(t, c, open)
	r.closeInput(endOf(nil))
	r.result()
	s := startRun(t, c, open).result()
	if !s.accepted.GetTruncated() || len(s.lines) >= n || len(s.lines) < 100 || s.lines[len(s.lines)-1] != "line 600" {
		t.Errorf("%v and %d lines", s.accepted, len(s.lines))
	}
	open.AfterSeq = s.last - 10
	if s := startRun(t, c, open).result(); s.accepted.GetTruncated() {
		t.Errorf("nothing is lost here: %v", s.accepted)
	}
}

// Output comes from where the caller asks, as it asks.
func TestRunOutput(t *testing.T) {
	tp := startPod(t, nil)
	payload := append(bytes.Repeat([]byte("text "), 500_000), randomBytes(1<<20)...)
	size := int64(len(payload))
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "out")
		open := &aipodv1.Open{JobId: "out", Spec: specOf("chaos", "")}
		r := startRun(t, c, open)
		r.upload(payload, 0)
		r.result().wantOutput(payload, 0, false)
		for _, test := range []struct {
			name   string
			change *aipodv1.Open
			from   int64
		}{
			{"from an offset", &aipodv1.Open{OutputOffset: 1<<20 + 7}, 1<<20 + 7},
			{"from the last byte", &aipodv1.Open{OutputOffset: size - 1}, size - 1},
			{"from the end", &aipodv1.Open{OutputOffset: size}, size},
			{"of the same attempt", &aipodv1.Open{OutputOffset: 1 << 20, OutputAttempt: 1}, 1 << 20},
			{"of another attempt", &aipodv1.Open{OutputOffset: 1 << 20, OutputAttempt: 2}, 0},
			{"in small chunks", &aipodv1.Open{MaxChunk: 64 << 10}, 0},
			{"in large chunks", &aipodv1.Open{MaxChunk: 64 << 20}, 0},
			{"compressed", &aipodv1.Open{AcceptZstd: true}, 0},
			{"compressed, from an offset", &aipodv1.Open{AcceptZstd: true, OutputOffset: 12345, MaxChunk: 100_000}, 12345},
			{"compressed, from the end", &aipodv1.Open{AcceptZstd: true, OutputOffset: size}, size},
			{"compressed, of another attempt", &aipodv1.Open{AcceptZstd: true, OutputOffset: 12345, OutputAttempt: 2}, 0},
		} {
			t.Run(test.name, func(t *testing.T) {
				o := proto.CloneOf(open)
				proto.Merge(o, test.change)
				r := startRun(t, c, o)
				r.offset = test.from
				s := r.result()
				s.wantOutput(payload, int(test.from), false)
				limit := int64(codec.DefaultChunk)
				if test.change.GetMaxChunk() > 0 {
					limit = min(limit, int64(test.change.GetMaxChunk()))
				}
				packed := 0
				for i, chunk := range s.chunks {
					whole := !o.GetAcceptZstd() && i < len(s.chunks)-1 // where levels are tried, chunks are smaller
					if n := int64(chunk.GetRawSize()); n > limit || n < limit && whole {
						t.Errorf("chunk %d of %d has %d bytes, want %d", i, len(s.chunks), n, limit)
					}
					if chunk.GetCoding() == aipodv1.Coding_CODING_ZSTD {
						packed++
					}
				}
				if want := test.change.GetAcceptZstd() && test.from < size; want != (packed > 0) {
					t.Errorf("%d of %d chunks are compressed", packed, len(s.chunks))
				}
			})
		}
	})
}

// Two callers, one job: both get the result of one execution, whoever uploads.
func TestRunTwoCallers(t *testing.T) {
	tp := startPod(t, nil)
	payload := randomBytes(2 << 20)
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "two")
		open := &aipodv1.Open{JobId: "two", Spec: specOf("hold", `{"a":[1,2.5],"b":{}}`)}
		same := &aipodv1.Open{JobId: "two", Spec: specOf("hold", ` { "b":{}, "a":[1, 2.5] } `)}
		a := startRun(t, c, open)
		a.upload(payload, 0)
		a.untilState(aipodv1.State_STATE_RUNNING)
		b := startRun(t, c, same)
		b.upload(payload, 0) // all of it again, as one does who missed the answers
		b.untilState(aipodv1.State_STATE_RUNNING)
		watcher := startRun(t, c, same)
		watcher.untilState(aipodv1.State_STATE_RUNNING)
		// The first could still send, and is not told that it was superseded: there
		// is nothing to write any more.
		n := len(a.beats)
		a.until("a beat", func(*aipodv1.Event) bool { return len(a.beats) > n })
		close(tp.model.release)
		for _, r := range []*run{a, b, watcher} {
			r.result().wantJSON(fmt.Sprint(len(payload)))
		}
		if n := tp.model.runs("two"); n != 1 {
			t.Errorf("the function was begun %d times", n)
		}
		tp.model.reset()
	})
}

func TestRunOtherSpec(t *testing.T) {
	tp := startPod(t, nil)
	sum, other := make([]byte, 32), bytes.Repeat([]byte{1}, 32)
	spec := &aipodv1.Spec{
		Func: "hello", Version: "v1", KwargsJson: []byte(`{"a":1}`), Size: proto.Int64(3), Sha256: sum,
		Metadata: map[string]string{"k": "v"}, MaxAttempts: 3,
	}
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "spec")
		startRun(t, c, &aipodv1.Open{JobId: "spec", Spec: spec}).accept()
		for _, test := range []struct {
			name   string
			change func(*aipodv1.Spec)
			want   string // "" for a spec that counts as the same
		}{
			{"func", func(s *aipodv1.Spec) { s.Func = "wait" }, `func is "hello" there and "wait" here`},
			{"version", func(s *aipodv1.Spec) { s.Version = "" }, `version is "v1" there and "" here`},
			{"kwargs", func(s *aipodv1.Spec) { s.KwargsJson = []byte(`{"a":2}`) }, `kwargs is {"a":1} there and {"a":2} here`},
			{"size", func(s *aipodv1.Spec) { s.Size = proto.Int64(4) }, "size is 3 there and 4 here"},
			{"sha256", func(s *aipodv1.Spec) { s.Sha256 = other }, "sha256 is 0000"},
			{"no size, no sha256", func(s *aipodv1.Spec) { s.Size, s.Sha256 = nil, nil }, ""},
			{"metadata, max_attempts", func(s *aipodv1.Spec) { s.Metadata, s.MaxAttempts = nil, 1 }, ""},
		} {
			changed := proto.CloneOf(spec)
			test.change(changed)
			r := startRun(t, c, &aipodv1.Open{JobId: "spec", Spec: changed})
			_, cerr := c.CreateJob(soon(t), connect.NewRequest(&aipodv1.CreateJobRequest{JobId: "spec", Spec: changed}))
			if test.want == "" {
				if a := r.accept(); !a.GetAttached() || cerr != nil {
					t.Errorf("%s: accepted %v, create %v", test.name, a, cerr)
				}
				r.cut()
				continue
			}
			_, err := r.end()
			wantCode(t, err, connect.CodeAlreadyExists, test.want)
			wantCode(t, cerr, connect.CodeAlreadyExists, test.want)
		}
		got, err := c.GetJob(soon(t), connect.NewRequest(&aipodv1.GetJobRequest{JobId: "spec"}))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, got.Msg.GetJob().GetSpec(), protocmp.Transform()); diff != "" {
			t.Errorf("the job's own spec (-want +got):\n%s", diff)
		}
	})
}

// The newest writer is the one; the older hears of it, even if it says nothing.
func TestRunSuperseded(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = maxHeartbeat })
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		defer remove(t, c, "two")
		open := &aipodv1.Open{JobId: "two", Spec: specOf("sha256", "")}
		older := startRun(t, c, open)
		older.chunk(chunkOf(0, []byte("abc")))
		older.untilCommitted(3)

		watcher := startRun(t, c, open) // has not written, so takes nothing away
		watcher.accept()
		older.chunk(chunkOf(3, []byte("def")))
		older.untilCommitted(6)

		newer := startRun(t, c, open)
		if n := newer.accept().GetCommitted(); n != 6 {
			t.Errorf("%d bytes are there", n)
		}
		begun := time.Now()
		newer.chunk(chunkOf(6, []byte("ghi")))
		_, err := older.end()
		wantCode(t, err, connect.CodeAborted, "superseded")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the older stream was ended after %v", took)
		}
		newer.closeInput(endOf([]byte("abcdefghi")))
		newer.result().wantJSON(digest([]byte("abcdefghi")))
		watcher.result().wantJSON(digest([]byte("abcdefghi")))
	})
}
