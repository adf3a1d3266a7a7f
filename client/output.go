package client

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
)

const (
	// MaxMemory is the most output, in bytes, that is kept in memory if there is no
	// Call.Output.
	MaxMemory = 64 << 20
	// maxJSON is the largest JSON result, in bytes.
	maxJSON = 256 << 20
)

// A sink takes the output of a job: each byte once and in order.
type sink struct {
	w      io.Writer // nil keeps the output in memory
	start  int64     // where w was at first; -1 if w can't go back
	mem    []byte
	json   bool // the output is a JSON result, which is kept in memory
	offset int64
	crc    uint32
	buf    []byte // for decoding
}

// rewindable is an output that can start again, such as an *os.File.
type rewindable interface {
	io.Seeker
	Truncate(size int64) error
}

func newSink(w io.Writer) *sink {
	s := &sink{w: w, start: -1}
	if f, ok := w.(rewindable); ok {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil {
			s.start = at
		}
	}
	return s
}

var (
	// errGap is a chunk of output that doesn't follow the one before.
	errGap = errors.New("the pod has left out a part of the output")
	// errWrongOutput is an output that isn't what the pod says it is.
	errWrongOutput = errors.New("the output is not complete")
)

// A localError is not the pod's or the connection's: trying again won't help.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// write takes a chunk. What is wrong with a chunk may pass with another stream;
// what the writer says is a localError.
func (s *sink) write(c *aipodv1.Chunk) (int, error) {
	chunk := codec.Chunk{Offset: c.GetOffset(), Data: c.GetData(), RawSize: int(c.GetRawSize())}
	if c.GetCoding() == aipodv1.Coding_CODING_ZSTD {
		chunk.Coding = codec.CodingZstd
	} else if chunk.RawSize == 0 {
		chunk.RawSize = len(chunk.Data)
	}
	chunk.CRC32C = c.GetCrc32C()
	if c.Crc32C == nil && chunk.Coding == codec.CodingRaw {
		chunk.CRC32C = crc32.Checksum(chunk.Data, castagnoli)
	}
	if chunk.Offset != s.offset {
		return 0, fmt.Errorf("%w: it goes on at %d instead of %d", errGap, chunk.Offset, s.offset)
	}
	raw, err := codec.DecodeChunk(chunk, s.buf)
	if err != nil {
		return 0, err
	}
	if chunk.Coding == codec.CodingZstd {
		s.buf = raw[:0]
	}
	if s.offset == 0 {
		s.json = c.GetJson()
	}
	switch {
	case s.json && len(s.mem)+len(raw) > maxJSON:
		return 0, localError{fmt.Errorf("the result is larger than %d MiB of JSON: let the function write an output instead", maxJSON>>20)}
	case s.w == nil && !s.json && len(s.mem)+len(raw) > MaxMemory:
		return 0, localError{fmt.Errorf("the output is larger than %d MiB: give a writer for it", MaxMemory>>20)}
	case s.json || s.w == nil:
		s.mem = append(s.mem, raw...)
	default:
		if _, err := s.w.Write(raw); err != nil {
			return 0, localError{fmt.Errorf("write the output: %w", err)}
		}
	}
	s.offset += int64(len(raw))
	s.crc = crc32.Update(s.crc, castagnoli, raw)
	return len(raw), nil
}

// rewind makes the output start again. The error says why it can't.
func (s *sink) rewind(why string) error {
	if s.offset > 0 && s.w != nil && !s.json {
		err := errors.New("it can't go back")
		if f, ok := s.w.(rewindable); ok && s.start >= 0 {
			if err = f.Truncate(s.start); err == nil {
				_, err = f.Seek(s.start, io.SeekStart)
			}
		}
		if err != nil {
			return localError{fmt.Errorf("%s, so its output starts again, but %d bytes are already written: %w: write to a file, or run the job again",
				why, s.offset, err)}
		}
	}
	s.mem, s.json, s.offset, s.crc = nil, false, 0, 0
	return nil
}

// complete checks the whole.
func (s *sink) complete(d *aipodv1.Done) error {
	switch {
	case s.offset != d.GetOutputSize():
		return fmt.Errorf("%w: %d bytes have come, but it has %d", errWrongOutput, s.offset, d.GetOutputSize())
	case s.crc != d.GetOutputCrc32C():
		return fmt.Errorf("%w: it has a crc32c of %08x instead of %08x", errWrongOutput, s.crc, d.GetOutputCrc32C())
	}
	return nil
}
