package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

// A source is where a payload comes from.
type source struct {
	// size in bytes, -1 when unknown.
	size int64
	// payload is for JobService, which begins anywhere.
	payload client.Payload
	// open is for ai.AI: it starts from the beginning.
	open func() (io.ReadCloser, error)
	// once is nil for a source that can be opened again; else it says that some
	// of it may have been read.
	once *atomic.Bool
}

// replayable says that the source can still be sent from its beginning.
func (s source) replayable() bool { return s.once == nil || !s.once.Load() }

// bytesSource is a payload in memory, for small ones.
func bytesSource(data []byte) source {
	return source{size: int64(len(data)), payload: client.Bytes(data), open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// streamSource is a payload that can be read only once.
func streamSource(r io.Reader) source {
	once := new(atomic.Bool)
	return source{size: -1, payload: client.Reader(r), once: once, open: func() (io.ReadCloser, error) {
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
	f, err := os.Open(path) // so that a file which can't be read is wrong usage
	if err != nil {
		return source{}, usagef("the payload: %v", err)
	}
	if info.Mode().Type()&^fs.ModeSymlink != 0 {
		return streamSource(f), nil
	}
	return source{
		size: info.Size(), payload: client.File(path),
		open: func() (io.ReadCloser, error) { return os.Open(path) },
	}, f.Close()
}

// generatedSource is a payload that is made while it is sent.
func generatedSource(kind bench.Kind, size int64, seed uint64) (source, error) {
	if _, err := bench.NewPayload(kind, size, seed); err != nil {
		return source{}, usagef("%v", err)
	}
	open := func() (io.ReadCloser, error) {
		payload, err := bench.NewPayload(kind, size, seed)
		return io.NopCloser(payload), err
	}
	return source{size: size, payload: client.ReaderAt(&replay{open: open}, size), open: open}, nil
}

// A replay reads at any offset of what can only be read from its beginning: it
// begins again to go back.
type replay struct {
	open func() (io.ReadCloser, error)

	mu  sync.Mutex
	r   io.Reader // nil before the first read
	pos int64
}

func (g *replay) ReadAt(p []byte, offset int64) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.r == nil || offset < g.pos {
		r, err := g.open()
		if err != nil {
			return 0, err
		}
		g.r, g.pos = r, 0
	}
	skipped, err := io.CopyN(io.Discard, g.r, offset-g.pos)
	g.pos += skipped
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(g.r, p)
	g.pos += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
