package service

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/spool"
)

// A payload is the same one whatever its size and the coding of its chunks, and
// a result comes as what it is.
func TestRunWithoutName(t *testing.T) {
	tp := startPod(t, nil)
	text := bytes.Repeat([]byte("text "), 500_000)
	random := randomBytes(2*codec.DefaultChunk + 1)
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		for _, payload := range [][]byte{nil, []byte("x"), random[:codec.DefaultChunk], random, text} {
			for _, packed := range []bool{false, true} {
				r := startRun(t, c, &aipodv1.Open{Spec: specOf("sha256", "")})
				off := int64(0)
				for _, part := range cut(payload, codec.DefaultChunk) {
					if packed {
						r.chunk(packedChunkOf(t, off, part))
					} else {
						r.chunk(chunkOf(off, part))
					}
					off += int64(len(part))
				}
				r.closeInput(endOf(payload))
				s := r.result()
				s.wantJSON(digest(payload))
				if id := s.accepted.GetJobId(); id == "" || s.accepted.GetAttached() || r.stream.ResponseHeader().Get(headerJob) != id {
					t.Errorf("accepted %v, header %v", s.accepted, r.stream.ResponseHeader())
				}
			}
		}
		r := startRun(t, c, &aipodv1.Open{Spec: specOf("chaos", "")})
		r.upload(random, 0)
		r.result().wantOutput(random, 0, false)
		r = startRun(t, c, &aipodv1.Open{Spec: specOf("chaos", "")})
		r.upload(nil, 0)
		r.result().wantOutput(nil, 0, false)
		for _, n := range []int{32<<10 - 2, 32<<10 - 1, 3 << 20} { // and two quotes
			r := startRun(t, c, &aipodv1.Open{Spec: specOf("big", fmt.Sprintf(`{"n":%d}`, n))})
			r.upload(nil, 0)
			want := `"` + strings.Repeat("x", n) + `"`
			if s := r.result(); len(want) <= 32<<10 {
				s.wantJSON(want)
			} else {
				s.wantOutput([]byte(want), 0, true)
			}
		}
	})
}

// What a caller by hand leaves out is not checked.
func TestRunWithoutChecksums(t *testing.T) {
	tp := startPod(t, nil)
	r := startRun(t, tp.jobs(t, grpcWay.p), &aipodv1.Open{Spec: specOf("sha256", "")})
	r.chunk(&aipodv1.Chunk{Data: []byte("by ")})
	r.chunk(&aipodv1.Chunk{Offset: 3, Data: []byte("hand"), Coding: aipodv1.Coding_CODING_RAW})
	r.closeInput(&aipodv1.CloseInput{Size: 7})
	r.result().wantJSON(digest([]byte("by hand")))
}

func TestRunFails(t *testing.T) {
	tp := startPod(t, nil)
	var tail []string
	for i := 6; i <= 25; i++ {
		tail = append(tail, fmt.Sprintf("line %d", i))
	}
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		for _, test := range []struct {
			name string
			spec *aipodv1.Spec
			code connect.Code
			want string
			tail []string
		}{
			{"refused input", specOf("refuse", ""), connect.CodeInvalidArgument, "column 3 is empty", tail},
			{"panic", specOf("panic", ""), connect.CodeInternal, "panicked", nil},
			{"error", specOf("fail", ""), connect.CodeInternal, "internal error", nil},
			{"unknown version", specOf("hello", `{"version":"v9"}`), connect.CodeNotFound, "choose one of v1", nil},
			{"unknown key", specOf("talk", `{"a":1}`), connect.CodeInvalidArgument, `unknown field "a"`, nil},
			{"another digest", &aipodv1.Spec{Func: "hello", Sha256: make([]byte, 32)}, connect.CodeInvalidArgument, "SHA-256", nil},
		} {
			t.Run(test.name, func(t *testing.T) {
				for _, id := range []string{"", "a"} {
					r := startRun(t, c, &aipodv1.Open{JobId: id, Spec: test.spec})
					r.closeInput(endOf(nil))
					s, err := r.end()
					if err != nil || s.failed == nil {
						t.Fatalf("job %q: no Failed, error %v", id, err)
					}
					if got := s.failed; connect.Code(got.GetCode()) != test.code || !strings.Contains(got.GetMessage(), test.want) ||
						strings.Contains(got.GetMessage(), "secret") {
						t.Errorf("job %q failed with %v %q, want %v: …%s…", id, connect.Code(got.GetCode()), got.GetMessage(), test.code, test.want)
					}
					var got []string
					for _, l := range s.failed.GetLogTail() {
						got = append(got, l.GetLine())
					}
					if diff := cmp.Diff(test.tail, got); diff != "" {
						t.Errorf("job %q: log_tail (-want +got):\n%s", id, diff)
					}
				}
				if err := tp.table.Delete("a"); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// What is wrong with the call itself is an error before there is a job.
func TestRunBadOpen(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.MaxPayload, cfg.SpoolBudget = 8<<20, 16<<20 })
	hello := specOf("hello", "")
	large := &aipodv1.Spec{Func: "hello", Size: proto.Int64(8<<20 + 1)}
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		for _, test := range []struct {
			name string
			open *aipodv1.Open
			code connect.Code
			want string
		}{
			{"no spec", &aipodv1.Open{}, connect.CodeInvalidArgument, "spec.func is empty"},
			{"unknown function", &aipodv1.Open{Spec: specOf("nope", "")}, connect.CodeUnimplemented, `"test.nope" not implemented yet`},
			{"named, unknown function", &aipodv1.Open{JobId: "a", Spec: specOf("nope", "")}, connect.CodeUnimplemented, "not implemented"},
			{"kwargs", &aipodv1.Open{Spec: specOf("hello", "[1]")}, connect.CodeInvalidArgument, "must be a JSON object"},
			{"reserved key", &aipodv1.Open{Spec: specOf("hello", `{"_aipod_x":1}`)}, connect.CodeInvalidArgument, "reserved"},
			{"digest", &aipodv1.Open{Spec: &aipodv1.Spec{Func: "hello", Sha256: []byte("x")}}, connect.CodeInvalidArgument, "sha256 has 1 bytes"},
			{"size", &aipodv1.Open{Spec: &aipodv1.Spec{Func: "hello", Size: proto.Int64(-1)}}, connect.CodeInvalidArgument, "spec.size is -1"},
			{"attempts", &aipodv1.Open{Spec: &aipodv1.Spec{Func: "hello", MaxAttempts: -1}}, connect.CodeInvalidArgument, "max_attempts"},
			{"id", &aipodv1.Open{JobId: "../a", Spec: hello}, connect.CodeInvalidArgument, "job_id"},
			{"long id", &aipodv1.Open{JobId: strings.Repeat("x", 65), Spec: hello}, connect.CodeInvalidArgument, "job_id"},
			{"short heartbeat", &aipodv1.Open{Spec: hello, Heartbeat: durationpb.New(time.Millisecond)}, connect.CodeInvalidArgument, "from 200ms to 30s"},
			{"long heartbeat", &aipodv1.Open{Spec: hello, Heartbeat: durationpb.New(time.Minute)}, connect.CodeInvalidArgument, "from 200ms to 30s"},
			{"output_offset", &aipodv1.Open{Spec: hello, OutputOffset: -1}, connect.CodeInvalidArgument, "output_offset"},
			{"max_chunk", &aipodv1.Open{Spec: hello, MaxChunk: -1}, connect.CodeInvalidArgument, "max_chunk"},
			{"too large", &aipodv1.Open{Spec: large}, connect.CodeResourceExhausted, "limit of 8.0 MiB"},
			{"named, too large", &aipodv1.Open{JobId: "a", Spec: large}, connect.CodeResourceExhausted, "limit of 8.0 MiB"},
		} {
			t.Run(test.name, func(t *testing.T) {
				s, err := startRun(t, c, test.open).end()
				wantCode(t, err, test.code, test.want)
				if s.accepted != nil {
					t.Errorf("accepted: %v", s.accepted)
				}
				if test.code != connect.CodeResourceExhausted {
					return
				}
				want := &aipodv1.SizeLimit{Limit: 8 << 20, Size: 8<<20 + 1}
				if got, _ := factOf[*aipodv1.SizeLimit](err); !proto.Equal(got, want) {
					t.Errorf("detail %v, want %v", got, want)
				}
			})
		}
	})
}

// Of an unnamed job, an input that can't be used ends the stream with an error.
func TestRunBadInput(t *testing.T) {
	const maxPayload = 4 << 20
	tp := startPod(t, func(cfg *Config) { cfg.MaxPayload = maxPayload })
	type script func(t *testing.T, r *run)
	chunks := func(parts ...*aipodv1.Chunk) script {
		return func(_ *testing.T, r *run) {
			for _, c := range parts {
				r.chunk(c)
			}
		}
	}
	ends := func(payload string, end *aipodv1.CloseInput) script {
		return func(_ *testing.T, r *run) {
			r.chunk(chunkOf(0, []byte(payload)))
			r.closeInput(end)
		}
	}
	badSum := chunkOf(0, []byte("abc"))
	badSum.Crc32C = proto.Uint32(1)
	badSize := chunkOf(0, []byte("abc"))
	badSize.RawSize = 4
	large := func(_ *testing.T, r *run) {
		for off := int64(0); off <= maxPayload; off += 1 << 20 {
			r.chunk(chunkOf(off, make([]byte, 1<<20)))
		}
	}
	committed := func(n int64) proto.Message { return &aipodv1.Committed{Offset: n} }
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		for _, test := range []struct {
			name string
			send script
			code connect.Code
			want string
			fact proto.Message
		}{
			{"wrong checksum of a chunk", chunks(badSum), connect.CodeInvalidArgument, "crc32c", nil},
			{"wrong size of a chunk", chunks(badSize), connect.CodeInvalidArgument, "raw size of 4", nil},
			{"not zstd", chunks(&aipodv1.Chunk{Data: []byte("abc"), RawSize: 3, Coding: aipodv1.Coding_CODING_ZSTD}), connect.CodeInvalidArgument, "not a zstd frame", nil},
			{"unknown coding", chunks(&aipodv1.Chunk{Coding: 9}), connect.CodeInvalidArgument, "unknown coding", nil},
			{"negative offset", chunks(chunkOf(-1, []byte("abc"))), connect.CodeInvalidArgument, "before the start", nil},
			{"gap", chunks(chunkOf(0, []byte("abc")), chunkOf(4, []byte("abc"))), connect.CodeOutOfRange, "beyond", committed(3)},
			{"too large", large, connect.CodeResourceExhausted, "limit of 4.0 MiB", &aipodv1.SizeLimit{Limit: maxPayload}},
			{"wrong checksum", ends("abc", endOf([]byte("abd"))), connect.CodeDataLoss, "send it again", committed(0)},
			{"too little", ends("abc", endOf([]byte("abcd"))), connect.CodeOutOfRange, "3 bytes, not 4", committed(3)},
			{"too much", ends("abc", endOf([]byte("ab"))), connect.CodeInvalidArgument, "3 bytes, not 2", nil},
			{"open twice", func(_ *testing.T, r *run) {
				r.send(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{Spec: specOf("hello", "")}}})
			}, connect.CodeInvalidArgument, "open is sent twice", nil},
			{"nothing in a message", func(_ *testing.T, r *run) { r.send(&aipodv1.RunRequest{}) }, connect.CodeInvalidArgument, "neither chunk nor close_input", nil},
			{"no end", func(t *testing.T, r *run) {
				r.chunk(chunkOf(0, []byte("abc")))
				if err := r.stream.CloseRequest(); err != nil {
					t.Error(err)
				}
			}, connect.CodeInvalidArgument, "before close_input", nil},
		} {
			t.Run(test.name, func(t *testing.T) {
				r := startRun(t, c, &aipodv1.Open{Spec: specOf("wait", "")})
				r.accept()
				test.send(t, r)
				s, err := r.end()
				wantCode(t, err, test.code, test.want)
				if s.done != nil || s.failed != nil {
					t.Errorf("done %v, failed %v", s.done, s.failed)
				}
				switch want := test.fact.(type) {
				case *aipodv1.Committed:
					if got, ok := factOf[*aipodv1.Committed](err); !ok || !proto.Equal(got, want) {
						t.Errorf("detail %v, want %v", got, want)
					}
				case *aipodv1.SizeLimit:
					if got, ok := factOf[*aipodv1.SizeLimit](err); !ok || !proto.Equal(got, want) {
						t.Errorf("detail %v, want %v", got, want)
					}
				}
			})
		}
	})
}

func TestRunWithoutOpen(t *testing.T) {
	tp := startPod(t, nil)
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		for name, test := range map[string]struct {
			first *aipodv1.RunRequest
			want  string
		}{
			"chunk":   {&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: chunkOf(0, []byte("abc"))}}, "first message must be open"},
			"close":   {&aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: endOf(nil)}}, "first message must be open"},
			"empty":   {&aipodv1.RunRequest{}, "first message must be open"},
			"nothing": {nil, "no messages"},
		} {
			stream := c.Run(soon(t))
			_ = stream.Send(test.first) // nil is for the headers; Receive says what is wrong
			if test.first == nil {
				if err := stream.CloseRequest(); err != nil {
					t.Fatal(err)
				}
			}
			_, err := stream.Receive()
			wantCode(t, err, connect.CodeInvalidArgument, test.want)
			if err := stream.CloseResponse(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A caller who takes its time with the first message hears from the pod.
func TestRunBeatsBeforeOpen(t *testing.T) {
	tp := startPod(t, nil)
	stream := tp.jobs(t, grpcWay.p).Run(soon(t))
	if err := stream.Send(nil); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Receive(); err != nil || m.GetEvent().GetHeartbeat() == nil {
		t.Errorf("got %v, %v", m, err)
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

// gRPC clients try again by themselves only if the refusal is the whole answer:
// its status is in the headers. It comes before the caller has sent any input.
func TestRunIsRefusedTrailersOnly(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = maxHeartbeat })
	m, err := proto.Marshal(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{Spec: specOf("nope", "")}}})
	if err != nil {
		t.Fatal(err)
	}
	body, more := io.Pipe()
	defer func() { _ = more.Close() }()
	go more.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)) //nolint:errcheck // ends with the pipe
	res := tp.postGRPC(t, aipodv1connect.JobServiceRunProcedure, "", body)
	defer res.Body.Close()
	if got := res.Header.Get("Grpc-Status"); got != "12" {
		t.Errorf("status %q in the headers %v", got, res.Header)
	}
	if got := res.Header.Get("Grpc-Message"); !strings.Contains(got, "not implemented yet") {
		t.Errorf("message %q", got)
	}
}

// An unnamed job ends with its stream, and leaves nothing.
func TestRunClientLeaves(t *testing.T) {
	tp := startPod(t, nil)
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) {
		gone := func(what string) {
			t.Helper()
			eventually(t, what, func() (any, bool) {
				return tp.Spool(), tp.Spool() == spool.Usage{} && tp.table.Len() == 0
			})
		}
		r := startRun(t, c, &aipodv1.Open{Spec: specOf("wait", "")})
		r.chunk(chunkOf(0, randomBytes(2<<20)))
		r.untilCommitted(2 << 20)
		r.cut()
		gone("the upload is still there")

		r = startRun(t, c, &aipodv1.Open{Spec: specOf("wait", "")})
		r.upload(randomBytes(2<<20), 0)
		<-tp.model.started
		begun := time.Now()
		r.cut()
		<-tp.model.gone
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the function was told after %v", took)
		}
		gone("the input is still there")
	})
}

// Silence never lasts longer than the interval, and what the caller waits for
// doesn't wait for the interval.
func TestRunHeartbeats(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = 5 * time.Second })
	c := tp.jobs(t, grpcWay.p)
	r := startRun(t, c, &aipodv1.Open{JobId: "beats", Spec: specOf("hold", ""), Heartbeat: durationpb.New(minHeartbeat)})
	r.closeInput(endOf(nil))
	r.untilState(aipodv1.State_STATE_RUNNING)
	begun := time.Now()
	n := len(r.beats)
	for len(r.beats) < n+4 {
		if _, err := r.next(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("4 beats took %v", took)
	}
	b := r.beats[len(r.beats)-1]
	if b.GetState() != aipodv1.State_STATE_RUNNING || b.GetAttempt() != 1 || b.GetElapsed().AsDuration() <= 0 ||
		b.GetWorkerAge().AsDuration() <= 0 {
		t.Errorf("beat %v", b)
	}
	close(tp.model.release)
	r.result().wantJSON("0")

	begun = time.Now()
	r = startRun(t, c, &aipodv1.Open{Spec: specOf("hello", "")}) // with the pod's own interval
	for i := range int64(10) {
		r.chunk(chunkOf(3*i, []byte("abc")))
		r.untilCommitted(3 * (i + 1))
	}
	r.closeInput(&aipodv1.CloseInput{Size: 30})
	r.result()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("10 chunks and their answers took %v", took)
	}
}
