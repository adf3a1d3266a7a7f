package client

import (
	"errors"
	"io"
	"sync"
)

const (
	// backlogLimit is how many bytes of a payload that can be read only once are
	// kept: what may be on the way, and as much again that is read ahead.
	backlogLimit = 2 * maxWindow
	// backlogBlock is the unit of that, in bytes.
	backlogBlock = 128 << 10
)

// A backlog is a source that can be read only once. One goroutine reads it, into
// memory; bytes that the pod has stored make room when room is needed.
type backlog struct {
	src    io.Reader
	closer io.Closer // or nil

	mu      sync.Mutex
	blocks  [][]byte // full, but for the last one
	base    int64    // offset of the first block
	end     int64    // offset behind the last byte
	keep    int64    // bytes before may be forgotten
	err     error    // what src ended with
	begun   bool
	closed  bool
	round   chan struct{} // closed to interrupt the readers made so far
	changed chan struct{} // closed when something has changed
}

func newBacklog(src io.Reader) *backlog {
	return &backlog{src: src, round: make(chan struct{}), changed: make(chan struct{})}
}

// wake is called with b locked.
func (b *backlog) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *backlog) size() int64 { return -1 }

func (b *backlog) from(offset int64) (io.Reader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if offset < b.base {
		return nil, ErrForgotten
	}
	if !b.begun {
		b.begun = true
		go b.pump()
	}
	return &backlogReader{backlog: b, offset: offset, round: b.round}, nil
}

func (b *backlog) stored(offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if offset > b.keep {
		b.keep = offset
		b.wake()
	}
}

func (b *backlog) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.round)
	b.round = make(chan struct{})
}

// close lets the pump end, at the latest when its Read returns.
func (b *backlog) close() error {
	b.mu.Lock()
	b.closed = true
	b.wake()
	b.mu.Unlock()
	b.interrupt()
	if b.closer != nil {
		return b.closer.Close()
	}
	return nil
}

// pump reads the source to its end.
func (b *backlog) pump() {
	for {
		p := b.space()
		if p == nil {
			return
		}
		n, err := b.src.Read(p)
		b.mu.Lock()
		b.end += int64(n)
		b.err = err
		b.wake()
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// space waits for memory to read into; nil means the end.
func (b *backlog) space() []byte {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil
		}
		if used := b.end - b.base - int64(max(len(b.blocks)-1, 0))*backlogBlock; len(b.blocks) > 0 && used < backlogBlock {
			p := b.blocks[len(b.blocks)-1][used:]
			b.mu.Unlock()
			return p
		}
		for len(b.blocks) >= backlogLimit/backlogBlock && b.base+backlogBlock <= b.keep {
			b.blocks[0] = nil
			b.blocks = b.blocks[1:]
			b.base += backlogBlock
		}
		if len(b.blocks) < backlogLimit/backlogBlock {
			p := make([]byte, backlogBlock)
			b.blocks = append(b.blocks, p)
			b.mu.Unlock()
			return p
		}
		changed := b.changed
		b.mu.Unlock()
		<-changed
	}
}

// errInterrupted ends the Reads of an interrupted reader.
var errInterrupted = errors.New("the reader was interrupted")

// A backlogReader reads a backlog from an offset on, until it is interrupted.
type backlogReader struct {
	backlog *backlog
	offset  int64
	round   chan struct{}
}

func (r *backlogReader) Read(p []byte) (int, error) {
	b := r.backlog
	for {
		select {
		case <-r.round:
			return 0, errInterrupted
		default:
		}
		b.mu.Lock()
		if r.offset < b.base {
			b.mu.Unlock()
			return 0, ErrForgotten
		}
		if r.offset < b.end {
			at := r.offset - b.base
			block := b.blocks[at/backlogBlock]
			start := at % backlogBlock
			n := copy(p, block[start:min(start+b.end-r.offset, backlogBlock)])
			r.offset += int64(n)
			b.mu.Unlock()
			return n, nil
		}
		err, changed := b.err, b.changed
		b.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-changed:
		case <-r.round:
		}
	}
}
