package client

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// noise is that many bytes that don't compress.
func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(p) // never fails
	return p
}

func openSource(t *testing.T, p Payload) source {
	t.Helper()
	s, err := p.source()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

func readFrom(t *testing.T, s source, offset int64) []byte {
	t.Helper()
	r, err := s.from(offset)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPayloadFromAnyOffset(t *testing.T) {
	data := noise(3*backlogBlock + 1)
	path := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]func() Payload{
		"bytes":    func() Payload { return Bytes(data) },
		"file":     func() Payload { return File(path) },
		"reader":   func() Payload { return Reader(bytes.NewReader(data)) },
		"one byte": func() Payload { return Reader(iotest.OneByteReader(bytes.NewReader(data))) },
		"with EOF": func() Payload { return Reader(iotest.DataErrReader(bytes.NewReader(data))) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openSource(t, p())
			for _, offset := range []int64{0, 1, backlogBlock - 1, backlogBlock, backlogBlock + 1, int64(len(data)) - 1, int64(len(data))} {
				if got := readFrom(t, s, offset); !bytes.Equal(got, data[offset:]) {
					t.Errorf("from %d: %d bytes, want %d, or others", offset, len(got), len(data[offset:]))
				}
			}
		})
	}
}

func TestPayloadEmpty(t *testing.T) {
	s := openSource(t, Payload{})
	if got := readFrom(t, s, 0); len(got) != 0 || s.size() != 0 {
		t.Errorf("%d bytes of %d", len(got), s.size())
	}
	if got := readFrom(t, openSource(t, Reader(strings.NewReader(""))), 0); len(got) != 0 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestPayloadErrors(t *testing.T) {
	dir := t.TempDir()
	once := Reader(strings.NewReader("x"))
	openSource(t, once)
	for name, p := range map[string]Payload{
		"no file":       File(filepath.Join(dir, "none")),
		"a directory":   File(dir),
		"used twice":    once,
		"negative size": ReaderAt(strings.NewReader(""), -1),
	} {
		if s, err := p.source(); err == nil {
			t.Errorf("%s: no error", name)
			_ = s.close()
		}
	}
	broken := errors.New("broken")
	s := openSource(t, Reader(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))))
	r, err := s.from(0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "abc" || !errors.Is(err, broken) {
		t.Errorf("%q, %v", got, err)
	}
}

// A reader's bytes are kept until they are stored and the room is needed.
func TestBacklogForgets(t *testing.T) {
	data := noise(backlogLimit + 5*backlogBlock)
	b := newBacklog(bytes.NewReader(data))
	t.Cleanup(func() { _ = b.close() })
	r, err := b.from(0)
	if err != nil {
		t.Fatal(err)
	}
	if got := make([]byte, backlogLimit); true {
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data[:backlogLimit]) {
			t.Fatalf("the first bytes are wrong: %v", err)
		}
	}
	// All that may be kept is read; going on takes that some of it is stored.
	again, err := b.from(backlogBlock)
	if err != nil {
		t.Fatal(err)
	}
	rest := make(chan []byte)
	go func() {
		got, _ := io.ReadAll(r) // the comparison below tells
		rest <- got
	}()
	for offset := int64(0); offset <= int64(len(data)); offset += backlogBlock / 2 {
		b.stored(offset)
	}
	if got := <-rest; !bytes.Equal(got, data[backlogLimit:]) {
		t.Errorf("the rest has %d bytes, want %d, or others", len(got), len(data)-backlogLimit)
	}
	if _, err := again.Read(make([]byte, 1)); !errors.Is(err, ErrForgotten) {
		t.Errorf("read what is forgotten: %v", err)
	}
	if _, err := b.from(0); !errors.Is(err, ErrForgotten) {
		t.Errorf("from the beginning: %v", err)
	}
	if got := readFrom(t, b, int64(len(data))-backlogBlock); !bytes.Equal(got, data[len(data)-backlogBlock:]) {
		t.Error("the last bytes are wrong")
	}
}

func TestBacklogInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		b := newBacklog(pr)
		r, err := b.from(0)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, b.interrupt)
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errInterrupted) {
			t.Errorf("interrupted: %v", err)
		}
		// Others go on.
		r, err = b.from(0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = pw.Write([]byte("x")) // read below
			_ = pw.Close()               // never fails
		}()
		if got, err := io.ReadAll(r); string(got) != "x" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSumCountsBytesOnce(t *testing.T) {
	data := noise(1000)
	var s sum
	for _, part := range [][2]int64{{0, 100}, {50, 80}, {0, 100}, {100, 101}, {0, 500}, {499, 1000}, {0, 1000}} {
		if _, err := io.Copy(io.Discard, s.tee(bytes.NewReader(data[part[0]:part[1]]), part[0])); err != nil {
			t.Fatal(err)
		}
		if crc, ok := s.of(part[1]); ok && crc != crc32.Checksum(data[:part[1]], castagnoli) {
			t.Errorf("after %v: %08x", part, crc)
		}
	}
	if crc, ok := s.of(1000); !ok || crc != crc32.Checksum(data, castagnoli) {
		t.Errorf("%08x, %v", crc, ok)
	}
	if _, ok := s.of(999); ok {
		t.Error("has the checksum of fewer bytes")
	}
}

func TestSumCatchesUp(t *testing.T) {
	data := noise(1 << 20)
	for name, p := range map[string]Payload{"bytes": Bytes(data), "reader": Reader(bytes.NewReader(data))} {
		src := openSource(t, p)
		var s sum
		for _, offset := range []int64{0, 10, 5, 1 << 19, 1 << 20} {
			if err := s.catchUp(t.Context(), src, offset); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if crc, ok := s.of(1 << 20); !ok || crc != crc32.Checksum(data, castagnoli) {
			t.Errorf("%s: %08x, %v", name, crc, ok)
		}
		if err := s.catchUp(t.Context(), src, 1<<20+1); err == nil || !strings.Contains(err.Error(), "already has") {
			t.Errorf("%s: more than there is: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s sum
	if err := s.catchUp(ctx, openSource(t, Bytes(data)), 10); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
}
