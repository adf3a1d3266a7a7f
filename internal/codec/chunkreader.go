package codec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// ChunkConfig says how a ChunkReader works. The zero value is fit for use.
type ChunkConfig struct {
	Level   Level // default LevelAdaptive
	Size    int   // bytes of payload in a chunk at most, up to MaxChunk; default DefaultChunk
	Workers int   // chunks coded at a time; default GOMAXPROCS
	Hold    int   // chunks the caller has between Next and Release at most; default 1
}

func (c ChunkConfig) check() (ChunkConfig, error) {
	if c.Size == 0 {
		c.Size = DefaultChunk
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Hold == 0 {
		c.Hold = 1
	}
	switch {
	case c.Level >= levels:
		return c, fmt.Errorf("unknown %v", c.Level)
	case c.Size < 0 || c.Size > MaxChunk:
		return c, fmt.Errorf("a chunk can't have %d bytes: choose 1 to %d", c.Size, MaxChunk)
	case c.Workers < 0 || c.Hold < 0:
		return c, errors.New("workers and held chunks can't be negative")
	}
	return c, nil
}

// rawAhead is how many raw chunks are made while one is being sent. They cost
// next to nothing to make, so more would only be stale when the level changes.
const rawAhead = 2

// trialChunk is how many bytes of payload are in a chunk until an adaptive level
// is decided, and probeChunk when it is tried whether the link takes raw ones
// sooner: what is made ahead before that is known may be wasted.
const trialChunk, probeChunk = 128 << 10, 512 << 10

// A ChunkReader cuts a payload into chunks and codes them in parallel, ahead of
// the one who sends them: that one calls Next, sends the chunk and calls Release,
// and so on until io.EOF. The time between a Next and the next is taken for what
// the link needed, so nothing else should be done in it.
//
// It has Workers+1+Hold chunks at most (or rawAhead+Hold, if that is more), each
// with a buffer of Size bytes and, if it was ever compressed, another of little
// more. Its goroutines end with the payload, or by Close or Reset.
//
// Next, Reset and Close are for one goroutine; Release and Stats for any.
type ChunkReader struct {
	cfg ChunkConfig

	// Of the sender's goroutine.
	run      *chunkRun
	head     *slot // taken from run.order, but not ready yet
	err      error // sticky: what the payload ended with
	returned time.Time
	sample   Sample // of the chunk that the sender has; Raw is 0 if none

	wake chan struct{} // has room for one: alive became less

	mu     sync.Mutex // guards what follows
	policy *Policy    // nil at a fixed level
	slots  []*slot    // all that were made
	free   []*slot
	alive  int // slots between admit and release
	stats  ChunkStats
}

// ChunkStats counts what Next returned since the ChunkReader was made.
type ChunkStats struct {
	Chunks [levels]int64 // by the Level they were sent at
	Raw    int64         // bytes of payload
	Wire   int64         // bytes of data
}

// A chunkRun is one pass over a payload from an offset on.
type chunkRun struct {
	stop  chan struct{} // closed to end it early
	order chan *slot    // in the payload's order; closed after the last
	work  chan *slot    // to the workers
	err   error         // of the source, or io.EOF; to be read after order is closed
	wg    sync.WaitGroup
}

// A slot is a chunk and its memory.
type slot struct {
	Chunk
	level  Level // asked for
	size   int   // bytes of payload asked for
	raw    []byte
	packed []byte
	took   time.Duration // to code
	ready  chan struct{} // has one when coded
	held   bool          // by the sender
}

// NewChunkReader makes a ChunkReader for src, which starts at offset of the
// payload: 0, or where a transfer that was cut is to go on. It must be closed.
func NewChunkReader(src io.Reader, offset int64, cfg ChunkConfig) (*ChunkReader, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	r := &ChunkReader{cfg: cfg, wake: make(chan struct{}, 1)}
	if cfg.Level == LevelAdaptive {
		r.policy = NewPolicy(cfg.Workers)
	}
	r.start(src, offset)
	return r, nil
}

// Reset starts again with src, which is at offset of the payload. What was coded
// but not returned is dropped; what was learned about link and payload is not.
// Chunks that the sender still has stay valid until it releases them. Like Close,
// it waits for a Read of the former source.
func (r *ChunkReader) Reset(src io.Reader, offset int64) {
	r.end()
	r.start(src, offset)
}

// Close ends the goroutines and waits for them, hence for a Read of the source
// that is under way: a source that may block for long is to be closed before.
// What Next returns afterwards is an error.
func (r *ChunkReader) Close() error {
	r.end()
	if r.err == nil || errors.Is(r.err, io.EOF) {
		r.err = errors.New("read chunk: the reader is closed")
	}
	return nil
}

func (r *ChunkReader) start(src io.Reader, offset int64) {
	r.err, r.sample = nil, Sample{}
	slots := r.maxAlive(LevelBetter)
	run := &chunkRun{
		stop:  make(chan struct{}),
		order: make(chan *slot, slots),
		work:  make(chan *slot, slots),
	}
	r.run = run
	run.wg.Go(func() { r.read(run, src, offset) })
	for range r.cfg.Workers {
		run.wg.Go(func() {
			for s := range run.work {
				s.code()
				s.ready <- struct{}{}
			}
		})
	}
}

// end stops the run and takes back its chunks.
func (r *ChunkReader) end() {
	if r.run == nil {
		return
	}
	close(r.run.stop)
	r.run.wg.Wait()
	if r.head != nil {
		<-r.head.ready
		r.release(r.head)
		r.head = nil
	}
	for s := range r.run.order {
		<-s.ready
		r.release(s)
	}
	r.run = nil
}

// read fills chunks and hands them to the workers.
func (r *ChunkReader) read(run *chunkRun, src io.Reader, offset int64) {
	defer close(run.work)
	defer close(run.order)
	run.err = io.EOF
	for {
		s := r.admit(run)
		if s == nil {
			return
		}
		n, err := fill(src, s.raw[:s.size], run.stop)
		if n == 0 {
			r.release(s)
		} else {
			s.Chunk = Chunk{Offset: offset, RawSize: n}
			offset += int64(n)
			// Both have room for all the slots there are.
			run.order <- s
			run.work <- s
		}
		if err != nil {
			run.err = err
			return
		}
	}
}

// admit waits until there may be one more chunk, and chooses its level. It
// returns nil when the run is stopped.
func (r *ChunkReader) admit(run *chunkRun) *slot {
	level := LevelAdaptive
	for {
		r.mu.Lock()
		if level == LevelAdaptive && r.alive < r.maxAlive(LevelBetter) {
			if level = r.cfg.Level; level == LevelAdaptive {
				level = r.policy.Next()
			}
		}
		if level != LevelAdaptive && r.alive < r.maxAlive(level) {
			r.alive++
			s := r.take()
			s.level, s.size = level, r.cfg.Size
			if r.policy != nil {
				s.size = min(s.size, r.policy.ChunkSize())
			}
			r.mu.Unlock()
			return s
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
		case <-run.stop:
			return nil
		}
	}
}

func (r *ChunkReader) maxAlive(l Level) int {
	if l == LevelRaw {
		return rawAhead + r.cfg.Hold
	}
	return max(r.cfg.Workers+1, rawAhead) + r.cfg.Hold
}

// take returns a free slot, or a new one. r.mu is locked.
func (r *ChunkReader) take() *slot {
	if n := len(r.free); n > 0 {
		s := r.free[n-1]
		r.free = r.free[:n-1]
		return s
	}
	s := &slot{raw: make([]byte, r.cfg.Size), ready: make(chan struct{}, 1)}
	r.slots = append(r.slots, s)
	return s
}

// fill reads until p is full, or src ends or fails, or stop is closed; the error
// is io.EOF or src's own.
func fill(src io.Reader, p []byte, stop <-chan struct{}) (n int, err error) {
	for empty := 0; n < len(p) && err == nil; {
		select {
		case <-stop:
			return n, io.EOF
		default:
		}
		var k int
		k, err = src.Read(p[n:])
		n += k
		if empty++; k > 0 {
			empty = 0
		}
		if empty == 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// code makes the chunk of what is in s.raw.
func (s *slot) code() {
	start := time.Now()
	raw := s.raw[:s.RawSize]
	s.CRC32C = Checksum(raw)
	s.Data, s.Coding = raw, CodingRaw
	if s.level != LevelRaw {
		enc := levelEncoders[s.level]()
		if s.packed == nil {
			s.packed = make([]byte, 0, enc.MaxEncodedSize(len(s.raw)))
		}
		s.packed = enc.EncodeAll(raw, s.packed[:0])
		if float64(len(s.packed)) <= worthwhile*float64(len(raw)) {
			s.Data, s.Coding = s.packed, CodingZstd
		}
	}
	s.took = time.Since(start)
}

// Next returns the next chunk, which the caller has until it calls Release. At
// the end of the payload it returns io.EOF; what the source failed with comes
// after all that it gave. ctx ends only the waiting, with its cause: the chunk is
// there for another Next.
func (r *ChunkReader) Next(ctx context.Context) (*Chunk, error) {
	called := time.Now()
	r.observe(called)
	if r.err != nil {
		return nil, r.err
	}
	if r.head == nil {
		select {
		case s, ok := <-r.run.order:
			if !ok {
				r.err = r.run.err
				return nil, r.err
			}
			r.head = s
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	select {
	case <-r.head.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s := r.head
	r.head = nil
	level := s.level
	if s.Coding == CodingRaw {
		level = LevelRaw
	}
	r.mu.Lock()
	s.held = true
	r.stats.Chunks[level]++
	r.stats.Raw += int64(s.RawSize)
	r.stats.Wire += int64(len(s.Data))
	r.mu.Unlock()
	r.returned = time.Now()
	r.sample = Sample{
		Level: s.level,
		Raw:   s.RawSize,
		Wire:  len(s.Data),
		Code:  s.took,
		Wait:  r.returned.Sub(called),
	}
	return &s.Chunk, nil
}

// observe tells the policy of the chunk before, which has been sent.
func (r *ChunkReader) observe(now time.Time) {
	if r.policy == nil || r.sample.Raw == 0 {
		return
	}
	r.sample.Send = now.Sub(r.returned)
	r.mu.Lock()
	r.policy.Observe(r.sample)
	r.mu.Unlock()
	r.sample = Sample{}
}

// Release gives back a chunk that Next returned; its data are no longer valid.
func (r *ChunkReader) Release(c *Chunk) {
	var held *slot
	r.mu.Lock()
	for _, s := range r.slots {
		if &s.Chunk == c && s.held {
			held, s.held = s, false
		}
	}
	r.mu.Unlock()
	if held != nil {
		r.release(held)
	}
}

func (r *ChunkReader) release(s *slot) {
	r.mu.Lock()
	r.alive--
	r.free = append(r.free, s)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Stats says what was sent so far.
func (r *ChunkReader) Stats() ChunkStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}
