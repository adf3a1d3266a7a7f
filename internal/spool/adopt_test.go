package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// adopt makes a file and the payload "out" of it.
func adopt(t *testing.T, s *Spool, limit int64) (*File, *os.File) {
	t.Helper()
	path := filepath.Join(s.cfg.Dir, "work")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.AdoptFile("out", path, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Close()
		if err := s.RemoveFile("out"); err != nil {
			t.Error(err)
		}
		if err := os.Remove(path); err != nil {
			t.Errorf("the file has lost its own name: %v", err)
		}
		if u := s.Usage(); u != (Usage{}) {
			t.Errorf("left in the spool: %+v", u)
		}
	})
	return f, w
}

func TestAdoptFile(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f, w := adopt(t, s, 0)
	var want []byte
	for n := range 5 {
		part := bytes.Repeat([]byte{byte('a' + n)}, 100_000)
		want = append(want, part...)
		changed := f.Changed()
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := f.Grow(int64(len(want))); err != nil {
			t.Fatal(err)
		}
		<-changed
		got := make([]byte, len(part))
		if n, err := f.ReadAt(got, int64(len(want)-len(part))); err != nil || !bytes.Equal(got[:n], part) {
			t.Fatalf("read %d bytes: %v", n, err)
		}
	}
	if used := s.Usage().Bytes; used != int64(len(want)) {
		t.Errorf("%d bytes are counted, want %d", used, len(want))
	}
	var size *SizeError
	if err := f.Grow(int64(len(want)) + 1); !errors.As(err, &size) {
		t.Errorf("more than the file has: %v", err)
	}
	if err := f.Grow(1); err == nil {
		t.Error("it shrinks")
	}
	sum, err := f.CRC32C()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := f.Seal(int64(len(want)), sum)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Grow(int64(len(want)) + 1); !errors.Is(err, ErrSealed) {
		t.Errorf("grow a sealed payload: %v", err)
	}
	r, err := blob.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, err := s.AdoptFile("out", w.Name(), 0); !errors.Is(err, ErrOpen) {
		t.Errorf("adopt a second time: %v", err)
	}
}

func TestAdoptFileOverLimits(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Budget: 1000})
	if err != nil {
		t.Fatal(err)
	}
	f, w := adopt(t, s, 2000)
	if _, err := w.Write(make([]byte, 3000)); err != nil {
		t.Fatal(err)
	}
	var limit *LimitError
	var budget *BudgetError
	if err := f.Grow(2001); !errors.As(err, &limit) {
		t.Errorf("over the limit: %v", err)
	}
	if err := f.Grow(1001); !errors.As(err, &budget) {
		t.Errorf("over the budget: %v", err)
	}
	if err := f.Grow(1000); err != nil || f.Committed() != 1000 {
		t.Errorf("%d bytes: %v", f.Committed(), err)
	}
}

func TestAdoptFileThatIsMissing(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AdoptFile("out", filepath.Join(t.TempDir(), "none"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if u := s.Usage(); u != (Usage{}) {
		t.Errorf("left in the spool: %+v", u)
	}
}
