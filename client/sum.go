package client

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A sum is the CRC-32C of a payload that is read in pieces, some of them again.
// Each byte counts once.
type sum struct {
	mu   sync.Mutex
	crc  uint32
	high int64 // bytes counted, from the payload's start
}

// tee counts what is read from r, which starts at an offset up to s.high.
func (s *sum) tee(r io.Reader, offset int64) io.Reader {
	return &sumReader{sum: s, src: r, offset: offset}
}

type sumReader struct {
	sum    *sum
	src    io.Reader
	offset int64
}

func (r *sumReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if n > 0 {
		r.sum.add(p[:n], r.offset)
		r.offset += int64(n)
	}
	return n, err
}

func (s *sum) add(p []byte, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.high - offset
	if known < 0 || known >= int64(len(p)) {
		return
	}
	s.crc = crc32.Update(s.crc, castagnoli, p[known:])
	s.high = offset + int64(len(p))
}

// of is the checksum of the first size bytes; ok is false if it isn't that of as
// many bytes.
func (s *sum) of(size int64) (crc uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crc, s.high == size
}

// reset forgets all.
func (s *sum) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crc, s.high = 0, 0
}

// catchUp reads what comes before the offset and isn't counted yet: another
// process has sent it.
func (s *sum) catchUp(ctx context.Context, src source, offset int64) error {
	s.mu.Lock()
	high := s.high
	s.mu.Unlock()
	if high >= offset {
		return nil
	}
	r, err := src.from(high)
	if err != nil {
		return err
	}
	in := s.tee(io.LimitReader(r, offset-high), high)
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, err := in.Read(buf)
		high += int64(n)
		// What is read so is stored already.
		src.stored(high)
		switch {
		case high == offset:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it has %d bytes, but the pod already has %d: it isn't what the job was begun with", high, offset)
		case err != nil:
			return err
		}
	}
	return context.Cause(ctx)
}
