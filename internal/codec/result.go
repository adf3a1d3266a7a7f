package codec

import (
	"errors"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Pong is the data of an ai.Raw that only says that the call is alive. A result
// is JSON or zstd and never reads like it.
const Pong = "PONG"

// EncodeResult makes the data of an ai.Raw from a result. Without compress it is
// result itself.
func EncodeResult(result []byte, compress bool) []byte {
	if !compress {
		return result
	}
	return encodeSized(result)
}

// noSizeBelow is the length, in bytes, under which sharedEncoder leaves the
// content's size out of the frame header.
const noSizeBelow = 256

// tinyEncoder makes frames whose header has the content's size however small
// it is. (It would do so for large ones, too, with windows that bounded
// decoders refuse.)
var tinyEncoder = sync.OnceValue(func() *zstd.Encoder {
	return must(zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(0), // GOMAXPROCS
		zstd.WithWindowSize(zstd.MinWindowSize),
		zstd.WithLowerEncoderMem(true),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(false),
	))
})

// encodeSized makes a frame that says the content's size: Python's
// zstandard.ZstdDecompressor().decompress, the seed's, refuses others.
func encodeSized(content []byte) []byte {
	if len(content) < noSizeBelow {
		return tinyEncoder().EncodeAll(content, nil)
	}
	return sharedEncoder().EncodeAll(content, nil)
}

// DecodeResult undoes EncodeResult; data that is not compressed is returned as
// it is. A result of more than maxSize bytes is a *PayloadError, as is one that
// is corrupt.
func DecodeResult(data []byte, maxSize int64) ([]byte, error) {
	result, err := data, error(nil)
	if isZstd(data) {
		result, err = decodeAll(data, maxSize)
	}
	if err == nil && int64(len(result)) > maxSize {
		err = errTooLarge
	}
	switch {
	case errors.Is(err, errTooLarge):
		return nil, payloadErrorf("the result is larger than %d bytes", maxSize)
	case err != nil:
		return nil, payloadErrorf("the result is corrupt: %v", err)
	}
	return result, nil
}

func isZstd(data []byte) bool {
	return len(data) >= len(zstdMagic) && string(data[:len(zstdMagic)]) == zstdMagic
}

// wholeDecoder decodes from memory to memory, as many at once as there are
// processors. It stops at the capacity of its output, which is also the window:
// how large the frame says that is does not matter.
var wholeDecoder = sync.OnceValue(func() *zstd.Decoder {
	return must(zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0), // GOMAXPROCS
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(1<<40),
		zstd.WithDecodeAllCapLimit(true),
	))
})

var errTooLarge = errors.New("too large")

// decodeAll decodes src, a zstd stream, to at most limit bytes. It tries with
// little memory first and then with four times as much, or with what the first
// frame says that it needs; in all it allocates no more than some three times
// limit, whatever src is.
func decodeAll(src []byte, limit int64) ([]byte, error) {
	size := max(64<<10, 4*int64(len(src)))
	var h zstd.Header
	if h.Decode(src) == nil && h.HasFCS {
		if h.FrameContentSize > uint64(limit) {
			return nil, errTooLarge
		}
		size = int64(h.FrameContentSize)
	}
	for {
		size = min(size, limit)
		out, err := wholeDecoder().DecodeAll(src, make([]byte, 0, size))
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded):
			return nil, errors.New(strings.TrimPrefix(err.Error(), "invalid input: "))
		case size == limit:
			return nil, errTooLarge
		}
		size = max(4*size, 64<<10)
	}
}
