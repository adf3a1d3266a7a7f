package codec

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"
)

// windowMemory is the most bytes that the windows of all payloads being decoded
// may take together, not counting those up to freeWindow.
const windowMemory = 512 << 20

// windows hands out windowMemory. It is one per process, as memory is.
var windows = semaphore.NewWeighted(windowMemory)

// A Decoder turns the payload on the wire, as it comes, into the payload itself.
// A compressed one is a zstd stream of any number of frames; none at all is the
// empty payload.
//
// A Decoder of a compressed payload holds a goroutine, which alone calls dst,
// and the window that the sender used, 2 MiB for most: it must be ended with
// Close or Abort. Between Writes dst may still be in use; after Close or Abort
// it is not.
type Decoder struct {
	ctx    context.Context //nolint:containedctx // only for waiting in Write, which has no place for one
	dst    io.Writer
	frames *frames // nil when the payload is not compressed

	wire   *io.PipeWriter // to the goroutine, nil until it runs
	done   chan struct{}  // closed when the goroutine has ended
	result error          // of the goroutine, to be read after done

	err   error // sticky: what the payload or dst failed with
	ended bool  // closed or aborted
}

// NewDecoder makes a Decoder that writes the payload to dst. ctx ends a Write
// that waits for memory, with its cause; it is not otherwise heeded.
func NewDecoder(ctx context.Context, dst io.Writer, compressed bool) *Decoder {
	d := &Decoder{ctx: ctx, dst: dst}
	if compressed {
		d.frames = new(frames)
	}
	return d
}

// Write takes the next bytes of the wire; p is not kept. The error is a
// *PayloadError, or dst's own, unchanged; it may stem from an earlier Write. With
// a window over 8 MiB, the first Write waits until there is memory for it.
func (d *Decoder) Write(p []byte) (int, error) {
	switch {
	case d.err != nil:
		return 0, d.err
	case d.ended:
		return 0, errors.New("write payload: the decoder is closed")
	case d.frames == nil:
		return d.writePlain(p)
	}
	n := 0
	for n < len(p) {
		pass, k, err := d.frames.next(p[n:])
		n += k
		if len(pass) > 0 {
			if err := d.decode(pass); err != nil {
				return n, err
			}
		}
		if err != nil {
			d.fail(err)
			return n, d.err
		}
	}
	return n, nil
}

func (d *Decoder) writePlain(p []byte) (int, error) {
	n, err := d.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	d.err = err
	return n, err
}

// decode has the goroutine take p.
func (d *Decoder) decode(p []byte) error {
	if d.wire == nil {
		if err := d.start(); err != nil {
			d.err = err
			return err
		}
	}
	if _, err := d.wire.Write(p); err != nil {
		d.fail(err)
	}
	return d.err
}

// Close says that the payload is complete, waits until all of it is in dst, and
// returns the first error of the Decoder.
func (d *Decoder) Close() error {
	if d.ended {
		return d.err
	}
	d.ended = true
	switch {
	case d.err != nil || d.frames == nil:
	case !d.frames.between():
		d.fail(&PayloadError{Reason: "the zstd stream ends in the middle of a frame"})
	case d.wire != nil:
		_ = d.wire.Close() // never fails
		<-d.done
		d.err = d.result
	}
	return d.err
}

// Abort ends the Decoder early, with err as what Close returns. After Close it
// does nothing.
func (d *Decoder) Abort(err error) {
	if d.ended {
		return
	}
	d.ended = true
	if d.err != nil {
		return
	}
	if err == nil {
		err = errors.New("payload aborted")
	}
	d.stop(err)
	d.err = err
}

// fail ends the Decoder with err, unless what came before it was wrong already.
func (d *Decoder) fail(err error) {
	d.stop(err)
	if d.result != nil {
		err = d.result
	}
	d.err = err
}

// stop ends the goroutine, if there is one.
func (d *Decoder) stop(err error) {
	if d.wire != nil {
		_ = d.wire.CloseWithError(err) // never fails
		<-d.done
	}
}

// start takes the memory for the window and starts the goroutine.
func (d *Decoder) start() error {
	window := int64(d.frames.window)
	if window > freeWindow {
		if err := windows.Acquire(d.ctx, window); err != nil {
			return context.Cause(d.ctx)
		}
	}
	var wire *io.PipeReader
	wire, d.wire = io.Pipe()
	d.done = make(chan struct{})
	go func() {
		defer close(d.done)
		d.result = decompress(d.dst, wire, window <= freeWindow)
		if window > freeWindow {
			windows.Release(window)
		}
		_ = wire.CloseWithError(d.result) // never fails; nil reads as a closed pipe
	}()
	return nil
}

// streamDecoders holds idle decoders of windows up to freeWindow: what they keep
// is most of the work for a small payload. The garbage collector bounds it.
var streamDecoders = sync.Pool{New: func() any { return newStreamDecoder() }}

type streamDecoder struct {
	zstd *zstd.Decoder
	in   *bufio.Reader // a block's header is 3 bytes: not each worth a rendezvous
}

func newStreamDecoder() *streamDecoder {
	return &streamDecoder{
		zstd: must(zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1), // no goroutines, so no Close
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow),
			zstd.WithDecodeBuffersBelow(0),
		)),
		in: bufio.NewReaderSize(nil, 4<<10),
	}
}

// decompress decodes src to dst block by block, at most 128 KiB at once. It
// returns nil when src failed, which is for the one who made it fail to report.
func decompress(dst io.Writer, src io.Reader, reuse bool) error {
	var dec *streamDecoder
	if reuse {
		dec = streamDecoders.Get().(*streamDecoder)
	} else {
		dec = newStreamDecoder()
	}
	in := &source{src: src}
	out := &sink{dst: dst}
	dec.in.Reset(in)
	err := dec.zstd.Reset(dec.in)
	if err == nil {
		_, err = dec.zstd.WriteTo(out)
	}
	if reuse && dec.zstd.Reset(nil) == nil {
		dec.in.Reset(nil)
		streamDecoders.Put(dec)
	}
	switch {
	case out.err != nil:
		return out.err
	case err == nil || in.failed:
		return nil
	default:
		return payloadErrorf("the zstd stream is corrupt after %d decompressed bytes: %v", out.n, err)
	}
}

// A source notes that it failed, other than by ending.
type source struct {
	src    io.Reader
	failed bool
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.src.Read(p)
	if err != nil && err != io.EOF {
		s.failed = true
	}
	return n, err
}

// A sink notes the error of the writer behind it, so that nobody can wrap it.
type sink struct {
	dst io.Writer
	n   int64
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.n += int64(n)
	s.err = err
	return n, err
}

// NewEncoder makes the client's end of a compressed payload. Its window of 2 MiB
// is what level 3 of zstd uses; larger ones cost the server that much for each
// payload. Like all of zstd's encoders it must be closed.
func NewEncoder(dst io.Writer, level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(dst,
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(2<<20),
		zstd.WithLowerEncoderMem(true),
		zstd.WithZeroFrames(true), // an empty payload is a frame for zstd's own tools
	)
}
