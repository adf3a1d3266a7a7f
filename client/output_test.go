package client

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
)

func outputChunk(offset int64, text string) *aipodv1.Chunk {
	crc := crc32.Checksum([]byte(text), castagnoli)
	return &aipodv1.Chunk{Offset: offset, Data: []byte(text), Crc32C: &crc}
}

func TestSink(t *testing.T) {
	s := newSink(nil)
	for _, c := range []*aipodv1.Chunk{outputChunk(0, "abc"), outputChunk(3, "de")} {
		if _, err := s.write(c); err != nil {
			t.Fatal(err)
		}
	}
	for _, offset := range []int64{0, 3, 6} {
		if _, err := s.write(outputChunk(offset, "x")); !errors.Is(err, errGap) {
			t.Errorf("a chunk at %d: %v", offset, err)
		}
	}
	damaged := outputChunk(5, "fg")
	damaged.Data = []byte("fh")
	var wrong *codec.PayloadError
	if _, err := s.write(damaged); !errors.As(err, &wrong) {
		t.Errorf("a damaged chunk: %v", err)
	}
	if string(s.mem) != "abcde" {
		t.Errorf("kept %q", s.mem)
	}
	done := &aipodv1.Done{HasOutput: true, OutputSize: 5, OutputCrc32C: crc32.Checksum([]byte("abcde"), castagnoli)}
	if err := s.complete(done); err != nil {
		t.Error(err)
	}
	done.OutputCrc32C++
	if err := s.complete(done); !errors.Is(err, errWrongOutput) {
		t.Errorf("another checksum: %v", err)
	}
	done.OutputSize++
	if err := s.complete(done); !errors.Is(err, errWrongOutput) {
		t.Errorf("another size: %v", err)
	}
}

func TestSinkJSON(t *testing.T) {
	var w bytes.Buffer
	s := newSink(&w)
	c := outputChunk(0, "[1]")
	c.Json = true
	if _, err := s.write(c); err != nil {
		t.Fatal(err)
	}
	if w.Len() > 0 || string(s.mem) != "[1]" {
		t.Errorf("written %q, kept %q", w.String(), s.mem)
	}
}

func TestSinkRewinds(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.WriteString(f, "head "); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*sink{newSink(f), newSink(nil)} {
		if _, err := s.write(outputChunk(0, "the first attempt")); err != nil {
			t.Fatal(err)
		}
		if err := s.rewind("why"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.write(outputChunk(0, "the second")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(f.Name()); string(got) != "head the second" {
		t.Errorf("%q, %v", got, err)
	}

	s := newSink(new(bytes.Buffer))
	if err := s.rewind("why"); err != nil {
		t.Errorf("nothing is written: %v", err)
	}
	if _, err := s.write(outputChunk(0, "x")); err != nil {
		t.Fatal(err)
	}
	var local localError
	if err := s.rewind("why"); !errors.As(err, &local) {
		t.Errorf("what can't go back: %v", err)
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestSinkWriteError(t *testing.T) {
	var local localError
	if _, err := newSink(fullWriter{}).write(outputChunk(0, "x")); !errors.As(err, &local) {
		t.Errorf("got %v", err)
	}
}
