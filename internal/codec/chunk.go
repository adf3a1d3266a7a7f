package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// DefaultChunk is how many bytes of a payload a chunk holds unless told
	// otherwise. A bit less than a power of two, because connect reads a message
	// into a buffer of a power of two: one of 1 MiB and its fields needs 2 MiB.
	DefaultChunk = 1<<20 - 1<<10
	// MaxChunk is the most bytes of a payload that a chunk holds. Its message then
	// fits the 4 MiB that gRPC accepts unless told otherwise, and buffers that
	// connect pools, which it does up to 8 MiB.
	MaxChunk = 4<<20 - 1<<10

	// maxChunkData is the most bytes that MaxChunk bytes become on the wire: 3 more
	// for each block, of which there are 32, and at most 22 for the frame.
	maxChunkData = MaxChunk + 1<<10
	// maxChunkWindow is the largest window, in bytes, that the frame of a chunk may
	// ask for: the power of two that encoders round MaxChunk up to. The frame is
	// decoded in its output, so the window costs nothing; one that is larger is a
	// sign of a frame that was made for something else.
	maxChunkWindow = 4 << 20
)

// A Coding says what the data of a chunk are.
type Coding uint8

// The codings of a chunk.
const (
	CodingRaw  Coding = iota // the bytes of the payload themselves
	CodingZstd               // one zstd frame of them
)

// A Chunk is a part of a payload on its way. It stands for itself: a transfer
// starts again with any chunk, and chunks are coded independently.
type Chunk struct {
	Offset  int64  // of the first byte in the payload, in uncompressed bytes
	Data    []byte // the bytes, coded
	Coding  Coding
	RawSize int    // bytes, uncompressed; at most MaxChunk
	CRC32C  uint32 // Castagnoli, of the uncompressed bytes
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C (Castagnoli's polynomial, as in RFC 3720) of p.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// DecodeChunk returns the bytes of the payload that c holds. A raw chunk's are
// c.Data itself; a compressed one's are in buf's memory if its capacity is
// RawSize or more, or else in a new slice of RawSize bytes. So what is returned
// must not become the next call's buf, unless c.Coding is CodingZstd.
//
// What is wrong with c is a *PayloadError that names the offset. Whatever c is,
// decoding it allocates no more than some two times RawSize, which is at most
// MaxChunk.
func DecodeChunk(c Chunk, buf []byte) ([]byte, error) {
	raw, err := DecodeChunkUnchecked(c, buf)
	if err != nil {
		return nil, err
	}
	if sum := Checksum(raw); sum != c.CRC32C {
		return nil, payloadErrorf("the chunk at offset %d has a crc32c of %08x, but its bytes have %08x: send it again",
			c.Offset, c.CRC32C, sum)
	}
	return raw, nil
}

// DecodeChunkUnchecked is DecodeChunk for a chunk whose CRC32C isn't known.
func DecodeChunkUnchecked(c Chunk, buf []byte) ([]byte, error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, payloadErrorf("the chunk at offset %d "+format, append([]any{c.Offset}, args...)...)
	}
	switch {
	case c.Offset < 0:
		return fail("is before the start of the payload")
	case c.RawSize < 0:
		return fail("has a raw size of %d bytes", c.RawSize)
	case c.RawSize > MaxChunk:
		return fail("has a raw size of %d bytes: send at most %d in a chunk", c.RawSize, MaxChunk)
	case c.Offset > math.MaxInt64-int64(c.RawSize):
		return fail("ends after the largest offset there is")
	case len(c.Data) > maxChunkData:
		return fail("has %d bytes of data: send at most %d in a chunk", len(c.Data), MaxChunk)
	}
	raw := c.Data
	switch c.Coding {
	case CodingRaw:
		if len(raw) != c.RawSize {
			return fail("has %d bytes, but a raw size of %d", len(raw), c.RawSize)
		}
	case CodingZstd:
		if err := checkFrame(c.Data, c.RawSize); err != nil {
			return fail("%v", err)
		}
		if cap(buf) < c.RawSize {
			buf = make([]byte, c.RawSize)
		}
		var err error
		if raw, err = decodeFrame(c.Data, buf[:0:c.RawSize]); err != nil {
			return fail("%v", err)
		}
		if len(raw) != c.RawSize {
			return fail("decompresses to %d bytes, but has a raw size of %d", len(raw), c.RawSize)
		}
	default:
		return fail("has the unknown coding %d", c.Coding)
	}
	return raw, nil
}

// checkFrame checks, before anything is decoded, that data are one whole zstd
// frame and nothing else, and that it doesn't plainly hold more than rawSize
// bytes (RFC 8878, section 3.1.1).
func checkFrame(data []byte, rawSize int) error {
	if !isZstd(data) {
		return errors.New("is not a zstd frame")
	}
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return frameError(err)
	}
	switch {
	case h.DictionaryID != 0:
		return fmt.Errorf("needs the zstd dictionary %d: compress without one", h.DictionaryID)
	case h.HasFCS && h.FrameContentSize != uint64(rawSize):
		return fmt.Errorf("has a frame of %d bytes, but a raw size of %d", h.FrameContentSize, rawSize)
	case h.WindowSize > maxChunkWindow:
		return fmt.Errorf("has a zstd window of %d MiB, more than %d MiB: compress each chunk as a frame of its own",
			mebibytes(h.WindowSize), maxChunkWindow>>20)
	}
	rest, least := data[h.HeaderSize:], 0
	for last := false; !last; {
		if len(rest) < 3 {
			return frameError(nil)
		}
		block := binary.LittleEndian.Uint32([]byte{rest[0], rest[1], rest[2], 0})
		size := int(block >> 3)
		last = block&1 != 0
		rest = rest[3:]
		switch block >> 1 & 3 {
		case 0: // as it is
			least += size
		case 1: // one byte, repeated
			least += size
			size = 1
		case 3:
			return errors.New("is corrupt: reserved block type")
		}
		if least > rawSize {
			return fmt.Errorf("decompresses to more than its raw size of %d bytes", rawSize)
		}
		if len(rest) < size {
			return frameError(nil)
		}
		rest = rest[size:]
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return frameError(nil)
		}
		rest = rest[4:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("has %d bytes after its zstd frame: send one frame in a chunk", len(rest))
	}
	return nil
}

// chunkDecoders holds idle decoders. Their concurrency is 1, so they have no
// goroutines and are forgotten without Close.
var chunkDecoders = sync.Pool{New: func() any {
	return must(zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxChunkWindow),
		zstd.WithDecoderMaxMemory(maxChunkWindow),
		zstd.WithDecodeAllCapLimit(true),
	))
}}

// decodeFrame decodes a frame that checkFrame found fit to the capacity of dst.
func decodeFrame(frame, dst []byte) ([]byte, error) {
	dec := chunkDecoders.Get().(*zstd.Decoder)
	defer chunkDecoders.Put(dec)
	raw, err := dec.DecodeAll(frame, dst)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrFrameSizeExceeded) {
		return nil, fmt.Errorf("decompresses to more than its raw size of %d bytes", cap(dst))
	}
	if err != nil {
		return nil, frameError(err)
	}
	return raw, nil
}

// frameError says what is wrong with a frame; nil is that it was cut.
func frameError(err error) error {
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("ends in the middle of its zstd frame")
	}
	return fmt.Errorf("is corrupt: %s", strings.TrimPrefix(err.Error(), "invalid input: "))
}
