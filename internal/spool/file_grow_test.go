package spool

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
)

func TestFileChanged(t *testing.T) {
	s := open(t, Config{Budget: 100})
	f := openFile(t, s, "f", 0)
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"growth", func() error { _, err := f.Put(0, pattern(10)); return err }, true},
		{"repetition", func() error { _, err := f.Put(0, pattern(10)); return err }, false},
		{"refusal", func() error { _, _ = f.Put(10, pattern(100)); return nil }, false},
		{"growth again", func() error { _, err := f.Put(5, pattern(16)[5:]); return err }, true},
		{"seal", func() error { _, err := f.Seal(16, crcOf(pattern(16))); return err }, true},
		{"seal again", func() error { _, err := f.Seal(16, crcOf(pattern(16))); return err }, false},
		{"removal", func() error { return s.RemoveFile("f") }, true},
		{"removal again", func() error { return s.RemoveFile("f") }, true},
	} {
		first, second := f.Changed(), f.Changed()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if isClosed(first) != step.want || isClosed(second) != step.want {
			t.Errorf("%s: woken %v and %v, want %v", step.name, isClosed(first), isClosed(second), step.want)
		}
	}
}

// follow reads a File to its end, as the doc of Changed has it.
func follow(f *File) ([]byte, error) {
	var all []byte
	p := make([]byte, 3000)
	for {
		changed, sealed := f.Changed(), f.Sealed()
		n, err := f.ReadAt(p, int64(len(all)))
		all = append(all, p[:n]...)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return all, err
		case n > 0 || err == nil:
		case sealed:
			return all, nil
		default:
			<-changed
		}
	}
}

func TestFileReadersOfGrowingFile(t *testing.T) {
	s := open(t, Config{})
	data := pattern(1 << 20)
	for _, ending := range []string{"seal", "remove"} {
		f := openFile(t, s, "f", 0)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				got, err := follow(f)
				switch {
				case ending == "seal" && (err != nil || !bytes.Equal(got, data)):
					t.Errorf("got %d other bytes, %v", len(got), err)
				case ending == "remove" && (!errors.Is(err, ErrClosed) || !bytes.HasPrefix(data, got)):
					t.Errorf("removed: got %d bytes, %v", len(got), err)
				}
			})
		}
		// Two writers send the same, as when one takes over from the other.
		for _, cut := range []int{7001, 9001} {
			wg.Go(func() {
				for off := 0; off < len(data); off += cut {
					n, err := f.Put(int64(off), data[off:min(off+cut, len(data))])
					if ending == "remove" && errors.Is(err, ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("Put at %d: %d, %v", off, n, err)
						return
					}
					if _, err := f.CRC32C(); err != nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
				}
			})
		}
		last := int64(0)
		for last < int64(len(data)) {
			changed := f.Changed()
			n := f.Committed()
			if n < last {
				t.Fatalf("committed went from %d to %d", last, n)
			}
			if last = n; n < int64(len(data)) {
				<-changed
			}
		}
		if ending == "seal" {
			if _, err := f.Seal(int64(len(data)), crcOf(data)); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}
		removeFile(t, s, "f")
		wg.Wait()
		wantUsage(t, s, Usage{})
	}
}

// While a large file is summed, it grows, and may go away.
func TestFileSummingHoldsUpNobody(t *testing.T) {
	s := open(t, Config{})
	data := pattern(4 << 20)
	f := openFile(t, s, "f", 0)
	put(t, f, 0, data[:2<<20])
	closeFile(t, f)

	for _, removed := range []bool{false, true} {
		f = openFile(t, s, "f", 0)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := f.CRC32C(); err != nil && (!removed || !errors.Is(err, ErrClosed)) {
					t.Error(err)
				}
			})
		}
		if removed {
			removeFile(t, s, "f")
		} else {
			for off := 2 << 20; off < len(data); off += 64 << 10 {
				put(t, f, off, data[off:off+64<<10])
			}
		}
		wg.Wait()
		if !removed {
			wantFile(t, f, data)
			closeFile(t, f)
		}
	}
}
