package bench

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"io"
	"regexp"
	"strconv"
	"strings"
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
			if kind != Zero && size > 64 && bytes.Equal(want, read(t, kind, size, 2, whole)) {
				t.Errorf("%s of %d bytes is the same with another seed", kind, size)
			}
		}
	}
}

func TestPayloadCompressesAsItsKindSays(t *testing.T) {
	const size = 1 << 20
	for kind, limit := range map[Kind][2]float64{Random: {0.99, 1.01}, Text: {0.2, 0.5}, CSV: {0.15, 0.4}, Zero: {0, 0.01}} {
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
	want := map[Kind]string{
		Random: "624eb765175ceb2390115106a443d551bbb265b655fa38f09981000e3abbbb32",
		Text:   "9d826cc7fef30ba38f35b54c55d102f28592835678cbb754391a096775bd0431",
		CSV:    "9850678250f85a767afa585730380866fa1b180a402340c4f353caf22fdc9e81",
		Zero:   "9192c25b734fcbadbe32dadc28089c60db0e39f90cc20ce2e5733f57261acc0c",
	}
	for _, kind := range Kinds {
		digest := sha256.Sum256(read(t, kind, 100_000, 42, whole))
		if got := hex.EncodeToString(digest[:]); got != want[kind] {
			t.Errorf("the digest of %s is %s, want %q", kind, got, want[kind])
		}
	}
}

func TestRowsOfCSV(t *testing.T) {
	data := read(t, CSV, 1<<20, 1, whole)
	rows, err := csv.NewReader(bytes.NewReader(data[:bytes.LastIndexByte(data, '\n')+1])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := regexp.MustCompile(`^\d+,2026-11-[123]\d,(north|south|east|west|centre),-?\d+\.\d{3},\d{1,3},0\.\d{4},(true|false)$`)
	for i, row := range rows {
		if line := strings.Join(row, ","); row[0] != strconv.Itoa(i) || !column.MatchString(line) {
			t.Fatalf("row %d is %s", i, line)
		}
	}
}

func TestAppendFixed(t *testing.T) {
	for _, test := range []struct {
		n      int64
		digits int
		want   string
	}{{0, 3, "0.000"}, {7, 4, "0.0007"}, {-1, 3, "-0.001"}, {1234, 3, "1.234"}, {-100_050, 3, "-100.050"}} {
		if got := string(appendFixed(nil, test.n, test.digits)); got != test.want {
			t.Errorf("%d with %d digits is %s, want %s", test.n, test.digits, got, test.want)
		}
	}
}

func TestWords(t *testing.T) {
	if len(words) != 64 {
		t.Errorf("%d words, want 64", len(words))
	}
}
