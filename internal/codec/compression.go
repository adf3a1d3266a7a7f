package codec

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The names of the compressions, as they are in headers.
const (
	Zstd = "zstd"
	Gzip = "gzip"
)

const (
	// messageWindow is how far back, in bytes, a compressed message refers. A
	// chunk is at most that long by default, so more would only cost memory.
	messageWindow = 1 << 20
	// maxMessageWindow is the largest window, in bytes, that a received message
	// may need: what RFC 9659 allows for zstd in HTTP.
	maxMessageWindow = 8 << 20
	// maxScratch is the largest buffer, in bytes, that an idle compressor keeps:
	// a default chunk, and what append grows beyond it.
	maxScratch = 2 << 20
)

// HandlerOptions makes handlers speak zstd and gzip, preferably zstd, and
// replaces connect's message codecs with those of this package.
func HandlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCodec(Proto()),
		connect.WithCodec(JSON()),
		connect.WithCodec(JSONUTF8()),
		// The last one registered is preferred.
		connect.WithCompression(Gzip, newGzipDecompressor, newGzipCompressor),
		connect.WithCompression(Zstd, newZstdDecompressor, newZstdCompressor),
	}
}

// ClientOptions makes clients accept zstd and gzip, preferably zstd. What they
// send stays uncompressed unless connect.WithSendCompression is added.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithAcceptCompression(Gzip, newGzipDecompressor, newGzipCompressor),
		connect.WithAcceptCompression(Zstd, newZstdDecompressor, newZstdCompressor),
	}
}

// sharedEncoder codes whole messages with EncodeAll, as many at once as there
// are processors; further ones wait. One encoder for all, because each that
// connect's pool would make holds its own tables and history.
var sharedEncoder = sync.OnceValue(func() *zstd.Encoder {
	return must(zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(0), // GOMAXPROCS
		zstd.WithWindowSize(messageWindow),
		zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false), // the transport has checksums
	))
})

// must is for constructors that fail only on options that contradict each other.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A zstdCompressor makes one frame of each message, with sharedEncoder.
//
// connect hands a message over in one Write, which is coded from the caller's
// buffer at once. Should there be more, they are kept and become a second frame
// at Close, which every decoder takes for the same message.
type zstdCompressor struct {
	dst    io.Writer
	out    []byte // scratch, at most maxScratch between messages
	rest   []byte // second and later Writes
	wrote  bool   // the first frame is out
	closed bool
}

func newZstdCompressor() connect.Compressor { return &zstdCompressor{dst: io.Discard} }

func (c *zstdCompressor) Write(p []byte) (int, error) {
	switch {
	case c.closed:
		return 0, errors.New("compress: already closed")
	case len(p) == 0:
		return 0, nil
	case c.wrote:
		c.rest = append(c.rest, p...)
		return len(p), nil
	}
	c.wrote = true
	if err := c.emit(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the message; one without any bytes becomes an empty frame.
func (c *zstdCompressor) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	if c.wrote && len(c.rest) == 0 {
		return nil
	}
	return c.emit(c.rest)
}

func (c *zstdCompressor) Reset(dst io.Writer) {
	c.dst, c.wrote, c.closed = dst, false, false
	c.out, c.rest = recycle(c.out), recycle(c.rest)
}

func (c *zstdCompressor) emit(p []byte) error {
	c.out = sharedEncoder().EncodeAll(p, c.out[:0])
	_, err := c.dst.Write(c.out)
	return err
}

// recycle empties a scratch buffer, or drops it when it is over maxScratch.
func recycle(b []byte) []byte {
	if cap(b) > maxScratch {
		return nil
	}
	return b[:0]
}

// A zstdDecompressor is a decoder that survives connect's pool: that closes and
// resets it between messages, and a zstd.Decoder is dead once closed. With a
// concurrency of 1 it has no goroutines, so it may be forgotten without Close.
type zstdDecompressor struct {
	dec *zstd.Decoder
}

func newZstdDecompressor() connect.Decompressor {
	return &zstdDecompressor{dec: must(zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxMessageWindow),
		zstd.WithDecoderMaxMemory(maxMessageWindow), // of a window, when streaming
		// Never decode a whole message ahead of the reader, who has the limit.
		zstd.WithDecodeBuffersBelow(0),
	))}
}

func (d *zstdDecompressor) Read(p []byte) (int, error) { return d.dec.Read(p) }

func (d *zstdDecompressor) Close() error { return nil }

// Reset starts on a new message. With http.NoBody, connect's way to say that
// the decompressor goes to the pool, it lets go of the old one.
func (d *zstdDecompressor) Reset(src io.Reader) error {
	if src == http.NoBody {
		src = nil
	}
	return d.dec.Reset(src)
}

// WriteTo always fails. connect decompresses a message with Read up to the
// limit, and calls io.Copy, hence this, only to find out how much too large it
// is: hours of work that a few MiB of zeros could ask for.
func (d *zstdDecompressor) WriteTo(io.Writer) (int64, error) { return 0, errMeasure }

var errMeasure = errors.New("the rest is not decompressed")

// gzipDecompressor refuses WriteTo for the reason that zstdDecompressor has.
type gzipDecompressor struct {
	gzip.Reader
}

func newGzipDecompressor() connect.Decompressor { return new(gzipDecompressor) }

func (d *gzipDecompressor) WriteTo(io.Writer) (int64, error) { return 0, errMeasure }

func newGzipCompressor() connect.Compressor {
	return must(gzip.NewWriterLevel(io.Discard, gzip.BestSpeed))
}
