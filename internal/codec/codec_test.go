package codec

import (
	"errors"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// block is the most that one zstd block holds, in bytes.
const block = 128 << 10

// rows makes n bytes that compress about as well as a table does: few different
// symbols, and some repetition.
func rows(n int) []byte {
	r := rand.New(rand.NewSource(1))
	b := make([]byte, n)
	_, _ = r.Read(b)
	for i := range b {
		b[i] = "0123456789,.;-e\n"[b[i]>>4]
	}
	for i := 400; i+50 < n; i += 150 {
		at := r.Intn(i - 50)
		copy(b[i:], b[at:at+50])
	}
	return b
}

var testEncoder = sync.OnceValue(func() *zstd.Encoder {
	return must(zstd.NewWriter(nil, zstd.WithWindowSize(2<<20)))
})

// encode makes one frame; without opts, one with a checksum.
func encode(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	if len(opts) == 0 {
		return testEncoder().EncodeAll(data, nil)
	}
	enc, err := zstd.NewWriter(nil, append([]zstd.EOption{
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(2 << 20), zstd.WithLowerEncoderMem(true),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(data, nil)
}

// wantPayloadError checks the type of err, and that its reason has all parts.
func wantPayloadError(t testing.TB, err error, parts ...string) {
	t.Helper()
	var p *PayloadError
	if !errors.As(err, &p) {
		t.Fatalf("got %T %v, want a *PayloadError", err, err)
	}
	for _, part := range parts {
		if !strings.Contains(p.Reason, part) {
			t.Fatalf("got reason %q, want it to contain %q", p.Reason, part)
		}
	}
}

// noLeak fails the test if it leaves goroutines behind.
func noLeak(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for wait := time.Millisecond; runtime.NumGoroutine() > before; wait *= 2 {
			if wait > time.Second {
				t.Errorf("%d goroutines, %d before the test", runtime.NumGoroutine(), before)
				return
			}
			time.Sleep(wait) // what has ended may not be gone yet
		}
	})
}

// heap is the memory in use, in bytes, after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// allocated is how many bytes do allocates, in all.
func allocated(do func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}
