package job

import (
	"crypto/sha256"
	"hash"
	"sync"
)

const (
	// digestInline is up to how many bytes of an input are hashed by whoever puts
	// them: what costs less than to bother another core.
	digestInline = 256 << 10
	// digestBlock is the size of a buffer in bytes, and about what a digester keeps
	// while nothing arrives.
	digestBlock = 64 << 10
	// digestBlocks is how many buffers may wait for the hasher. Then the upload
	// waits: a digester takes a megabyte at most.
	digestBlocks = 16
)

// A digester computes the SHA-256 of an input while it arrives. What is beyond
// digestInline is copied and hashed by a goroutine that lives only for as long as
// there is something to hash. Nobody has to end it.
//
// Calls of write, reset and sum take turns; drop may come at any time. A nil
// digester does nothing.
type digester struct {
	blocks *sync.Pool // of *block
	start  func()     // run, made once: a go statement with a method allocates

	mu      sync.Mutex
	changed sync.Cond // a block is taken from the queue, the hasher ends, or drop
	queue   []*block  // at most digestBlocks; all but the last are full
	hashing bool      // the hasher is alive
	hash    hash.Hash // used without mu by the hasher while it is alive, else with it
	taken   int64     // bytes
	dropped bool
}

type block struct {
	n    int // bytes that are filled
	data [digestBlock]byte
}

func newDigester(blocks *sync.Pool) *digester {
	d := &digester{blocks: blocks, hash: sha256.New()}
	d.changed.L = &d.mu
	return d
}

// write adds the bytes that the input has from off on. If those before are not
// known, there will be no sum. It waits if the hasher is slower.
func (d *digester) write(off int64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off != d.taken {
		return
	}
	d.taken += int64(len(p))
	if d.taken <= digestInline && !d.dropped {
		_, _ = d.hash.Write(p) // which never fails
		return
	}
	for len(p) > 0 {
		b := d.roomLocked()
		if b == nil {
			return
		}
		n := copy(b.data[b.n:], p)
		b.n += n
		p = p[n:]
		if b.n == len(b.data) && !d.hashing {
			if d.start == nil {
				d.start = d.run
			}
			d.hashing = true
			go d.start()
		}
	}
}

// roomLocked waits for a block with room, and returns nil after drop.
func (d *digester) roomLocked() *block {
	for !d.dropped {
		if n := len(d.queue); n > 0 && d.queue[n-1].n < digestBlock {
			return d.queue[n-1]
		} else if n < digestBlocks {
			b := d.blocks.Get().(*block)
			b.n = 0
			d.queue = append(d.queue, b)
			return b
		}
		d.changed.Wait()
	}
	return nil
}

// run hashes until nothing is left, not even a block that isn't full.
func (d *digester) run() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) > 0 {
		b := d.shiftLocked()
		d.changed.Broadcast()
		d.mu.Unlock()
		d.add(b)
		d.mu.Lock()
	}
	d.hashing = false
	d.changed.Broadcast()
}

func (d *digester) shiftLocked() *block {
	b := d.queue[0]
	n := copy(d.queue, d.queue[1:])
	d.queue[n] = nil
	d.queue = d.queue[:n]
	return b
}

func (d *digester) add(b *block) {
	_, _ = d.hash.Write(b.data[:b.n])
	d.blocks.Put(b)
}

// sum is the SHA-256 of all that was written, or nil if that is not the size
// bytes that the input has.
func (d *digester) sum(size int64) []byte {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idleLocked()
	if d.dropped || d.taken != size {
		return nil
	}
	for len(d.queue) > 0 {
		d.add(d.shiftLocked())
	}
	return d.hash.Sum(nil)
}

// idleLocked waits for the end of the hasher.
func (d *digester) idleLocked() {
	for d.hashing {
		d.changed.Wait()
	}
}

// reset begins again with an empty input.
func (d *digester) reset() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freeLocked()
	d.idleLocked()
	d.hash.Reset()
	d.taken = 0
}

// drop frees what the digester takes. There will be no sum, and who waits in write
// is let go.
func (d *digester) drop() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropped = true
	d.freeLocked()
	d.changed.Broadcast()
}

func (d *digester) freeLocked() {
	for len(d.queue) > 0 {
		d.blocks.Put(d.shiftLocked())
	}
}
