package client

import (
	"context"
	"errors"
	"fmt"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
)

// An input is a payload that is being sent. It belongs to the goroutine that
// sends, of which there is one at a time.
type input struct {
	src    source
	level  codec.Level
	window window
	sum    sum
	chunks *codec.ChunkReader // nil until needed
	size   int                // of its chunks; bytes
}

// seek makes chunks of that size from an offset on. The goroutines that read end
// with interrupt, which comes after ctx has ended.
func (in *input) seek(ctx context.Context, offset int64, size int) error {
	if in.size != size {
		in.stop()
	}
	in.src.interrupt()
	if err := in.sum.catchUp(ctx, in.src, offset); err != nil {
		return err
	}
	r, err := in.src.from(offset)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r = in.sum.tee(r, offset)
	if in.chunks != nil {
		in.chunks.Reset(r, offset)
		return nil
	}
	in.size = size
	in.chunks, err = codec.NewChunkReader(r, offset, codec.ChunkConfig{Level: in.level, Size: size})
	return err
}

// end checks that all of the payload was sent, up to the offset, and returns what
// closes the input.
func (in *input) end(offset int64) (*aipodv1.CloseInput, error) {
	if n := in.src.size(); n >= 0 && n != offset {
		return nil, fmt.Errorf("it changed while it was sent: it has %d bytes instead of %d", offset, n)
	}
	crc, ok := in.sum.of(offset)
	if !ok {
		return nil, errors.New("it changed while it was sent: run the job again")
	}
	return &aipodv1.CloseInput{Size: offset, Crc32C: &crc}, nil
}

// forget begins anew: the payload is not what it was when it was read before.
func (in *input) forget() {
	in.stop()
	in.sum.reset()
}

// stop ends the goroutines that read the payload.
func (in *input) stop() {
	in.src.interrupt()
	if in.chunks != nil {
		_ = in.chunks.Close() // never fails
		in.chunks = nil
	}
}

func (in *input) close() {
	in.stop()
	_ = in.src.close() // was only read from
}

// payloadError is an error of the payload itself, unless it only is that ctx has
// ended.
func payloadError(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, errInterrupted) {
		return nil //nolint:nilerr // whoever ended ctx says why
	}
	return localError{fmt.Errorf("read the payload: %w", err)}
}

func wireChunk(c *codec.Chunk) *aipodv1.Chunk {
	coding := aipodv1.Coding_CODING_RAW
	if c.Coding == codec.CodingZstd {
		coding = aipodv1.Coding_CODING_ZSTD
	}
	return &aipodv1.Chunk{Offset: c.Offset, Data: c.Data, Coding: coding, RawSize: int32(c.RawSize), Crc32C: &c.CRC32C}
}
