package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// jobFuncs are the functions that only tests of JobService call.
func jobFuncs(m *testModel) map[string]runFunc {
	return map[string]runFunc{
		// big gives a JSON string of n letters.
		"big": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			var a struct{ N int }
			if err := c.DecodeKwargs(&a); err != nil {
				return nil, err
			}
			return json.Marshal(string(slices.Repeat([]byte("x"), a.N)))
		},
		// talk tells n times how far it is, with a line of log after each.
		"talk": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			var a struct{ N int }
			if err := c.DecodeKwargs(&a); err != nil {
				return nil, err
			}
			for i := range a.N {
				c.Progress(int64(i+1), int64(a.N), "steps", "")
				c.Logf("line %d", i+1)
			}
			return json.RawMessage("{}"), nil
		},
		// refuse doesn't like its input, and says so at length.
		"refuse": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			for i := range 25 {
				c.Logf("line %d", i+1)
			}
			return nil, worker.Invalidf("column 3 is empty")
		},
		// hold waits for release, then tells the size of its input.
		"hold": func(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
			select {
			case <-m.release:
				return json.Marshal(c.Input.Size())
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		},
		// grow writes the parts as they come, and tells after each how many.
		"grow": func(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
			parts := m.parts
			w, err := c.OpenOutput()
			if err != nil {
				return nil, err
			}
			for n := int64(1); ; n++ {
				select {
				case part, ok := <-parts:
					if !ok {
						return nil, nil
					}
					if _, err := w.Write(part); err != nil {
						return nil, err
					}
					c.Progress(n, 0, "parts", "")
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
		},
	}
}

// runs is how often the function of a job was begun.
func (m *testModel) runs(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if c.JobID == id {
			n++
		}
	}
	return n
}

// reset makes the model as it was, for the next round. No function runs.
func (m *testModel) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls, m.release, m.parts = nil, make(chan struct{}), make(chan []byte)
	for len(m.started) > 0 {
		<-m.started
	}
}

// jobs makes a client of JobService.
func (tp *testPod) jobs(t testing.TB, p transport.Protocol, opts ...connect.ClientOption) aipodv1connect.JobServiceClient {
	t.Helper()
	base, err := transport.ClientOptions(p)
	if err != nil {
		t.Fatal(err)
	}
	return aipodv1connect.NewJobServiceClient(tp.http, tp.url, append(base, opts...)...)
}

// A way is one of the ways to talk to JobService.
type way struct {
	name string
	p    transport.Protocol
	opts []connect.ClientOption
}

var (
	grpcWay = way{"grpc", transport.GRPC, nil}
	ways    = []way{
		grpcWay,
		{"grpcweb", transport.GRPCWeb, nil},
		{"connect", transport.Connect, nil},
		{"connect json", transport.Connect, []connect.ClientOption{connect.WithProtoJSON()}},
	}
)

// eachWay runs a test over each way, against one pod.
func eachWay(t *testing.T, tp *testPod, test func(t *testing.T, c aipodv1connect.JobServiceClient, w way)) {
	t.Helper()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { test(t, tp.jobs(t, w.p, w.opts...), w) })
	}
}

// soon is a context for what doesn't take long.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func specOf(fn, kwargs string) *aipodv1.Spec {
	return &aipodv1.Spec{Func: fn, KwargsJson: []byte(kwargs)}
}

// chunkOf is a chunk with all that a good client says.
func chunkOf(off int64, data []byte) *aipodv1.Chunk {
	return &aipodv1.Chunk{
		Offset: off, Data: data, Coding: aipodv1.Coding_CODING_RAW, RawSize: int32(len(data)),
		Crc32C: proto.Uint32(codec.Checksum(data)),
	}
}

func packedChunkOf(t testing.TB, off int64, data []byte) *aipodv1.Chunk {
	t.Helper()
	c := chunkOf(off, data)
	c.Coding, c.Data = aipodv1.Coding_CODING_ZSTD, compress(t, data)
	return c
}

func endOf(payload []byte) *aipodv1.CloseInput {
	return &aipodv1.CloseInput{Size: int64(len(payload)), Crc32C: proto.Uint32(codec.Checksum(payload))}
}

// A run is a client's side of a Run.
type run struct {
	t      testing.TB
	stream *connect.BidiStreamForClient[aipodv1.RunRequest, aipodv1.RunResponse]
	cut    func() // leaves without a word
	seen
}

func startRun(t testing.TB, c aipodv1connect.JobServiceClient, open *aipodv1.Open) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(soon(t))
	r := &run{t: t, stream: c.Run(ctx), seen: seen{t: t, offset: open.GetOutputOffset()}}
	r.cut = func() {
		cancel()
		_ = r.stream.CloseResponse() // net/http resets the stream only then
	}
	t.Cleanup(r.cut)
	r.send(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: open}})
	return r
}

// send sends a message; if that fails, it is the answer that says why.
func (r *run) send(m *aipodv1.RunRequest) {
	r.t.Helper()
	if err := r.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		r.t.Log("send:", err)
	}
}

func (r *run) chunk(c *aipodv1.Chunk) {
	r.t.Helper()
	r.send(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: c}})
}

func (r *run) closeInput(end *aipodv1.CloseInput) {
	r.t.Helper()
	r.send(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: end}})
}

// upload sends the payload from an offset on, in chunks, and closes it.
func (r *run) upload(payload []byte, from int64) {
	r.t.Helper()
	off := from
	for _, part := range cut(payload[from:], codec.DefaultChunk) {
		r.chunk(chunkOf(off, part))
		off += int64(len(part))
	}
	r.closeInput(endOf(payload))
}

// next gets an event.
func (r *run) next() (*aipodv1.Event, error) {
	m, err := r.stream.Receive()
	if err != nil {
		return nil, err
	}
	r.add(m.GetEvent())
	return m.GetEvent(), nil
}

// accept gets the first event.
func (r *run) accept() *aipodv1.Accepted {
	r.t.Helper()
	if _, err := r.next(); err != nil {
		r.t.Fatalf("no Accepted: %v", err)
	}
	return r.accepted
}

// until gets events until one of them will do.
func (r *run) until(what string, ok func(*aipodv1.Event) bool) {
	r.t.Helper()
	for {
		e, err := r.next()
		if err != nil {
			r.t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(e) {
			return
		}
	}
}

func (r *run) untilCommitted(n int64) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d bytes to be there", n), func(e *aipodv1.Event) bool { return e.GetHeartbeat().GetCommitted() >= n })
}

func (r *run) untilState(s aipodv1.State) {
	r.t.Helper()
	r.until(s.String(), func(e *aipodv1.Event) bool { return e.GetHeartbeat().GetState() == s })
}

// end gets all that is left. The error is nil at the stream's clean end.
func (r *run) end() (*seen, error) {
	for {
		if _, err := r.next(); err != nil {
			r.cut()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return &r.seen, err
		}
	}
}

// result is what a job must end with.
func (r *run) result() *seen {
	r.t.Helper()
	s, err := r.end()
	if err != nil || s.done == nil {
		r.t.Fatalf("the run ended without Done: failed %v, error %v", s.failed, err)
	}
	return s
}

// seen is what came of a job on one stream.
type seen struct {
	t      testing.TB
	offset int64 // where the output goes on

	accepted *aipodv1.Accepted
	last     uint64 // seq
	states   []aipodv1.State
	beats    []*aipodv1.Heartbeat // without news
	progress []int64
	lines    []string
	output   []byte
	chunks   []*aipodv1.Chunk // without their data
	done     *aipodv1.Done
	failed   *aipodv1.Failed
}

// add takes an event and checks what is promised for all of them.
func (s *seen) add(e *aipodv1.Event) {
	s.t.Helper()
	if (e.GetAccepted() != nil) != (s.accepted == nil) {
		s.t.Errorf("Accepted must be the first event, and only that: %v", e)
	}
	if s.done != nil || s.failed != nil {
		s.t.Errorf("an event after the end: %v", e)
	}
	if e.GetSeq() != 0 {
		if e.GetSeq() <= s.last {
			s.t.Errorf("seq %d comes after %d", e.GetSeq(), s.last)
		}
		s.last = e.GetSeq()
	}
	switch m := e.GetEvent().(type) {
	case *aipodv1.Event_Accepted:
		s.accepted = m.Accepted
	case *aipodv1.Event_Heartbeat:
		if e.GetSeq() == 0 {
			s.beats = append(s.beats, m.Heartbeat)
		} else {
			s.states = append(s.states, m.Heartbeat.GetState())
		}
	case *aipodv1.Event_Progress:
		s.progress = append(s.progress, m.Progress.GetDone())
	case *aipodv1.Event_Log:
		s.lines = append(s.lines, m.Log.GetLine())
	case *aipodv1.Event_Output:
		s.addOutput(m.Output)
	case *aipodv1.Event_Done:
		s.done = m.Done
	case *aipodv1.Event_Failed:
		s.failed = m.Failed
	default:
		s.t.Errorf("unknown event %v", e)
	}
}

func (s *seen) addOutput(c *aipodv1.Chunk) {
	s.t.Helper()
	data, err := chunkFrom(c, nil)
	switch {
	case err != nil || c.Crc32C == nil:
		s.t.Errorf("chunk at %d: crc32c %v, %v", c.GetOffset(), c.Crc32C, err)
	case len(data) == 0 || int(c.GetRawSize()) != len(data):
		s.t.Errorf("chunk at %d has %d bytes, raw_size %d", c.GetOffset(), len(data), c.GetRawSize())
	case c.GetOffset() != s.offset:
		s.t.Errorf("output goes on at %d, not at %d", c.GetOffset(), s.offset)
	}
	s.offset += int64(len(data))
	s.output = append(s.output, data...)
	c.Data = nil
	s.chunks = append(s.chunks, c)
}

// wantJSON is a small result, wantOutput one that came as output.
func (s *seen) wantJSON(text string) {
	s.t.Helper()
	if s.done == nil || s.done.GetHasOutput() || string(s.done.GetResultJson()) != text || s.chunks != nil {
		s.t.Errorf("done %v with %d chunks, want the result %s", s.done, len(s.chunks), text)
	}
}

func (s *seen) wantOutput(whole []byte, from int, isJSON bool) {
	s.t.Helper()
	if string(s.output) != string(whole[from:]) {
		s.t.Errorf("%d bytes of output differ from the %d that were expected", len(s.output), len(whole)-from)
	}
	want := &aipodv1.Done{
		HasOutput: true, OutputSize: int64(len(whole)), OutputCrc32C: codec.Checksum(whole), OutputIsJson: isJSON,
	}
	if !proto.Equal(s.done, want) {
		s.t.Errorf("done %v, want %v", s.done, want)
	}
	for _, c := range s.chunks {
		if c.GetJson() != isJSON {
			s.t.Errorf("a chunk of the output has json %v", c.GetJson())
		}
	}
}

// factOf finds a detail of an error.
func factOf[T proto.Message](err error) (fact T, ok bool) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return fact, false
	}
	for _, d := range ce.Details() {
		if v, verr := d.Value(); verr == nil {
			if fact, ok = v.(T); ok {
				return fact, true
			}
		}
	}
	return fact, false
}
