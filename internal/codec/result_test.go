package codec

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestResultRoundTrip(t *testing.T) {
	const n = 200 << 10
	data := rows(n + 1)
	for _, size := range []int{0, 1, n - 1, n, n + 1} {
		for _, compress := range []bool{false, true} {
			wire := EncodeResult(data[:size], compress)
			if isZstd(wire) != compress {
				t.Errorf("%d bytes, compress %v: starts with % x", size, compress, wire[:min(4, len(wire))])
			}
			got, err := DecodeResult(wire, n)
			if size > n {
				wantPayloadError(t, err, "larger than 204800 bytes")
			} else if err != nil || !bytes.Equal(got, data[:size]) {
				t.Errorf("%d bytes, compress %v: got %d, %v", size, compress, len(got), err)
			}
		}
	}
	if string(EncodeResult([]byte(Pong), true)) == Pong {
		t.Error("a compressed result reads like a heartbeat")
	}
}

func TestDecodeResultOfAStream(t *testing.T) {
	data := rows(600 << 10)
	var wire bytes.Buffer // states no size
	enc, err := NewEncoder(&wire, zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = enc.Write(data)
	_ = enc.Close()
	for limit, ok := range map[int64]bool{int64(len(data)) - 1: false, int64(len(data)): true, 1 << 40: true, 0: false} {
		got, err := DecodeResult(wire.Bytes(), limit)
		if ok && (err != nil || !bytes.Equal(got, data)) {
			t.Errorf("limit %d: got %d bytes, %v", limit, len(got), err)
		} else if !ok {
			wantPayloadError(t, err, "larger than")
		}
	}
	_, err = DecodeResult(wire.Bytes()[:wire.Len()-1], 1<<30)
	wantPayloadError(t, err, "corrupt")
}

// Python's zstandard.ZstdDecompressor().decompress needs the content's size in
// the frame header.
func TestResultFramesSayTheirSize(t *testing.T) {
	for _, n := range []int{1, 2, 255, 256, 257, 65_535, 65_536, 1 << 20} {
		var h zstd.Header
		if err := h.Decode(EncodeResult(bytes.Repeat([]byte("x"), n), true)); err != nil {
			t.Fatal(err)
		}
		if !h.HasFCS || h.FrameContentSize != uint64(n) {
			t.Errorf("%d bytes: the header says %d (%v)", n, h.FrameContentSize, h.HasFCS)
		}
	}
}
