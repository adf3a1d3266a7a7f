package codec

import (
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// zstdMagic starts each zstd frame that holds data.
const zstdMagic = "\x28\xb5\x2f\xfd"

// skipMagic is the end of what starts a skippable frame; the first byte is 0x50
// to 0x5f.
const skipMagic = "\x2a\x4d\x18"

// maxHeader is the longest frame header, in bytes: magic, descriptor, window,
// dictionary id and content size.
const maxHeader = 4 + 1 + 1 + 4 + 8

const (
	// freeWindow is the largest window, in bytes, that a payload may use without
	// being counted.
	freeWindow = 8 << 20
	// maxWindow is the largest window, in bytes, that a payload may use at all:
	// what zstd itself accepts unless told otherwise.
	maxWindow = 128 << 20
)

// frames follows a zstd stream from frame to frame, without decoding it
// (RFC 8878, section 3.1). It finds what is wrong around the frames and how much
// memory they need before a decoder sees them, and can tell a stream that was
// cut from one that is corrupt.
type frames struct {
	state  frameState
	head   [maxHeader]byte // what came of a frame or block header
	length int             // of head
	left   int64           // bytes to come in inSkipped, inBlock and inChecksum
	last   bool            // the block is the frame's last one
	sum    bool            // the frame ends with a checksum
	window uint64          // bytes, that further frames may use; 0 before the first
	offset int64           // bytes of the stream seen
}

type frameState uint8

const (
	inHeader frameState = iota
	inSkipped
	inBlockHeader
	inBlock
	inChecksum
)

// next takes n bytes from the front of p and returns what the decoder has to get
// of them, or of earlier ones: a whole frame header, then the frame's blocks as
// they come. Skippable frames are dropped. pass is valid until the next call,
// and is to be decoded even when there is an error.
func (f *frames) next(p []byte) (pass []byte, n int, err error) {
	defer func() { f.offset += int64(n) }()
	if f.state > inSkipped {
		n, err = f.blocks(p)
		return p[:n], n, err
	}
	for n < len(p) {
		if f.state == inSkipped {
			n += f.advance(p[n:])
			if f.left == 0 {
				f.enter(inHeader)
			}
			continue
		}
		f.head[f.length] = p[n]
		f.length++
		n++
		if err := f.header(f.offset + int64(n-f.length)); err != nil {
			return nil, n, err
		}
		if f.state == inBlockHeader {
			pass, f.length = f.head[:f.length], 0
			return pass, n, nil
		}
	}
	return nil, n, nil
}

// between says that the stream may end here.
func (f *frames) between() bool { return f.state == inHeader && f.length == 0 }

func (f *frames) enter(s frameState) { f.state, f.length = s, 0 }

// advance takes as much of p as is left.
func (f *frames) advance(p []byte) int {
	n := int(min(f.left, int64(len(p))))
	f.left -= int64(n)
	return n
}

// header looks at the part of a frame header that is there; it begins at offset.
func (f *frames) header(offset int64) error {
	head := f.head[:f.length]
	if !startsFrame(head) {
		if offset == 0 {
			return payloadErrorf("payload is not zstd: it starts with % x", head)
		}
		return payloadErrorf("the zstd stream has something that is not a frame (% x) at byte %d: send nothing else after it", head, offset)
	}
	var h zstd.Header
	switch err := h.Decode(head); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	case err != nil:
		return payloadErrorf("the zstd frame at byte %d is corrupt: %v", offset, err)
	case h.Skippable:
		f.left = int64(h.SkippableSize)
		f.enter(inHeader)
		if f.left > 0 {
			f.state = inSkipped
		}
		return nil
	case h.DictionaryID != 0:
		return payloadErrorf("the zstd frame at byte %d needs dictionary %d: compress without one", offset, h.DictionaryID)
	}
	f.state, f.sum = inBlockHeader, h.HasCheckSum
	window := h.WindowSize
	if h.SingleSegment { // the content is its own window
		window = h.FrameContentSize
	}
	return f.allow(window)
}

// allow checks the window of a frame against what there is.
func (f *frames) allow(window uint64) error {
	switch {
	case window > maxWindow:
		return payloadErrorf("the zstd window of %d MiB is larger than %d MiB: compress with --long=27 or less (window_log <= 27)",
			mebibytes(window), maxWindow>>20)
	case f.window == 0:
		f.window = max(window, freeWindow)
	case window > f.window:
		return payloadErrorf("a later zstd frame has a window of %d MiB, more than the %d MiB that the first allows: compress all frames alike",
			mebibytes(window), mebibytes(f.window))
	}
	return nil
}

// mebibytes rounds up.
func mebibytes(n uint64) uint64 {
	n = min(n, math.MaxInt64)
	return (n + 1<<20 - 1) >> 20
}

// startsFrame says whether head is the start of a frame as far as it goes.
func startsFrame(head []byte) bool {
	head = head[:min(len(head), len(zstdMagic))]
	if head[0]&0xf0 == 0x50 {
		return string(head[1:]) == skipMagic[:len(head)-1]
	}
	return string(head) == zstdMagic[:len(head)]
}

// blocks takes the blocks and the checksum of the frame from p, at most to the
// end of the frame. They start at f.offset.
func (f *frames) blocks(p []byte) (n int, err error) {
	for n < len(p) && f.state != inHeader {
		if f.state != inBlockHeader {
			n += f.advance(p[n:])
			if f.left == 0 {
				f.endBlock()
			}
			continue
		}
		f.head[f.length] = p[n]
		f.length++
		n++
		if f.length == 3 {
			if err := f.blockHeader(f.offset + int64(n)); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (f *frames) blockHeader(offset int64) error {
	h := binary.LittleEndian.Uint32(append(f.head[:3:3], 0))
	f.last = h&1 != 0
	f.left = int64(h >> 3)
	switch h >> 1 & 3 {
	case 1: // one byte, repeated
		f.left = 1
	case 3:
		return payloadErrorf("the zstd stream is corrupt: reserved block type before byte %d", offset)
	}
	f.enter(inBlock)
	if f.left == 0 {
		f.endBlock()
	}
	return nil
}

// endBlock goes on after a block, or after the checksum.
func (f *frames) endBlock() {
	switch {
	case f.state == inBlock && !f.last:
		f.enter(inBlockHeader)
	case f.state == inBlock && f.sum:
		f.enter(inChecksum)
		f.left = 4
	default:
		f.enter(inHeader)
	}
}
