package client

import (
	"math/bits"

	"github.com/aipod/aipod/internal/codec"
)

const (
	// firstWindow is how much may be on the way at first, in bytes, and maxWindow
	// the most: what a cut costs at most, besides a chunk.
	firstWindow, maxWindow = 2 << 20, 8 << 20
	// minWindow is the least: below it, messages and acknowledgements cost more
	// than what a cut loses.
	minWindow = 4 << 10
	// lossShare is the part of a stream that may be lost by its cut: one in so many
	// bytes.
	lossShare = 20
)

// A window bounds what is sent and not yet known to be stored, such that the cuts
// of a connection cost some twentieth of what goes over it. It learns from each
// stream how much the next may carry.
type window struct {
	expect int64 // bytes that a stream carries before it is cut
	known  bool  // expect comes from a stream
}

func newWindow() window { return window{expect: firstWindow * lossShare} }

// limit is how many bytes may be on the way on a stream that has carried so many.
// Until one was cut that had carried something, it grows by what is carried.
func (w *window) limit(carried int64) int64 {
	limit := max(w.expect, carried) / lossShare
	if !w.known {
		limit = w.expect/lossShare + carried
	}
	return min(max(limit, minWindow), maxWindow)
}

// ended tells what a stream carried before it was cut.
func (w *window) ended(carried int64) {
	const most, least = maxWindow * lossShare, minWindow * lossShare
	carried = min(carried, most)
	switch {
	case carried <= 0:
		w.expect /= 4
	case w.known:
		w.expect = (w.expect + carried) / 2
	default:
		w.expect, w.known = carried, true
	}
	w.expect = max(w.expect, least)
}

// chunkSize is how large chunks are when so many bytes may be on the way: half of
// it, so that one is stored while the other is sent.
func chunkSize(limit int64) int {
	half := limit / 2
	if half >= codec.DefaultChunk {
		return codec.DefaultChunk
	}
	return max(1<<(bits.Len64(uint64(half))-1), minWindow)
}
