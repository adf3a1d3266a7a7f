package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"testing"
)

func openFile(t *testing.T, s *Spool, name string, limit int64) *File {
	t.Helper()
	f, err := s.OpenFile(name, limit)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, f *File, off int, p []byte) {
	t.Helper()
	want := max(f.Committed(), int64(off+len(p)))
	if n, err := f.Put(int64(off), p); n != want || err != nil {
		t.Fatalf("Put of %d bytes at %d: %d, %v; want %d", len(p), off, n, err, want)
	}
}

func closeFile(t *testing.T, f *File) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func crcOf(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// wantFile checks all that a File says about its content.
func wantFile(t *testing.T, f *File, want []byte) {
	t.Helper()
	if f.Committed() != int64(len(want)) {
		t.Errorf("%d bytes are committed, want %d", f.Committed(), len(want))
	}
	if crc, err := f.CRC32C(); err != nil || crc != crcOf(want) {
		t.Errorf("crc32c %08x, %v; want %08x", crc, err, crcOf(want))
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d other bytes of %d, %v", len(got), len(want), err)
	}
	if got, err := os.ReadFile(f.path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has %d other bytes of %d, %v", len(got), len(want), err)
	}
}

func TestFileRoundTrip(t *testing.T) {
	const n = blockSize
	for _, size := range []int{0, 1, n - 1, n, n + 1, 3 * n} {
		for _, cut := range []int{1000, n - 1, n, n + 1, 3 * n} {
			t.Run(fmt.Sprintf("%d by %d", size, cut), func(t *testing.T) {
				s := open(t, Config{})
				data := pattern(size)
				f := openFile(t, s, "job-1.in", 0)
				scratch := make([]byte, cut)
				for off := 0; off < size; {
					k := copy(scratch, data[off:])
					put(t, f, off, scratch[:k])
					put(t, f, off, scratch[:k]) // repeated
					clear(scratch)              // it must not be kept
					off += k
				}
				wantFile(t, f, data)
				wantUsage(t, s, Usage{Bytes: int64(size), Files: 1})

				b, err := f.Seal(int64(size), crcOf(data))
				if err != nil {
					t.Fatal(err)
				}
				if got := content(t, b); !bytes.Equal(got, data) {
					t.Errorf("the Blob has %d other bytes", len(got))
				}
				if path, err := b.Path(); path != f.path || err != nil {
					t.Errorf("Path: %q, %v; want %q", path, err, f.path)
				}
				remove(t, b)
				remove(t, b)
				if _, err := b.Open(); err == nil {
					t.Error("a removed Blob was opened")
				}
				wantFile(t, f, data) // it is still there
				wantUsage(t, s, Usage{Bytes: int64(size), Files: 1})
				removeFile(t, s, "job-1.in")
				removeFile(t, s, "job-1.in")
				wantUsage(t, s, Usage{})
				if _, err := os.Stat(f.path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the file is still there: %v", err)
				}
			})
		}
	}
}

func TestFilePutOverlap(t *testing.T) {
	const have = 2*blockSize + 100 // more than one block to compare
	tests := []struct {
		name     string
		off, end int
		flip     int // the byte that differs, -1 for none
		conflict bool
	}{
		{"at the end", have, have + 10, -1, false},
		{"nothing at the start", 0, 0, -1, false},
		{"nothing at the end", have, have, -1, false},
		{"before", 10, 20, -1, false},
		{"first byte", 0, 1, -1, false},
		{"last byte", have - 1, have, -1, false},
		{"equal", 0, have, -1, false},
		{"across", have - 10, have + 10, -1, false},
		{"across by one", have - 1, have + 1, -1, false},
		{"from the start to beyond", 0, have + blockSize, -1, false},
		{"conflict in the first byte", 0, have, 0, true},
		{"conflict in the last byte", 0, have, have - 1, true},
		{"conflict in the last byte, across", have - 10, have + 10, have - 1, true},
		{"conflict at the end of a block", 5, have, 5 + blockSize - 1, true},
		{"conflict at the start of a block", 5, have, 5 + blockSize, true},
		{"conflict in one byte", 7, 8, 7, true},
		{"another byte beyond", have - 10, have + 10, have, false},
	}
	for _, reopen := range []bool{false, true} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s, reopened %v", test.name, reopen), func(t *testing.T) {
				s := open(t, Config{})
				defer removeFile(t, s, "f")
				data := pattern(have + blockSize)
				f := openFile(t, s, "f", 0)
				put(t, f, 0, data[:have])
				if reopen {
					closeFile(t, f)
					f = openFile(t, s, "f", 0)
				}
				if test.flip >= 0 {
					data[test.flip] ^= 0x80
				}
				n, err := f.Put(int64(test.off), data[test.off:test.end])
				if !test.conflict {
					if want := max(have, test.end); n != int64(want) || err != nil {
						t.Fatalf("got %d, %v; want %d", n, err, want)
					}
					wantFile(t, f, data[:max(have, test.end)])
					return
				}
				var conflict *ConflictError
				if n != have || !errors.As(err, &conflict) || conflict.Offset != int64(test.flip) {
					t.Fatalf("got %d, %v; want a conflict at %d", n, err, test.flip)
				}
				wantFile(t, f, pattern(have))
				put(t, f, have, data[have:]) // it goes on
			})
		}
	}
}

func TestFilePutGap(t *testing.T) {
	s := open(t, Config{})
	defer removeFile(t, s, "f")
	f := openFile(t, s, "f", 0)
	for _, have := range []int{0, 100} {
		put(t, f, 0, pattern(have))
		for _, off := range []int64{int64(have) + 1, 1 << 62} {
			for _, size := range []int{0, 10} {
				n, err := f.Put(off, pattern(size))
				var gap *GapError
				if n != int64(have) || !errors.As(err, &gap) || *gap != (GapError{Committed: int64(have), Offset: off}) {
					t.Errorf("%d bytes at %d: %d, %v", size, off, n, err)
				}
			}
		}
		if n, err := f.Put(-1, pattern(10)); n != int64(have) || err == nil {
			t.Errorf("at -1: %d, %v", n, err)
		}
		wantFile(t, f, pattern(have))
	}
}

func TestFileLimit(t *testing.T) {
	s := open(t, Config{})
	data := pattern(101)
	f := openFile(t, s, "f", 100)
	put(t, f, 0, data[:99])
	n, err := f.Put(90, data[90:101])
	var over *LimitError
	if n != 99 || !errors.As(err, &over) || over.Limit != 100 {
		t.Fatalf("one over: %d, %v", n, err)
	}
	wantFile(t, f, data[:99])
	put(t, f, 90, data[90:100])
	put(t, f, 0, data[:100])
	wantFile(t, f, data[:100])

	// Opened with a lower limit, it keeps what it has and takes no more.
	closeFile(t, f)
	f = openFile(t, s, "f", 50)
	put(t, f, 0, data[:100])
	if n, err := f.Put(100, data[100:]); n != 100 || !errors.As(err, &over) || over.Limit != 50 {
		t.Errorf("over the lower limit: %d, %v", n, err)
	}
	wantFile(t, f, data[:100])
	removeFile(t, s, "f")
}

func TestFileBudget(t *testing.T) {
	s := open(t, Config{Budget: 1000})
	data := pattern(1001)
	f, other := openFile(t, s, "f", 0), openFile(t, s, "other", 0)
	put(t, other, 0, data[:100])
	put(t, f, 0, data[:890])
	n, err := f.Put(890, data[890:901])
	var full *BudgetError
	if n != 890 || !errors.As(err, &full) || *full != (BudgetError{Budget: 1000, Used: 990}) {
		t.Fatalf("one over: %d, %v", n, err)
	}
	wantUsage(t, s, Usage{Bytes: 990, Files: 2})
	put(t, f, 890, data[890:900])

	// The next process counts them, even against a budget that is smaller now.
	s.cfg.Budget = 999
	s = crash(t, s)
	wantUsage(t, s, Usage{Bytes: 1000, Files: 2})
	f = openFile(t, s, "f", 0)
	put(t, f, 0, data[:900]) // takes nothing
	if err := s.Fits(0); err != nil {
		t.Error(err)
	}
	if n, err := f.Put(900, data[900:901]); n != 900 || !errors.As(err, &full) {
		t.Errorf("over a budget that is overdrawn: %d, %v", n, err)
	}
	w := s.Create(0)
	if _, err := w.Write(data[:1]); !errors.As(err, &full) {
		t.Errorf("a Writer over a budget that is overdrawn: %v", err)
	}
	discard(t, w)
	removeFile(t, s, "other")
	put(t, f, 900, data[900:999]) // the same File goes on
	wantFile(t, f, data[:999])
	removeFile(t, s, "f")
	wantUsage(t, s, Usage{})
}

func TestFileSeal(t *testing.T) {
	s := open(t, Config{})
	data := pattern(100)
	f := openFile(t, s, "f", 0)
	put(t, f, 0, data)
	if _, err := s.OpenSealed("f"); !errors.Is(err, ErrOpen) {
		t.Errorf("OpenSealed before Seal: %v", err)
	}
	for _, size := range []int64{0, 99, 101} {
		var e *SizeError
		if _, err := f.Seal(size, crcOf(data)); !errors.As(err, &e) || *e != (SizeError{Committed: 100, Size: size}) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	var sum *ChecksumError
	if _, err := f.Seal(100, 1); !errors.As(err, &sum) || *sum != (ChecksumError{Got: crcOf(data), Want: 1}) {
		t.Errorf("another checksum: %v", err)
	}
	if f.Sealed() {
		t.Error("sealed by mistake")
	}
	put(t, f, 100, nil)
	if _, err := f.Seal(100, crcOf(data)); err != nil {
		t.Fatal(err)
	}
	// What was said stays said; nothing is synced again.
	file := f.file
	f.file = closedHandle(t)
	if _, err := f.Seal(100, crcOf(data)); err != nil || !f.Sealed() {
		t.Errorf("again: %v", err)
	}
	f.file = file
	if _, err := f.Seal(100, 1); !errors.As(err, &sum) {
		t.Errorf("another checksum after Seal: %v", err)
	}
	put(t, f, 50, data[50:])
	if n, err := f.Put(99, []byte{data[99], 1}); n != 100 || !errors.Is(err, ErrSealed) {
		t.Errorf("a byte after Seal: %d, %v", n, err)
	}
	if n, err := f.Put(99, []byte{data[99] + 1, 1}); n != 100 || !errors.As(err, new(*ConflictError)) {
		t.Errorf("another byte after Seal: %d, %v", n, err)
	}

	// By name, while it is open, closed, and in the next process.
	for i := range 3 {
		b, err := s.OpenSealed("f")
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, b); !bytes.Equal(got, data) {
			t.Errorf("got %d other bytes", len(got))
		}
		remove(t, b)
		wantUsage(t, s, Usage{Bytes: 100, Files: 1})
		switch i {
		case 0:
			closeFile(t, f)
		case 1:
			s = crash(t, s)
		}
	}
	removeFile(t, s, "f")
	if _, err := s.OpenSealed("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenSealed of nothing: %v", err)
	}
	wantUsage(t, s, Usage{})
}

// closedHandle is a file that fails in whatever is asked of it.
func closedHandle(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// After a failed fsync nobody knows what is on the disk.
func TestFileSealFails(t *testing.T) {
	s := open(t, Config{})
	f := openFile(t, s, "f", 0)
	put(t, f, 0, pattern(100))
	file := f.file
	f.file = closedHandle(t)
	_, first := f.Seal(100, crcOf(pattern(100)))
	f.file = file
	if first == nil || f.Sealed() {
		t.Fatal("sealed without a sync")
	}
	for range 2 {
		if _, err := f.Seal(100, crcOf(pattern(100))); err != first { //nolint:errorlint // unchanged
			t.Errorf("Seal again: %v; first %v", err, first)
		}
		if n, err := f.Put(0, pattern(101)); n != 100 || err != first { //nolint:errorlint // unchanged
			t.Errorf("Put: %d, %v; first %v", n, err, first)
		}
		closeFile(t, f)
		f = openFile(t, s, "f", 0)
	}
	removeFile(t, s, "f")
	f = openFile(t, s, "f", 0)
	put(t, f, 0, pattern(101))
	removeFile(t, s, "f")
}

func TestFileReadAt(t *testing.T) {
	s := open(t, Config{})
	defer removeFile(t, s, "f")
	f := openFile(t, s, "f", 0)
	put(t, f, 0, pattern(100))
	for _, test := range []struct {
		off  int64
		size int
		want int
		err  error
	}{
		{0, 100, 100, nil}, {0, 101, 100, io.EOF}, {99, 1, 1, nil}, {99, 2, 1, io.EOF},
		{100, 1, 0, io.EOF}, {100, 0, 0, nil}, {1 << 62, 1, 0, io.EOF},
	} {
		p := make([]byte, test.size)
		n, err := f.ReadAt(p, test.off)
		if n != test.want || err != test.err { //nolint:errorlint // as io.ReaderAt has it
			t.Errorf("%d bytes at %d: %d, %v; want %d, %v", test.size, test.off, n, err, test.want, test.err)
		}
		if n > 0 && !bytes.Equal(p[:n], pattern(100)[test.off:][:n]) {
			t.Errorf("%d bytes at %d: %x", test.size, test.off, p[:n])
		}
	}
	if _, err := f.ReadAt(make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("at -1: %v", err)
	}
	// Someone cut it: that isn't an end.
	if err := os.Truncate(f.path, 50); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 100), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that was cut: %v", err)
	}
	if n, err := f.Put(0, pattern(100)); n != 100 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a repetition to a file that was cut: %d, %v", n, err)
	}
}

func TestFilePutDoesNotAllocate(t *testing.T) {
	s := open(t, Config{})
	defer removeFile(t, s, "f")
	f := openFile(t, s, "f", 0)
	p := pattern(2 * blockSize)
	off := int64(0)
	if n := testing.AllocsPerRun(50, func() {
		if _, err := f.Put(off, p); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Put(off, p); err != nil { // compared
			t.Fatal(err)
		}
		off += int64(len(p))
	}); n >= 1 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkFilePut puts chunks of the size that streams use, over and over up
// to 256 MiB. A File that was reopened leaves its checksum for later, which is
// what it costs without.
func BenchmarkFilePut(b *testing.B) {
	const chunk, most = 1<<20 - 1<<10, 256
	p := pattern(chunk)
	for _, summed := range []bool{true, false} {
		b.Run(fmt.Sprintf("crc=%v", summed), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(chunk)
			b.ReportAllocs()
			var f *File
			off := int64(0)
			for i := range b.N {
				if i%most == 0 {
					b.StopTimer()
					if err := s.RemoveFile("f"); err != nil {
						b.Fatal(err)
					}
					if f, err = s.OpenFile("f", 0); err != nil {
						b.Fatal(err)
					}
					if off, err = f.Put(0, p[:1]); err != nil {
						b.Fatal(err)
					}
					if !summed {
						if err := f.Close(); err != nil {
							b.Fatal(err)
						}
						if f, err = s.OpenFile("f", 0); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
				if off, err = f.Put(off, p); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			if err := s.RemoveFile("f"); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func TestFileErrorsSayTheFacts(t *testing.T) {
	for want, err := range map[string]error{
		"byte 7 of the payload is there already and differs":       &ConflictError{Offset: 7},
		"offset 9 is beyond the 7 bytes of payload that are there": &GapError{Committed: 7, Offset: 9},
		"the payload has 7 bytes, not 9":                           &SizeError{Committed: 7, Size: 9},
		"the payload has crc32c 0000000a, not ffffffff":            &ChecksumError{Got: 10, Want: 1<<32 - 1},
	} {
		if err.Error() != want {
			t.Errorf("%T: %q, want %q", err, err, want)
		}
	}
}
