package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/aipod/aipod/internal/bench"
)

// A source is where a payload comes from.
type source struct {
	// size in bytes, -1 when unknown.
	size int64
	// open starts it from the beginning.
	open func() (io.ReadCloser, error)
	// once is nil for a source that can be opened again; else it says that some
	// of it may have been read.
	once *atomic.Bool
}

// replayable says that the source can still be sent from its beginning.
func (s source) replayable() bool { return s.once == nil || !s.once.Load() }

// bytesSource is a payload in memory, for small ones.
func bytesSource(data []byte) source {
	return source{size: int64(len(data)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// streamSource is a payload that can be read only once.
func streamSource(r io.Reader) source {
	once := new(atomic.Bool)
	return source{size: -1, once: once, open: func() (io.ReadCloser, error) {
		return io.NopCloser(onceReader{r, once}), nil
	}}
}

type onceReader struct {
	r    io.Reader
	once *atomic.Bool
}

func (o onceReader) Read(p []byte) (int, error) {
	o.once.Store(true)
	return o.r.Read(p)
}

// fileSource is a file. One that is not regular, a pipe say, is a stream.
func fileSource(path string) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return source{}, usagef("the payload: %v", err)
	}
	if info.IsDir() {
		return source{}, usagef("the payload: %s is a directory", path)
	}
	s := source{size: info.Size(), open: func() (io.ReadCloser, error) { return os.Open(path) }}
	if info.Mode().Type()&^fs.ModeSymlink != 0 {
		f, err := os.Open(path)
		if err != nil {
			return source{}, usagef("the payload: %v", err)
		}
		return streamSource(f), nil
	}
	f, err := s.open() // so that a file which can't be read is wrong usage
	if err != nil {
		return source{}, usagef("the payload: %v", err)
	}
	return s, f.Close()
}

// generatedSource is a payload that is made while it is sent.
func generatedSource(kind bench.Kind, size int64, seed uint64) (source, error) {
	if _, err := bench.NewPayload(kind, size, seed); err != nil {
		return source{}, usagef("%v", err)
	}
	return source{size: size, open: func() (io.ReadCloser, error) {
		payload, err := bench.NewPayload(kind, size, seed)
		return io.NopCloser(payload), err
	}}, nil
}
