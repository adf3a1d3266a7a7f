package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/aipod/aipod/gen/ai"
)

// compress and decompress use what connect pools in the way that its pool does.
func compress(t testing.TB, c connect.Compressor, writes ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	c.Reset(&out)
	for _, p := range writes {
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c.Reset(io.Discard)
	return out.Bytes()
}

func decompressMessage(d connect.Decompressor, wire []byte) ([]byte, error) {
	if err := d.Reset(bytes.NewBuffer(wire)); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(d); err != nil {
		_ = d.Close()
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	_ = d.Reset(http.NoBody)
	return out.Bytes(), nil
}

func TestCompressionRoundTrip(t *testing.T) {
	noLeak(t)
	data := rows(messageWindow + 1)
	for _, pair := range []struct {
		name string
		c    connect.Compressor
		d    connect.Decompressor
	}{
		{Zstd, newZstdCompressor(), newZstdDecompressor()},
		{Gzip, newGzipCompressor(), newGzipDecompressor()},
	} {
		for _, n := range []int{0, 1, block - 1, block, block + 1, messageWindow + 1} {
			if pair.name == Gzip && n > block {
				continue
			}
			for _, writes := range [][][]byte{
				{data[:n]},
				{data[:n/2], data[n/2 : n]},
				{nil, data[:n/3], data[n/3 : n/2], nil, data[n/2 : n]},
			} {
				got, err := decompressMessage(pair.d, compress(t, pair.c, writes...))
				if err != nil || !bytes.Equal(got, data[:n]) {
					t.Fatalf("%s of %d bytes in %d writes: got %d bytes, %v", pair.name, n, len(writes), len(got), err)
				}
			}
		}
		// A message without any Write is what connect makes of an empty one.
		if got, err := decompressMessage(pair.d, compress(t, pair.c)); err != nil || len(got) != 0 {
			t.Errorf("%s of nothing: got %d bytes, %v", pair.name, len(got), err)
		}
	}
}

func TestZstdCompressorMakesOneFrame(t *testing.T) {
	wire := compress(t, newZstdCompressor(), rows(1000))
	if want := sharedEncoder().EncodeAll(rows(1000), nil); !bytes.Equal(wire, want) {
		t.Error("one Write is not one frame")
	}
	c := newZstdCompressor()
	compress(t, c, nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a Write after Close worked")
	}
}

func TestZstdCompressorReportsItsSink(t *testing.T) {
	want := errors.New("gone")
	c := newZstdCompressor()
	c.Reset(writerFunc(func([]byte) (int, error) { return 0, want }))
	if _, err := c.Write([]byte("x")); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestZstdCompressorDropsLargeScratch(t *testing.T) {
	c := &zstdCompressor{}
	big := make([]byte, 2*maxScratch)
	for i := range big {
		big[i] = byte(i * i >> 3 * 7)
	}
	compress(t, c, big, big)
	if cap(c.out) > maxScratch || cap(c.rest) > maxScratch {
		t.Errorf("kept %d and %d bytes", cap(c.out), cap(c.rest))
	}
}

// The pool uses decompressors again after every kind of failure.
func TestDecompressorSurvivesBadInput(t *testing.T) {
	noLeak(t)
	good := sharedEncoder().EncodeAll(rows(3000), nil)
	d := newZstdDecompressor()
	for name, bad := range map[string][]byte{
		"no zstd":    []byte("hello, world"),
		"short":      good[:3],
		"cut":        good[:len(good)/2],
		"trailing":   append(bytes.Clone(good), "garbage"...),
		"window":     windowHeader(maxMessageWindow * 2),
		"dictionary": {0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 0, 1, 0, 0},
	} {
		if got, err := decompressMessage(d, bad); err == nil {
			t.Errorf("%s: got %d bytes and no error", name, len(got))
		}
		got, err := decompressMessage(d, good)
		if err != nil || !bytes.Equal(got, rows(3000)) {
			t.Fatalf("after %s: got %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := decompressMessage(d, nil); err != nil || len(got) != 0 {
		t.Errorf("no bytes: got %d bytes, %v", len(got), err)
	}
	if err := d.Reset(http.NoBody); err != nil {
		t.Errorf("Reset for the pool: %v", err)
	}
}

func TestDecompressorsConcurrently(t *testing.T) {
	noLeak(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, d := newZstdCompressor(), newZstdDecompressor()
			for n := range 20 {
				data := bytes.Repeat([]byte{byte(i), byte(n)}, 1000*n)
				got, err := decompressMessage(d, compress(t, c, data))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// echo answers each message with its data, by way of a Piece.
func echo(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
	piece := NewRawPiece(func(p *Piece) error {
		return stream.Send(&ai.Raw{Data: p.Data})
	})
	for {
		if err := piece.Receive(stream.Conn()); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// serve runs an echo on HTTP/2 and returns a client for it.
func serve(t *testing.T, seen func(http.Header), opts ...connect.HandlerOption) func(...connect.ClientOption) *connect.Client[ai.Raw, ai.Raw] {
	t.Helper()
	const procedure = "/ai.AI/chaos"
	handler := connect.NewBidiStreamHandler(procedure, echo, append(HandlerOptions(), opts...)...)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen != nil {
			seen(r.Header)
		}
		handler.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return func(opts ...connect.ClientOption) *connect.Client[ai.Raw, ai.Raw] {
		return connect.NewClient[ai.Raw, ai.Raw](server.Client(), server.URL+procedure, append(ClientOptions(), opts...)...)
	}
}

func TestOptionsEndToEnd(t *testing.T) {
	var mu sync.Mutex
	var header http.Header
	newClient := serve(t, func(h http.Header) {
		mu.Lock()
		defer mu.Unlock()
		header = h.Clone()
	})
	messages := [][]byte{rows(10), nil, rows(block + 1), rows(1), nil}
	protocols := map[string][]connect.ClientOption{
		"connect": nil, "grpc": {connect.WithGRPC()}, "grpcweb": {connect.WithGRPCWeb()},
	}
	for protocol, opts := range protocols {
		for _, c := range []connect.Codec{Proto(), JSON()} {
			for _, compression := range []string{"", Zstd, Gzip} {
				t.Run(fmt.Sprintf("%s/%s/%s", protocol, c.Name(), compression), func(t *testing.T) {
					opts := append([]connect.ClientOption{connect.WithCodec(c)}, opts...)
					if compression != "" {
						opts = append(opts, connect.WithSendCompression(compression))
					}
					stream := newClient(opts...).CallBidiStream(t.Context())
					for _, m := range messages {
						if err := stream.Send(&ai.Raw{Data: m}); err != nil {
							t.Fatal(err)
						}
						got, err := stream.Receive()
						if err != nil || !bytes.Equal(got.GetData(), m) {
							t.Fatalf("%d bytes: got %d, %v", len(m), len(got.GetData()), err)
						}
					}
					if err := stream.CloseRequest(); err != nil {
						t.Fatal(err)
					}
					if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
						t.Fatalf("at the end: %v", err)
					}
					if err := stream.CloseResponse(); err != nil {
						t.Fatal(err)
					}
					mu.Lock()
					defer mu.Unlock()
					key := "Grpc-Accept-Encoding"
					if protocol == "connect" {
						key = "Connect-Accept-Encoding"
					}
					if got := header.Get(key); got != "zstd,gzip" {
						t.Errorf("accepts %q", got)
					}
				})
			}
		}
	}
}

// A small message that decompresses to more than the limit costs no more than
// the limit, in memory and in time.
func TestMessageBomb(t *testing.T) {
	newClient := serve(t, nil, connect.WithReadMaxBytes(1<<20))
	for _, compression := range []string{Zstd, Gzip} {
		stream := newClient(connect.WithGRPC(), connect.WithSendCompression(compression)).CallBidiStream(t.Context())
		began := time.Now()
		_ = stream.Send(&ai.Raw{Data: make([]byte, 8<<20)})
		_ = stream.CloseRequest()
		_, err := stream.Receive()
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("%s: got %v after %v", compression, err, time.Since(began))
		}
		_ = stream.CloseResponse()
	}
	// What connect does past the limit must not decompress the rest.
	for name, d := range map[string]connect.Decompressor{Zstd: newZstdDecompressor(), Gzip: newGzipDecompressor()} {
		c := newZstdCompressor()
		if name == Gzip {
			c = newGzipCompressor()
		}
		if err := d.Reset(bytes.NewBuffer(compress(t, c, make([]byte, 8<<20)))); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, d); n != 0 || !errors.Is(err, errMeasure) {
			t.Errorf("%s: copied %d bytes, %v", name, n, err)
		}
	}
}

func TestDecompressorMemory(t *testing.T) {
	bomb := encode(t, make([]byte, 64<<20), zstd.WithWindowSize(messageWindow))
	d := newZstdDecompressor()
	got := allocated(func() {
		if err := d.Reset(bytes.NewBuffer(bomb)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, readOnly{d}, 32<<20); err != nil {
			t.Fatal(err)
		}
	})
	if got > 3<<20 {
		t.Errorf("allocated %d bytes for a window of %d", got, messageWindow)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// readOnly hides a WriteTo.
type readOnly struct{ io.Reader }
