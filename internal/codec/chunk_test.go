package codec

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// rawChunk and zstdChunk are good chunks of data, at an offset that shows in
// errors.
func rawChunk(data []byte) Chunk {
	return Chunk{Offset: 4711, Data: data, RawSize: len(data), CRC32C: crc32.Checksum(data, castagnoli)}
}

func zstdChunk(frame, data []byte) Chunk {
	c := rawChunk(data)
	c.Data, c.Coding = frame, CodingZstd
	return c
}

// streamed is data as a frame that doesn't state its size.
func streamed(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := NewEncoder(&out, zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 100<<10)
		_, _ = enc.Write(data[:n])
		_ = enc.Flush()
		data = data[n:]
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecodeChunk(t *testing.T) {
	data := append(textRows(DefaultChunk+1), make([]byte, MaxChunk-DefaultChunk-1)...)
	buf := make([]byte, 0, MaxChunk)
	for _, n := range []int{0, 1, 255, block - 1, block, block + 1, DefaultChunk - 1, DefaultChunk, DefaultChunk + 1, MaxChunk} {
		raw := data[:n]
		frame := levelEncoders[LevelFastest]().EncodeAll(raw, nil)
		if n == 0 {
			frame = encode(t, raw, zstd.WithZeroFrames(true))
		}
		for name, c := range map[string]Chunk{
			"raw":         rawChunk(raw),
			"frame":       zstdChunk(frame, raw),
			"checksummed": zstdChunk(encode(t, raw, zstd.WithZeroFrames(true), zstd.WithEncoderLevel(zstd.SpeedFastest)), raw),
			"no size":     zstdChunk(streamed(t, raw), raw),
		} {
			got, err := DecodeChunk(c, buf)
			if err != nil || !bytes.Equal(got, raw) {
				t.Fatalf("%s of %d bytes: got %d, %v", name, n, len(got), err)
			}
			if n == 0 {
				continue
			}
			if in := &c.Data[0]; c.Coding == CodingRaw && &got[0] != in {
				t.Errorf("%s of %d bytes was copied", name, n)
			}
			if c.Coding == CodingZstd && &got[0] != &buf[:1][0] {
				t.Errorf("%s of %d bytes isn't in the buffer", name, n)
			}
			if got, err := DecodeChunk(c, make([]byte, n-1)); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%s of %d bytes without a buffer: got %d, %v", name, n, len(got), err)
			}
		}
	}
}

func TestDecodeChunkRefuses(t *testing.T) {
	data := rows(300 << 10)
	frame, noSize := encode(t, data), streamed(t, data)
	good := zstdChunk(frame, data)
	change := func(c Chunk, change func(c *Chunk)) Chunk {
		change(&c)
		return c
	}
	withData := func(data []byte) Chunk { return change(good, func(c *Chunk) { c.Data = data }) }
	withRaw := func(c Chunk, n int) Chunk { return change(c, func(c *Chunk) { c.RawSize = n }) }
	twisted := bytes.Clone(frame)
	twisted[len(twisted)/2] ^= 1
	bomb := append(windowHeader(1<<20), bytes.Repeat([]byte{0x02, 0x00, 0x10, 'x'}, 1<<10)...) // 128 KiB each
	for name, test := range map[string]struct {
		chunk Chunk
		want  string
	}{
		"before the payload": {change(good, func(c *Chunk) { c.Offset = -1 }), "offset -1 is before the start"},
		"after all offsets":  {change(good, func(c *Chunk) { c.Offset = 1<<63 - 2 }), "offset 9223372036854775806 ends after"},
		"negative size":      {withRaw(good, -1), "has a raw size of -1 bytes"},
		"too large":          {withRaw(good, MaxChunk+1), "raw size of 4193281 bytes: send at most 4193280"},
		"too much data":      {withData(make([]byte, 4<<20+1)), "4194305 bytes of data: send at most 4193280"},
		"unknown coding":     {change(good, func(c *Chunk) { c.Coding = 2 }), "unknown coding 2"},
		"raw, wrong sum":     {change(rawChunk(data), func(c *Chunk) { c.CRC32C++ }), "crc32c of"},
		"raw, too short":     {withRaw(rawChunk(data), len(data)+1), "has 307200 bytes, but a raw size of 307201"},
		"raw, too long":      {withRaw(rawChunk(data), len(data)-1), "has 307200 bytes, but a raw size of 307199"},
		"wrong sum":          {change(good, func(c *Chunk) { c.CRC32C = 0x1234 }), "crc32c of 00001234, but its bytes have"},
		"too short":          {withRaw(good, len(data)+1), "has a frame of 307200 bytes, but a raw size of 307201"},
		"too long":           {withRaw(good, len(data)-1), "has a frame of 307200 bytes, but a raw size of 307199"},
		"no size, too short": {withRaw(zstdChunk(noSize, data), len(data)+1), "decompresses to 307200 bytes, but"},
		"no size, too long":  {withRaw(zstdChunk(noSize, data), len(data)-1), "more than its raw size of 307199 bytes"},
		"bomb":               {withData(bomb), "more than its raw size of 307200 bytes"},
		"empty":              {withData(nil), "not a zstd frame"},
		"not zstd":           {withData(data), "not a zstd frame"},
		"skippable":          {withData(append(skippable(9), frame...)), "not a zstd frame"},
		"trailing byte":      {withData(append(bytes.Clone(frame), 0)), "has 1 bytes after its zstd frame"},
		"two frames":         {withData(append(bytes.Clone(frame), frame...)), "after its zstd frame"},
		"window":             {withData(append(windowHeader(8<<20), rle('x', 300<<10)...)), "window of 8 MiB, more than 4 MiB"},
		"dictionary":         {withData([]byte(zstdMagic + "\x01\x50\x07\x01\x00\x00")), "dictionary 7"},
		"reserved block":     {withData(append(windowHeader(1<<20), 0x07, 0, 0)), "reserved block type"},
		"corrupt":            {withData(twisted), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeChunk(test.chunk, make([]byte, MaxChunk))
			wantPayloadError(t, err, fmt.Sprintf("the chunk at offset %d ", test.chunk.Offset), test.want)
			if got != nil {
				t.Errorf("got %d bytes with the error", len(got))
			}
		})
	}
	for n := range frame {
		if n > 100 && n < len(frame)-100 && n%997 != 0 {
			continue
		}
		_, err := DecodeChunk(withData(frame[:n:n]), nil)
		wantPayloadError(t, err, "the chunk at offset 4711")
		if n >= 4 {
			wantPayloadError(t, err, "ends in the middle of its zstd frame")
		}
	}
}

// TestDecodeChunkMemory: little for what turns out to be too large.
func TestDecodeChunkMemory(t *testing.T) {
	data := make([]byte, MaxChunk)
	small := streamed(t, data) // 4 MiB from a few hundred bytes
	if _, err := DecodeChunk(zstdChunk(small, data), nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 100 << 10, 1 << 20} {
		c := zstdChunk(small, data)
		c.RawSize = n
		var err error
		got := allocated(func() { _, err = DecodeChunk(c, nil) })
		wantPayloadError(t, err, "the chunk at offset 4711")
		// What the race detector makes the pool drop is a decoder.
		if limit := 2*int64(n) + 1<<20; got > limit {
			t.Errorf("%d bytes at most, allocated %d", n, got)
		}
	}
}

func TestDecodeChunkAllocatesNothing(t *testing.T) {
	data := rows(DefaultChunk)
	buf := make([]byte, DefaultChunk)
	for name, c := range map[string]Chunk{
		"raw":     rawChunk(data),
		"frame":   zstdChunk(encode(t, data), data),
		"no size": zstdChunk(streamed(t, data), data),
	} {
		decode := func() {
			if _, err := DecodeChunk(c, buf); err != nil {
				t.Fatal(err)
			}
		}
		decode()
		if got := testing.AllocsPerRun(20, decode); !raced && got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

// FuzzDecodeChunk: whatever comes is decoded to what it says, or refused, with
// little memory; and what a level makes of it comes back.
func FuzzDecodeChunk(f *testing.F) {
	data := rows(3000)
	for _, frame := range [][]byte{
		data, encode(f, data), streamed(f, data), encode(f, nil, zstd.WithZeroFrames(true)),
		append(windowHeader(1<<20), rle('x', 3000)...), append(windowHeader(1<<10), 0, 0, 0), skippable(3),
	} {
		f.Add(frame, uint8(1), 3000, int64(0), crc32.Checksum(data, castagnoli))
		f.Add(frame, uint8(0), len(frame), int64(1)<<40, crc32.Checksum(frame, castagnoli))
	}
	f.Fuzz(func(t *testing.T, data []byte, coding uint8, rawSize int, offset int64, sum uint32) {
		buf := make([]byte, 1<<10)
		c := Chunk{Offset: offset, Data: data, Coding: Coding(coding), RawSize: rawSize, CRC32C: sum}
		var got []byte
		var err error
		used := allocated(func() { got, err = DecodeChunk(c, buf) })
		// A decoder, and whatever else the process does meanwhile, besides.
		if limit := 2*int64(min(max(rawSize, 0), MaxChunk)) + 4<<20; used > limit {
			t.Errorf("allocated %d bytes for a raw size of %d", used, rawSize)
		}
		if err != nil {
			wantPayloadError(t, err, fmt.Sprintf("the chunk at offset %d ", offset))
		} else if len(got) != rawSize || crc32.Checksum(got, castagnoli) != sum || rawSize > MaxChunk {
			t.Errorf("decoded %d of %d bytes", len(got), rawSize)
		}
		// With size and sum put right, so that the fuzzer gets behind them.
		if raw, err := wholeDecoder().DecodeAll(data, make([]byte, 0, 64<<10)); err == nil && c.Coding == CodingZstd {
			c.RawSize, c.CRC32C = len(raw), crc32.Checksum(raw, castagnoli)
			if got, err := DecodeChunk(c, buf); err == nil && !bytes.Equal(got, raw) {
				t.Errorf("decoded %d bytes, another decoder %d", len(got), len(raw))
			}
		}
		for level := LevelRaw; level < levels; level++ {
			s := slot{Chunk: Chunk{RawSize: len(data)}, level: level, raw: data}
			s.code()
			if got, err := DecodeChunk(s.Chunk, nil); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v: %d bytes became %d: %v", level, len(data), len(got), err)
			}
		}
	})
}
