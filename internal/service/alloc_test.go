//go:build !race

// The race detector has sync.Pool drop things at random.

package service

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/aipod/aipod/gen/ai/aiconnect"
)

// A repeated is a gRPC request body: kwargs, then the same message n times. It
// allocates nothing while it is read, so that what a test counts is the server's
// and net/http's.
type repeated struct {
	each []byte
	n    int
	rest []byte
}

func newRepeated(kwargs string, chunk, n int) *repeated {
	envelope := func(data []byte) []byte {
		m := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), data)
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
	}
	r := &repeated{each: envelope(make([]byte, chunk)), n: n}
	r.rest = envelope([]byte(kwargs))
	return r
}

func (r *repeated) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.n == 0 {
			return 0, io.EOF
		}
		r.n--
		r.rest = r.each
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// uploadPlain uploads n chunks to the function "hello".
func (tp *testPod) uploadPlain(t testing.TB, chunk, n int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tp.url+aiconnect.AIChaosProcedure, newRepeated("{}", chunk, n))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set(headerFunc, "hello")
	res, err := tp.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
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
				tp.uploadPlain(b, chunk, 1<<30/chunk)
				<-tp.model.started
			}
		})
	}
}

// An upload may allocate 24 MiB for each GiB, in server and HTTP client
// together.
func TestUploadAllocations(t *testing.T) {
	const size, limit = 1 << 30, 24 << 20
	for _, chunk := range []int{seedChunk, ourChunk} {
		tp := startPod(t, nil)
		tp.uploadPlain(t, chunk, 1) // connect
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		tp.uploadPlain(t, chunk, size/chunk)
		runtime.ReadMemStats(&after)
		got := after.TotalAlloc - before.TotalAlloc
		t.Logf("chunks of %d: %.1f MiB allocated for %d MiB", chunk, float64(got)/(1<<20), size>>20)
		if got > limit {
			t.Errorf("chunks of %d: %.1f MiB allocated for %d MiB, want at most 24", chunk, float64(got)/(1<<20), size>>20)
		}
	}
}
