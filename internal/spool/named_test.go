package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func removeFile(t *testing.T, s *Spool, name string) {
	t.Helper()
	if err := s.RemoveFile(name); err != nil {
		t.Fatal(err)
	}
}

// crash leaves a Spool as a process that dies does, and opens the next one.
func crash(t *testing.T, s *Spool) *Spool {
	t.Helper()
	for _, e := range s.named {
		if e.open != nil {
			if err := e.open.file.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	next, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.used, s.files = 0, 0 // the dead hold nothing
	return next
}

func TestFileNames(t *testing.T) {
	s := open(t, Config{})
	long := strings.Repeat("n", 128)
	for _, name := range []string{
		"", ".", "..", ".a", "a/b", "../a", "/a", `a\b`, "a b", "a\x00", "a:b", "ä", long + "n",
	} {
		if f, err := s.OpenFile(name, 0); err == nil {
			t.Errorf("opened %q", name)
			removeFile(t, s, f.path)
		}
		if _, err := s.OpenSealed(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenSealed(%q): %v", name, err)
		}
		removeFile(t, s, name) // nothing
	}
	wantUsage(t, s, Usage{})
	names := []string{"-", "0.Az_-..", "_", "a", long, "payload-1"}
	for i, name := range names {
		put(t, openFile(t, s, name, 0), 0, pattern(i))
	}
	for range 2 {
		var want []FileInfo
		for i, name := range names {
			want = append(want, FileInfo{Name: name, Size: int64(i)})
		}
		if diff := cmp.Diff(want, s.Files()); diff != "" {
			t.Errorf("Files (-want +got):\n%s", diff)
		}
		s = crash(t, s)
	}
	for _, name := range names {
		removeFile(t, s, name)
	}
	if got := s.Files(); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	wantUsage(t, s, Usage{})
}

func TestFileOpenedTwice(t *testing.T) {
	s := open(t, Config{})
	first := openFile(t, s, "f", 0)
	put(t, first, 0, pattern(10))
	if _, err := s.OpenFile("f", 0); !errors.Is(err, ErrOpen) {
		t.Errorf("opened twice: %v", err)
	}
	closeFile(t, first)
	second := openFile(t, s, "f", 0)
	closeFile(t, first) // does nothing to the second
	if _, err := s.OpenFile("f", 0); !errors.Is(err, ErrOpen) {
		t.Errorf("opened twice: %v", err)
	}
	wantClosed(t, first)
	wantFile(t, second, pattern(10))
	removeFile(t, s, "f")
	wantClosed(t, second)
	third := openFile(t, s, "f", 0)
	wantFile(t, third, nil)
	wantClosed(t, second)
	removeFile(t, s, "f")
}

// wantClosed checks that a File does nothing any more and keeps nobody waiting.
func wantClosed(t *testing.T, f *File) {
	t.Helper()
	if _, err := f.Put(0, []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Put: %v", err)
	}
	if _, err := f.Seal(0, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("Seal: %v", err)
	}
	if _, err := f.CRC32C(); !errors.Is(err, ErrClosed) {
		t.Errorf("CRC32C: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 1<<40); !errors.Is(err, ErrClosed) {
		t.Errorf("ReadAt: %v", err)
	}
	select {
	case <-f.Changed():
	default:
		t.Error("Changed would wait for ever")
	}
}

// Everything at once, over few names: the accounts come out even.
func TestFileConcurrentNames(t *testing.T) {
	s := open(t, Config{Budget: 20_000})
	names := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 60 {
				name := names[(i+n)%len(names)]
				f, err := s.OpenFile(name, 0)
				if errors.Is(err, ErrOpen) {
					if n%3 == 0 {
						if err := s.RemoveFile(name); err != nil {
							t.Error(err)
						}
					}
					_ = s.Files()
					continue
				}
				if err != nil {
					t.Error(err)
					continue
				}
				_, err = f.Put(0, pattern(100*(n+1)))
				var full *BudgetError
				if err != nil && !errors.Is(err, ErrClosed) && !errors.As(err, &full) {
					t.Error(err)
				}
				if _, err := f.Seal(f.Committed(), 0); err == nil && f.Committed() > 0 {
					t.Error("sealed with a wrong checksum")
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var sum int64
	files := s.Files()
	for _, info := range files {
		sum += info.Size
		if at, err := os.Stat(filepath.Join(s.namedDir(), info.Name)); err != nil || at.Size() != info.Size {
			t.Errorf("%+v: %v, %v", info, at, err)
		}
	}
	wantUsage(t, s, Usage{Bytes: sum, Files: len(files)})
	for _, name := range names {
		removeFile(t, s, name)
	}
}

// What an earlier process left isn't always as expected.
func TestFileStrangeDirectory(t *testing.T) {
	dir := t.TempDir()
	named := filepath.Join(dir, "named")
	if err := os.MkdirAll(filepath.Join(named, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"known": 10, ".hidden": 20, "bad name": 30} {
		if err := os.WriteFile(filepath.Join(named, name), pattern(size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Config{Dir: dir})
	wantUsage(t, s, Usage{Bytes: 10, Files: 1})
	if diff := cmp.Diff([]FileInfo{{"known", 10}}, s.Files()); diff != "" {
		t.Errorf("Files (-want +got):\n%s", diff)
	}
	if _, err := s.OpenFile("directory", 0); err == nil {
		t.Error("a directory was opened")
	}
	// A file that came later, or that the file system takes for another's.
	if err := os.WriteFile(filepath.Join(named, "later"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("later", 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("someone else's file: %v", err)
	}
	wantUsage(t, s, Usage{Bytes: 10, Files: 1})

	// Files that someone cut or removed: the accounts follow.
	if err := os.Truncate(filepath.Join(named, "known"), 5); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, s, "known", 0)
	wantFile(t, f, pattern(5))
	wantUsage(t, s, Usage{Bytes: 5, Files: 1})
	closeFile(t, f)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("known", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	wantUsage(t, s, Usage{Bytes: 5, Files: 1})
	removeFile(t, s, "known")
	wantUsage(t, s, Usage{})

	// A file that can't be removed is still counted, and can be removed later.
	f = openFile(t, s, "stuck", 0)
	put(t, f, 0, pattern(7))
	closeFile(t, f)
	if err := errors.Join(os.Remove(f.path), os.MkdirAll(filepath.Join(f.path, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveFile("stuck"); err == nil {
		t.Error("no error")
	}
	wantUsage(t, s, Usage{Bytes: 7, Files: 1})
	if err := os.RemoveAll(f.path); err != nil {
		t.Fatal(err)
	}
	removeFile(t, s, "stuck")
}

func TestFileInNoDirectory(t *testing.T) {
	s := open(t, Config{})
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("f", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if got := s.Files(); len(got) > 0 {
		t.Errorf("listed: %v", got)
	}
	if err := os.WriteFile(s.cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("f", 0); err == nil {
		t.Error("opened below a file")
	}
}
