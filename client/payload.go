package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// A Payload is the input of a job. The zero value is an empty one.
type Payload struct {
	open func() (source, error)
}

// A source is a payload while a job is being sent. Reading and closing are for
// one goroutine each; the other methods for any.
type source interface {
	// size is in bytes, or -1 when it isn't known.
	size() int64
	// from returns the payload from an offset on. The reader before that must no
	// longer be used. The error is ErrForgotten if those bytes can't be read again.
	from(offset int64) (io.Reader, error)
	// stored says that bytes before the offset need not be read again.
	stored(offset int64)
	// interrupt ends the Reads of readers made so far.
	interrupt()
	close() error
}

// ErrForgotten says that bytes of a [Reader] are needed again, which is the case
// when the pod has lost a job.
var ErrForgotten = errors.New("the beginning of the payload is needed again, but it came from a stream that can be read only once:" +
	" run the job again, or from a file, which can be read as often as needed")

func (p Payload) source() (source, error) {
	if p.open == nil {
		return &readerAt{r: bytes.NewReader(nil)}, nil
	}
	return p.open()
}

// Bytes is a payload in memory.
func Bytes(data []byte) Payload {
	return ReaderAt(bytes.NewReader(data), int64(len(data)))
}

// ReaderAt is a payload of so many bytes that can be read again at any offset.
// Its bytes must not change, and its reads should not block for long.
func ReaderAt(r io.ReaderAt, size int64) Payload {
	return Payload{open: func() (source, error) {
		if size < 0 {
			return nil, fmt.Errorf("a payload can't have %d bytes", size)
		}
		return &readerAt{r: r, n: size}, nil
	}}
}

// File is the file at path. One that isn't regular, such as a pipe, is read as by
// Reader.
func File(path string) Payload {
	return Payload{open: func() (source, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		switch {
		case err != nil:
			return nil, errors.Join(err, f.Close())
		case info.IsDir():
			return nil, errors.Join(fmt.Errorf("%s is a directory: name a file", path), f.Close())
		case !info.Mode().IsRegular():
			b := newBacklog(f)
			b.closer = f
			return b, nil
		}
		return &readerAt{r: f, n: info.Size(), closer: f}, nil
	}}
}

// Reader is a payload of unknown size that can be read only once, by one Run. Up
// to 16 MiB of it are kept until the pod has stored them, so that a cut costs
// nothing. If the pod loses more than what is kept, Run fails with ErrForgotten.
//
// A Read that blocks outlives the Run: its goroutine ends when it returns.
func Reader(r io.Reader) Payload {
	var used atomic.Bool
	return Payload{open: func() (source, error) {
		if used.Swap(true) {
			return nil, errors.New("a payload made by Reader can be sent only once: make another one")
		}
		return newBacklog(r), nil
	}}
}

// readerAt is a payload that can be read anywhere.
type readerAt struct {
	r      io.ReaderAt
	n      int64
	closer io.Closer // or nil
}

func (s *readerAt) size() int64  { return s.n }
func (s *readerAt) stored(int64) {}
func (s *readerAt) interrupt()   {}

func (s *readerAt) from(offset int64) (io.Reader, error) {
	return io.NewSectionReader(s.r, offset, max(s.n-offset, 0)), nil
}

func (s *readerAt) close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}
