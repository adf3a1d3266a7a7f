//go:build !race

// The race detector has sync.Pool drop things at random.

package service

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai/aiconnect"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// A repeated is a gRPC request body: a first message, the same message n times,
// and a last one. It allocates nothing while it is read, so that what a test
// counts is the server's and net/http's.
type repeated struct {
	each []byte
	n    int
	next func(each []byte) // changes each for the next time, if it isn't nil
	last []byte
	rest []byte
}

func envelope(m []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

func newRepeated(kwargs string, chunk, n int) *repeated {
	raw := func(data []byte) []byte {
		return envelope(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), data))
	}
	return &repeated{rest: raw([]byte(kwargs)), each: raw(make([]byte, chunk)), n: n}
}

// newRepeatedRun is a Run: Open, n chunks of zeros, CloseInput.
func newRepeatedRun(t testing.TB, chunk, n int) *repeated {
	t.Helper()
	message := func(m *aipodv1.RunRequest) []byte {
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return envelope(wire)
	}
	// An offset that takes as many bytes as any other does here.
	const mark = 1 << 40
	c := chunkOf(mark, make([]byte, chunk))
	each := message(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: c}})
	at := bytes.Index(each, protowire.AppendVarint(nil, mark))
	size := protowire.SizeVarint(mark)
	off := 0
	set := func(each []byte) {
		v := off
		for i := range size { // a varint with zeros at its end is one, too
			each[at+i] = byte(v)&0x7f | 0x80
			v >>= 7
		}
		each[at+size-1] &= 0x7f
		off += chunk
	}
	end := &aipodv1.CloseInput{Size: int64(n * chunk)}
	return &repeated{
		rest: message(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{Spec: specOf("hello", "")}}}),
		each: each, n: n, next: set,
		last: message(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: end}}),
	}
}

func (r *repeated) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		switch {
		case r.n > 0:
			r.n--
			if r.next != nil {
				r.next(r.each)
			}
			r.rest = r.each
		case r.last != nil:
			r.rest, r.last = r.last, nil
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// uploadPlain uploads n chunks to the function "hello", by chaos or by Run.
func (tp *testPod) uploadPlain(t testing.TB, procedure string, chunk, n int) {
	t.Helper()
	body := newRepeated("{}", chunk, n)
	if procedure == aipodv1connect.JobServiceRunProcedure {
		body = newRepeatedRun(t, chunk, n)
	}
	res := tp.postGRPC(t, procedure, "hello", body)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Contains(answer, []byte(`"hello"`)) || res.Trailer.Get("Grpc-Status") != "0" {
		t.Fatalf("%q, %v, %v", answer, res.Trailer, err)
	}
}

// The chunk sizes of the seed's client and of ours.
const (
	seedChunk = 32 << 10
	ourChunk  = 1<<20 - 1<<10
)

// BenchmarkUpload uploads 1 GiB, identity, through the whole server to the
// spool; B/op includes the HTTP client's share.
func BenchmarkUpload(b *testing.B) {
	for _, chunk := range []int{seedChunk, ourChunk} {
		b.Run(map[int]string{seedChunk: "chunk=32KiB", ourChunk: "chunk=1MiB-1KiB"}[chunk], func(b *testing.B) {
			tp := startPod(b, nil)
			b.ReportAllocs()
			b.SetBytes(1 << 30)
			for b.Loop() {
				tp.uploadPlain(b, aiconnect.AIChaosProcedure, chunk, 1<<30/chunk)
				<-tp.model.started
			}
		})
	}
}

// An upload may allocate 20 MiB for each GiB, in server and HTTP client
// together.
func TestUploadAllocations(t *testing.T) {
	const size, limit = 1 << 30, 20 << 20
	for _, test := range []struct {
		procedure string
		chunk     int
	}{
		{aiconnect.AIChaosProcedure, seedChunk},
		{aiconnect.AIChaosProcedure, ourChunk},
		{aipodv1connect.JobServiceRunProcedure, ourChunk},
	} {
		tp := startPod(t, nil)
		tp.uploadPlain(t, test.procedure, test.chunk, 1) // connect
		got := leastAllocated(limit, func() { tp.uploadPlain(t, test.procedure, test.chunk, size/test.chunk) })
		t.Logf("%s, chunks of %d: %.1f MiB allocated for %d MiB", test.procedure, test.chunk, float64(got)/(1<<20), size>>20)
		if got > limit {
			t.Errorf("%s, chunks of %d: %.1f MiB allocated for %d MiB, want at most %d",
				test.procedure, test.chunk, float64(got)/(1<<20), size>>20, limit>>20)
		}
	}
}

// leastAllocated is the least of up to three times, until it is at most limit: on a
// busy machine pools are emptied more often.
func leastAllocated(limit uint64, do func()) (least uint64) {
	for try := range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; try == 0 || n < least {
			least = n
		}
		if least <= limit {
			break
		}
	}
	return least
}

// downloadPlain reads a job's output of size bytes, as it comes.
func (tp *testPod) downloadPlain(t testing.TB, id string, size int64) {
	t.Helper()
	m, err := proto.Marshal(&aipodv1.WatchJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	res := tp.postGRPC(t, aipodv1connect.JobServiceWatchJobProcedure, "", bytes.NewReader(envelope(m)))
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n < size || res.Trailer.Get("Grpc-Status") != "0" {
		t.Fatalf("%d bytes of %d, %v, %v", n, size, res.Trailer, err)
	}
}

// A download may allocate 20 MiB for each GiB, in server and HTTP client together.
func TestDownloadAllocations(t *testing.T) {
	const size, limit = 256 << 20, 20 << 20 >> 2
	tp := startPod(t, nil)
	block := randomBytes(1 << 20)
	tp.model.funcs["blocks"] = func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		w, err := c.OpenOutput()
		for n := 0; n < size && err == nil; n += len(block) {
			_, err = w.Write(block)
		}
		return nil, err
	}
	s := steps{t, tp.jobs(t, transport.GRPC)}
	s.mustCreate("big", specOf("blocks", "{}"))
	s.mustWrite("big", nil, endOf(nil))
	tp.downloadPlain(t, "big", size) // and waits for the job
	got := leastAllocated(limit, func() { tp.downloadPlain(t, "big", size) })
	t.Logf("%.1f MiB allocated for %d MiB", float64(got)/(1<<20), size>>20)
	if got > limit {
		t.Errorf("%.1f MiB allocated for %d MiB, want at most %d", float64(got)/(1<<20), size>>20, limit>>20)
	}
}
