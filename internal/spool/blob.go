package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A Blob is a payload that is complete.
type Blob struct {
	spool   *Spool
	size    int64
	durable bool // the file is that of a name

	mu      sync.Mutex
	mem     []byte // when path is empty
	path    string // when it is in a file
	removed bool
}

// Size is the payload's length in bytes.
func (b *Blob) Size() int64 { return b.size }

// Open reads the payload from its start. Each reader is independent and must be
// closed. The Blob must not be removed while one is open, for Windows' sake.
func (b *Blob) Open() (io.ReadSeekCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.removed:
		return nil, errors.New("open payload: already removed")
	case b.path == "":
		return memReader{bytes.NewReader(b.mem)}, nil
	}
	f, err := os.Open(b.path)
	if err != nil {
		return nil, fmt.Errorf("open payload: %w", err)
	}
	return f, nil
}

// Path is the file that holds the payload; a payload in memory is put into one
// first. The file belongs to the Blob or the Spool: callers only read it.
func (b *Blob) Path() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.removed:
		return "", errors.New("payload path: already removed")
	case b.path != "":
		return b.path, nil
	}
	f, err := b.spool.createFile()
	if err != nil {
		return "", err
	}
	_, err = f.Write(b.mem)
	err = errors.Join(err, f.Close())
	if err != nil {
		return "", errors.Join(diskError(err), b.spool.removeFile(f.Name()))
	}
	b.path = f.Name()
	b.spool.growInline(-cap(b.mem))
	b.mem = nil
	return b.path, nil
}

// Remove frees what the payload takes. A second time it does nothing. The Blob
// of a File only ends its own use: the payload is there until RemoveFile.
func (b *Blob) Remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removed {
		return nil
	}
	b.removed = true
	if b.durable {
		return nil
	}
	b.spool.release(b.size)
	b.spool.growInline(-cap(b.mem))
	b.mem = nil
	if b.path == "" {
		return nil
	}
	return b.spool.removeFile(b.path)
}

type memReader struct{ *bytes.Reader }

func (memReader) Close() error { return nil }
