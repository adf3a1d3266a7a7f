package bench

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"
	"testing/iotest"
)

func read(t *testing.T, kind Kind, size int64, seed uint64, wrap func(io.Reader) io.Reader) []byte {
	t.Helper()
	p, err := NewPayload(kind, size, seed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(wrap(p))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func whole(r io.Reader) io.Reader { return r }

func TestPayloadIsTheSameHoweverItIsRead(t *testing.T) {
	for _, kind := range Kinds {
		for _, size := range []int64{0, 1, 7, 8, 9, 16<<10 - 1, 16 << 10, 100_001} {
			want := read(t, kind, size, 1, whole)
			if int64(len(want)) != size {
				t.Fatalf("%s: %d bytes, want %d", kind, len(want), size)
			}
			for name, wrap := range map[string]func(io.Reader) io.Reader{"one byte": iotest.OneByteReader, "half": iotest.HalfReader} {
				if !bytes.Equal(want, read(t, kind, size, 1, wrap)) {
					t.Errorf("%s of %d bytes, %s at a time, differs", kind, size, name)
				}
			}
			if kind != Zero && size > 8 && bytes.Equal(want, read(t, kind, size, 2, whole)) {
				t.Errorf("%s of %d bytes is the same with another seed", kind, size)
			}
		}
	}
}

func TestPayloadCompressesAsItsKindSays(t *testing.T) {
	const size = 1 << 20
	for kind, limit := range map[Kind][2]float64{Random: {0.99, 1.01}, Text: {0.2, 0.5}, Zero: {0, 0.01}} {
		var out bytes.Buffer
		zw := gzip.NewWriter(&out)
		if _, err := zw.Write(read(t, kind, size, 1, whole)); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		if ratio := float64(out.Len()) / size; ratio < limit[0] || ratio > limit[1] {
			t.Errorf("%s compresses to %.3f of its size, want %v", kind, ratio, limit)
		}
	}
}

func TestPayloadRefuses(t *testing.T) {
	if _, err := NewPayload("noise", 1, 1); err == nil {
		t.Error("an unknown kind is accepted")
	}
	if _, err := NewPayload(Random, -1, 1); err == nil {
		t.Error("a negative size is accepted")
	}
}

func TestPayloadReadsWithoutAllocating(t *testing.T) {
	for _, kind := range Kinds {
		p, err := NewPayload(kind, 1<<40, 1)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64<<10)
		if n := testing.AllocsPerRun(20, func() { _, _ = p.Read(buf) }); n > 0 {
			t.Errorf("%s: %v allocations for each read", kind, n)
		}
	}
}

func BenchmarkPayload(b *testing.B) {
	for _, kind := range Kinds {
		b.Run(string(kind), func(b *testing.B) {
			p, err := NewPayload(kind, 1<<60, 1)
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 1<<20)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = p.Read(buf)
			}
		})
	}
}

// Results of different machines and versions are comparable only if their
// payloads are the same.
func TestPayloadDoesNotChange(t *testing.T) {
	const want = "296f6ecd77c1376ba929819653b66532a40bb9a40756e8ad9d414e43a9ec9936"
	digest := sha256.New()
	for _, kind := range Kinds {
		digest.Write(read(t, kind, 100_000, 42, whole))
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != want {
		t.Errorf("the digest is %s, want %s", got, want)
	}
}

func TestWords(t *testing.T) {
	if len(words) != 64 {
		t.Errorf("%d words, want 64", len(words))
	}
}
