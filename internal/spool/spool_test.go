package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// open makes a Spool in a directory of its own, and checks at the end of the
// test that nothing is left in either.
func open(t *testing.T, cfg Config) *Spool {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		wantUsage(t, s, Usage{})
		left, err := filepath.Glob(filepath.Join(cfg.Dir, filePrefix+"*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return s
}

func wantUsage(t *testing.T, s *Spool, want Usage) {
	t.Helper()
	if diff := cmp.Diff(want, s.Usage()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

// pattern is n bytes that tell where they were.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func write(t *testing.T, w *Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

func seal(t *testing.T, w *Writer) *Blob {
	t.Helper()
	b, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func remove(t *testing.T, b *Blob) {
	t.Helper()
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
}

func discard(t *testing.T, w *Writer) {
	t.Helper()
	if err := w.Discard(); err != nil {
		t.Fatal(err)
	}
}

// content reads a Blob through Open and, when it has one, its file.
func content(t *testing.T, b *Blob) []byte {
	t.Helper()
	r, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(got)) != b.Size() {
		t.Errorf("Size is %d, read %d bytes", b.Size(), len(got))
	}
	return got
}

func TestRoundTrip(t *testing.T) {
	const inline = 1000
	for _, n := range []int{0, 1, inline - 1, inline, inline + 1, 2 * inline, 100 * inline} {
		for _, cut := range []int{1, 7, inline - 1, inline, inline + 1, 100 * inline} {
			t.Run(fmt.Sprintf("%d by %d", n, cut), func(t *testing.T) {
				s := open(t, Config{Inline: inline})
				w := s.Create(0)
				data := pattern(n)
				scratch := make([]byte, cut)
				for rest := data; len(rest) > 0; {
					k := copy(scratch, rest)
					write(t, w, scratch[:k])
					clear(scratch) // it must not be kept
					rest = rest[k:]
					if want := int64(n - len(rest)); w.Size() != want || s.Usage().Bytes != want {
						t.Fatalf("wrote %d bytes: Size %d, %+v", want, w.Size(), s.Usage())
					}
				}
				b := seal(t, w)
				usage := s.Usage()
				if wantFiles := boolInt(n > inline); usage.Files != wantFiles || usage.Bytes != int64(n) {
					t.Errorf("usage %+v, want %d files", usage, wantFiles)
				}
				if usage.Inline > inline || n > inline && usage.Inline != 0 || n <= inline && usage.Inline < int64(n) {
					t.Errorf("%d bytes take %d bytes of memory", n, usage.Inline)
				}
				if got := content(t, b); !bytes.Equal(got, data) {
					t.Errorf("got %d other bytes", len(got))
				}
				path, err := b.Path()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
					t.Errorf("the file has %d other bytes, %v", len(got), err)
				}
				if again, err := b.Path(); again != path || err != nil {
					t.Errorf("Path again: %q, %v; first %q", again, err, path)
				}
				wantUsage(t, s, Usage{Bytes: int64(n), Files: 1})
				if got := content(t, b); !bytes.Equal(got, data) {
					t.Errorf("after Path: got %d other bytes", len(got))
				}
				remove(t, b)
				remove(t, b)
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file is still there: %v", err)
				}
				if _, err := b.Open(); err == nil {
					t.Error("a removed payload was opened")
				}
				if _, err := b.Path(); err == nil {
					t.Error("a removed payload has a path")
				}
			})
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestReadersAreIndependent(t *testing.T) {
	s := open(t, Config{Inline: 10})
	for _, n := range []int{10, 11} {
		w := s.Create(0)
		write(t, w, pattern(n))
		b := seal(t, w)
		first, err := b.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Seek(5, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got := content(t, b); !bytes.Equal(got, pattern(n)) {
			t.Errorf("the second reader got %x", got)
		}
		if got, err := io.ReadAll(first); err != nil || !bytes.Equal(got, pattern(n)[5:]) {
			t.Errorf("the first reader got %x, %v", got, err)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		remove(t, b)
	}
}

func TestInlineNone(t *testing.T) {
	s := open(t, Config{Inline: -1})
	w := s.Create(0)
	b := seal(t, w)
	remove(t, b)
	w = s.Create(0)
	write(t, w, []byte("x"))
	wantUsage(t, s, Usage{Bytes: 1, Files: 1})
	discard(t, w)
}

func TestInlineTotal(t *testing.T) {
	s := open(t, Config{Inline: 1000, InlineTotal: 1600})
	first, second, third := s.Create(0), s.Create(0), s.Create(0)
	write(t, first, pattern(1000))
	wantUsage(t, s, Usage{Bytes: 1000, Inline: 1000})
	write(t, second, pattern(600)) // all there is
	wantUsage(t, s, Usage{Bytes: 1600, Inline: 1600})
	write(t, third, pattern(1)) // nothing left for it
	wantUsage(t, s, Usage{Bytes: 1601, Inline: 1600, Files: 1})
	write(t, second, pattern(1)) // may not grow, so it leaves
	wantUsage(t, s, Usage{Bytes: 1602, Inline: 1000, Files: 2})
	fourth := s.Create(0)
	write(t, fourth, pattern(1)) // the least buffer is 512 bytes
	wantUsage(t, s, Usage{Bytes: 1603, Inline: 1512, Files: 2})
	b := seal(t, second)
	if got := content(t, b); !bytes.Equal(got, append(pattern(600), pattern(1)...)) {
		t.Errorf("got %d other bytes", len(got))
	}
	remove(t, b)
	held := seal(t, fourth) // a Blob counts like its Writer
	wantUsage(t, s, Usage{Bytes: 1002, Inline: 1512, Files: 1})
	remove(t, held)
	discard(t, first)
	discard(t, third)
}

func TestLimit(t *testing.T) {
	const limit = 100
	for _, inline := range []int{-1, 1000} {
		for _, n := range []int{0, 1, limit - 1, limit, limit + 1} {
			for _, cut := range []int{1, 50, limit + 1} {
				s := open(t, Config{Inline: inline})
				w := s.Create(limit)
				err := error(nil)
				for rest := pattern(n); len(rest) > 0 && err == nil; {
					k := min(cut, len(rest))
					_, err = w.Write(rest[:k])
					rest = rest[k:]
				}
				var over *LimitError
				switch {
				case n <= limit:
					if err != nil || w.Size() != int64(n) {
						t.Errorf("%d bytes by %d: size %d, %v", n, cut, w.Size(), err)
					}
				case !errors.As(err, &over) || over.Limit != limit || err.Error() != "payload is larger than the limit of 100 B":
					t.Errorf("%d bytes by %d: %v", n, cut, err)
				default:
					wantSticky(t, w, err)
				}
				discard(t, w)
				discard(t, w)
				wantUsage(t, s, Usage{})
			}
		}
	}
}

// wantSticky checks that a Writer that failed with err only fails from then on.
func wantSticky(t *testing.T, w *Writer, err error) {
	t.Helper()
	size := w.Size()
	if n, again := w.Write([]byte("x")); n != 0 || again != err { //nolint:errorlint // unchanged
		t.Errorf("Write again: %d, %v; first %v", n, again, err)
	}
	if b, again := w.Seal(); b != nil || again != err { //nolint:errorlint // unchanged
		t.Errorf("Seal: %v; first %v", again, err)
	}
	if w.Size() != size {
		t.Errorf("Size went from %d to %d", size, w.Size())
	}
}

func TestBudget(t *testing.T) {
	const budget = 1000
	s := open(t, Config{Budget: budget, Inline: 300})
	first := s.Create(0)
	write(t, first, pattern(600))
	for size, fits := range map[int64]bool{0: true, 399: true, 400: true, 401: false, 1 << 62: false} {
		if err := s.Fits(size); (err == nil) != fits {
			t.Errorf("Fits(%d): %v", size, err)
		}
	}
	second := s.Create(0)
	write(t, second, pattern(399))
	write(t, second, pattern(1))
	_, err := second.Write(pattern(1))
	var full *BudgetError
	if !errors.As(err, &full) || full.Budget != budget || full.Used != budget {
		t.Errorf("one over: %v, %+v", err, full)
	}
	wantSticky(t, second, err)
	wantUsage(t, s, Usage{Bytes: 1000, Files: 2})
	b := seal(t, first)
	wantUsage(t, s, Usage{Bytes: 1000, Files: 2}) // sealing takes nothing
	discard(t, second)
	wantUsage(t, s, Usage{Bytes: 600, Files: 1})
	third := s.Create(0)
	write(t, third, pattern(400))
	discard(t, third)
	remove(t, b)
	wantUsage(t, s, Usage{})
	whole := s.Create(0)
	write(t, whole, pattern(budget))
	discard(t, whole)
}

func TestSealAndDiscardTwice(t *testing.T) {
	s := open(t, Config{Inline: 10})
	for _, n := range []int{0, 5, 50} {
		w := s.Create(0)
		write(t, w, pattern(n))
		b := seal(t, w)
		if _, err := w.Seal(); err == nil {
			t.Error("sealed twice")
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("wrote after Seal")
		}
		discard(t, w) // does nothing: the Blob has it
		if got := content(t, b); !bytes.Equal(got, pattern(n)) {
			t.Errorf("Discard after Seal left %d bytes", len(got))
		}
		remove(t, b)

		w = s.Create(0)
		write(t, w, pattern(n))
		discard(t, w)
		discard(t, w)
		wantUsage(t, s, Usage{})
		if _, err := w.Seal(); err == nil {
			t.Error("sealed after Discard")
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("wrote after Discard")
		}
		wantUsage(t, s, Usage{})
	}
}

func TestOpenRemovesLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b") // made when missing
	s, err := Open(Config{Dir: dir, Inline: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(0)
	write(t, w, pattern(100))
	b := seal(t, w)
	path, err := b.Path()
	if err != nil {
		t.Fatal(err)
	}
	unsealed := s.Create(0)
	write(t, unsealed, pattern(100))
	other := filepath.Join(dir, "jobs.db")
	if err := os.WriteFile(other, []byte("jobs"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The process dies here, and the next one begins.
	if err := unsealed.file.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
	if got, err := os.ReadFile(other); string(got) != "jobs" || err != nil {
		t.Errorf("the other file: %q, %v", got, err)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		if _, err := Open(Config{Dir: dir}); err == nil {
			t.Errorf("opened %q", dir)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows has no such permissions")
	}
	s := open(t, Config{Inline: -1})
	w := s.Create(0)
	write(t, w, pattern(1))
	b := seal(t, w)
	path, err := b.Path()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	remove(t, b)
}

func TestConcurrentWriters(t *testing.T) {
	s := open(t, Config{Inline: 1000, InlineTotal: 5000, Budget: 1 << 20})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 10 {
				data := pattern(137 * (i + n))
				w := s.Create(0)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = w.Size() // any goroutine may
					_ = s.Usage()
					_ = s.Fits(1)
				}()
				for rest := data; len(rest) > 0; {
					k := min(500, len(rest))
					write(t, w, rest[:k])
					rest = rest[k:]
				}
				<-done
				if n%3 == 0 {
					discard(t, w)
					continue
				}
				b := seal(t, w)
				var readers sync.WaitGroup
				for range 2 {
					readers.Go(func() {
						if _, err := b.Path(); err != nil {
							t.Error(err)
						}
						if got := content(t, b); !bytes.Equal(got, data) {
							t.Errorf("got %d other bytes of %d", len(got), len(data))
						}
					})
				}
				readers.Wait()
				remove(t, b)
			}
		})
	}
	wg.Wait()
}

// Writers compete for a budget that has room for some of them.
func TestConcurrentWritersOverBudget(t *testing.T) {
	const budget, each = 10_000, 1000
	s := open(t, Config{Inline: 500, Budget: budget})
	var wg sync.WaitGroup
	blobs := make(chan *Blob, 20)
	for range cap(blobs) {
		wg.Go(func() {
			w := s.Create(0)
			if _, err := w.Write(pattern(each)); err != nil {
				var full *BudgetError
				if !errors.As(err, &full) {
					t.Errorf("got %v", err)
				}
				discard(t, w)
				return
			}
			blobs <- seal(t, w)
		})
	}
	wg.Wait()
	close(blobs)
	if len(blobs) != budget/each {
		t.Errorf("%d payloads fit, want %d", len(blobs), budget/each)
	}
	wantUsage(t, s, Usage{Bytes: budget, Files: budget / each})
	for b := range blobs {
		remove(t, b)
	}
}

// The directory is gone, or may not be written to: no file can be made.
func TestNoFileCanBeMade(t *testing.T) {
	s := open(t, Config{Inline: 10})
	w := s.Create(0)
	write(t, w, pattern(10))
	b := seal(t, w)
	w = s.Create(0)
	write(t, w, pattern(10))
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write(pattern(1))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	var full *DiskFullError
	if errors.As(err, &full) {
		t.Errorf("%v is called a full disk", err)
	}
	wantSticky(t, w, err)
	wantUsage(t, s, Usage{Bytes: 20, Inline: 20})
	discard(t, w)
	if _, err := b.Path(); err == nil {
		t.Error("a path in no directory")
	}
	if got := content(t, b); !bytes.Equal(got, pattern(10)) { // the Blob is as it was
		t.Errorf("got %x", got)
	}
	wantUsage(t, s, Usage{Bytes: 10, Inline: 10})
	remove(t, b)
}

func TestDiskErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		var full *DiskFullError
		err := diskError(&os.PathError{Op: "write", Path: "x", Err: errno})
		if !errors.As(err, &full) || !errors.Is(err, errno) || err.Error() != "the disk of the spool is full" {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := diskError(syscall.EIO); errors.As(err, new(*DiskFullError)) || !errors.Is(err, syscall.EIO) {
		t.Errorf("EIO: %v", err)
	}
}
