package codec

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// windowHeader is the header of a frame with a window of a power of two, of no
// stated size and without a checksum.
func windowHeader(window uint64) []byte {
	return append([]byte(zstdMagic), 0, byte(bits.TrailingZeros64(window)-10)<<3)
}

// rle is a last block of n times the byte b.
func rle(b byte, n int) []byte {
	return []byte{byte(n<<3 | 1<<1 | 1), byte(n >> 5), byte(n >> 13), b}
}

func skippable(n int) []byte {
	frame := binary.LittleEndian.AppendUint32([]byte("\x5a"+skipMagic), uint32(n))
	return append(frame, make([]byte, n)...)
}

// push decodes wire, in Writes of at most cut bytes.
func push(wire []byte, compressed bool, cut int) ([]byte, error) {
	var out bytes.Buffer
	err := pushTo(&out, wire, compressed, cut)
	return out.Bytes(), err
}

func pushTo(dst io.Writer, wire []byte, compressed bool, cut int) error {
	d := NewDecoder(context.Background(), dst, compressed)
	scratch := make([]byte, 0, min(cut, len(wire)))
	for len(wire) > 0 {
		n := min(cut, len(wire))
		scratch = append(scratch[:0], wire[:n]...)
		k, err := d.Write(scratch)
		clear(scratch) // a Decoder must not keep it
		if err != nil {
			if again, same := d.Write([]byte("x")); again != 0 || same != err { //nolint:errorlint // unchanged
				return fmt.Errorf("not sticky: first %w, then %d, %w", err, again, same)
			}
			return d.Close()
		}
		if k != n {
			return fmt.Errorf("Write took %d of %d bytes", k, n)
		}
		wire = wire[n:]
	}
	return d.Close()
}

func TestDecoderRoundTrip(t *testing.T) {
	noLeak(t)
	const n = 2*block + 17
	data := rows(n)
	for _, size := range []int{0, 1, 255, 256, block - 1, block, block + 1, n} {
		payload := data[:size]
		var stream bytes.Buffer
		enc, err := NewEncoder(&stream, zstd.SpeedDefault)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = enc.Write(payload)
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		half := size / 2
		for name, test := range map[string]struct {
			wire       []byte
			compressed bool
		}{
			"plain":       {payload, false},
			"stream":      {stream.Bytes(), true},
			"frame":       {encode(t, payload), true},
			"no checksum": {encode(t, payload, zstd.WithEncoderCRC(false)), true},
			"frames":      {bytes.Join([][]byte{encode(t, payload[:half]), encode(t, payload[half:])}, nil), true},
			"skippable": {bytes.Join([][]byte{skippable(0), skippable(9), encode(t, payload[:half]), skippable(3),
				encode(t, nil), encode(t, payload[half:]), skippable(1)}, nil), true},
		} {
			cuts := []int{max(len(test.wire)-1, 1), max(len(test.wire), 1), 1000}
			if size < 1000 {
				cuts = append(cuts, 1)
			}
			for _, cut := range cuts {
				got, err := push(test.wire, test.compressed, cut)
				if err != nil || !bytes.Equal(got, payload) {
					t.Fatalf("%s of %d bytes, cut into %d: got %d bytes, %v", name, size, cut, len(got), err)
				}
			}
		}
	}
}

// smallStream has every kind of frame and block that there is, but for the
// dictionary.
func smallStream(t testing.TB) (wire, payload []byte) {
	a, b := rows(300), bytes.Repeat([]byte("0123456789abcdef"), 40)
	noise := []byte{0x8e, 0x11, 0xf0, 0x03, 0x77}
	wire = bytes.Join([][]byte{
		encode(t, a), skippable(5), encode(t, noise), encode(t, nil), encode(t, b, zstd.WithSingleSegment(true)),
		windowHeader(1 << 10), rle('z', 100),
		encode(t, a, zstd.WithEncoderCRC(false)),
	}, nil)
	payload = bytes.Join([][]byte{a, noise, b, bytes.Repeat([]byte("z"), 100), a}, nil)
	return wire, payload
}

func TestDecoderByteByByte(t *testing.T) {
	wire, payload := smallStream(t)
	for cut := range 40 {
		got, err := push(wire, true, cut+1)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("cut into %d: got %d bytes, %v", cut+1, len(got), err)
		}
	}
}

// boundaries are the offsets between the frames of smallStream.
func boundaries(wire []byte) map[int]bool {
	ends := map[int]bool{0: true}
	var f frames
	for at := range wire {
		if _, _, err := f.next(wire[at : at+1]); err != nil {
			panic(err)
		}
		if f.between() {
			ends[at+1] = true
		}
	}
	return ends
}

func TestDecoderTruncated(t *testing.T) {
	noLeak(t)
	wire, payload := smallStream(t)
	ends := boundaries(wire)
	if len(ends) != 8 {
		t.Fatalf("the stream has boundaries %v, want 8 of them", ends)
	}
	for n := range len(wire) + 1 {
		for _, cut := range []int{1, len(wire)} {
			got, err := push(wire[:n], true, cut)
			if !bytes.HasPrefix(payload, got) {
				t.Fatalf("cut after %d bytes: decoded something else", n)
			}
			if ends[n] {
				if err != nil {
					t.Errorf("ended after %d bytes, between frames: %v", n, err)
				}
				continue
			}
			wantPayloadError(t, err, "the zstd stream ends in the middle of a frame")
		}
	}
}

// With checksums, a flipped bit is either found or changes nothing.
func TestDecoderBitFlips(t *testing.T) {
	noLeak(t)
	first, second := rows(700), rows(90)
	wire := append(encode(t, first), encode(t, second)...)
	payload := append(bytes.Clone(first), second...)
	for i := range len(wire) * 8 {
		flipped := bytes.Clone(wire)
		flipped[i/8] ^= 1 << (i % 8)
		got, err := push(flipped, true, len(flipped))
		if err == nil {
			if !bytes.Equal(got, payload) {
				t.Errorf("bit %d: accepted and wrong", i)
			}
			continue
		}
		wantPayloadError(t, err)
	}
}

func TestDecoderRefuses(t *testing.T) {
	noLeak(t)
	good := encode(t, rows(100))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, test := range map[string]struct {
		wire []byte
		want string
	}{
		"JSON":              {[]byte(`{"a":1}`), "payload is not zstd: it starts with 7b"},
		"gzip":              {[]byte("\x1f\x8b\x08"), "payload is not zstd: it starts with 1f"},
		"almost":            {[]byte("\x28\xb5\x2f\xfe"), "payload is not zstd: it starts with 28 b5 2f fe"},
		"trailing":          {join(good, []byte("xyz")), fmt.Sprintf("not a frame (78) at byte %d", len(good))},
		"trailing nul":      {join(good, []byte{0}), "not a frame (00)"},
		"trailing almost":   {join(good, []byte("\x28\xb5x")), "not a frame (28 b5 78)"},
		"after skippable":   {join(skippable(4), []byte("xyz")), "not a frame (78) at byte 12"},
		"dictionary":        {append([]byte(zstdMagic), 0x21, 7, 0), "dictionary 7"},
		"longest header":    {append([]byte(zstdMagic), 0xc3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), "dictionary 1"},
		"reserved bit":      {append([]byte(zstdMagic), 0x08, 0, 0), "the zstd frame at byte 0 is corrupt: reserved bit"},
		"reserved block":    {append(windowHeader(1<<20), 0x07, 0, 0), "reserved block type"},
		"block too large":   {append(windowHeader(1<<20), 0xfd, 0xff, 0xff, 0, 0), "corrupt after 0 decompressed bytes"},
		"checksum":          {join(good[:len(good)-1], []byte{good[len(good)-1] ^ 1}), "corrupt after 100 decompressed bytes: CRC"},
		"window 256 MiB":    {windowHeader(256 << 20), "the zstd window of 256 MiB is larger than 128 MiB: compress with --long=27 or less (window_log <= 27)"},
		"window 129 MiB":    {append([]byte(zstdMagic), 0, 17<<3|1), "the zstd window of 144 MiB"},
		"window 2 TiB":      {windowHeader(1 << 41), "the zstd window of 2097152 MiB"},
		"segment 2^64":      {append([]byte(zstdMagic), 0xe0, 255, 255, 255, 255, 255, 255, 255, 255), "the zstd window of"},
		"segment 128 MiB+1": {append([]byte(zstdMagic), 0xa0, 1, 0, 0, 8), "the zstd window of 129 MiB"},
		"later window":      {join(good, windowHeader(16<<20)), "a later zstd frame has a window of 16 MiB, more than the 8 MiB"},
		"later window 2":    {join(windowHeader(16<<20), rle('x', 3), windowHeader(32<<20)), "a window of 32 MiB, more than the 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, cut := range []int{1, 3, len(test.wire)} {
				_, err := push(test.wire, true, cut)
				wantPayloadError(t, err, test.want)
			}
		})
	}
}

func TestDecoderLargeWindows(t *testing.T) {
	for _, wire := range [][]byte{
		append(windowHeader(maxWindow), rle('x', 1000)...),
		append(append(append(windowHeader(16<<20), rle('x', 500)...), windowHeader(16<<20)...), rle('x', 500)...),
		append(append(append(skippable(7), windowHeader(16<<20)...), rle('x', 500)...), append(windowHeader(1<<20), rle('x', 500)...)...),
		append(append(append(windowHeader(1<<10), rle('x', 500)...), windowHeader(freeWindow)...), rle('x', 500)...),
	} {
		got, err := push(wire, true, 7)
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("x"), 1000)) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	if !windows.TryAcquire(windowMemory) {
		t.Fatal("window memory was not given back")
	}
	windows.Release(windowMemory)
}

// limitError is an error with facts, as dst has them.
type limitError struct{ limit int }

func (e *limitError) Error() string { return fmt.Sprintf("over %d bytes", e.limit) }

// limited takes limit bytes.
type limited struct {
	limit, n int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.limit-l.n {
		return 0, &limitError{l.limit}
	}
	l.n += len(p)
	return len(p), nil
}

func TestDecoderReturnsTheErrorOfDst(t *testing.T) {
	noLeak(t)
	data := rows(1 << 20)
	frame := encode(t, data)
	for name, test := range map[string]struct {
		wire       []byte
		compressed bool
	}{
		"plain":         {data, false},
		"frame":         {frame, true},
		"then garbage":  {append(bytes.Clone(frame), "garbage"...), true},
		"then the end":  {frame[:len(frame)-2], true},
		"one block":     {encode(t, data[:1000]), true},
		"one and a cut": {encode(t, data[:1000])[:300], true},
	} {
		for _, limit := range []int{0, 10, block + 10} {
			for _, cut := range []int{100, len(test.wire)} {
				dst := &limited{limit: limit}
				err := pushTo(dst, test.wire, test.compressed, cut)
				var want *limitError
				if limit > 10 && len(test.wire) < 1000 || name == "one and a cut" {
					continue // it fits
				}
				if e, ok := err.(*limitError); !ok || e.limit != limit { //nolint:errorlint // unchanged
					t.Errorf("%s, limit %d, cut into %d: got %T %v, want %T", name, limit, cut, err, err, want)
				}
			}
		}
	}
	short := writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil })
	for _, compressed := range []bool{false, true} {
		wire := data
		if compressed {
			wire = frame
		}
		if err := pushTo(short, wire, compressed, len(wire)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("short write: %v", err)
		}
	}
}

// What would decompress to 128 MiB stops at dst's limit, and takes no memory.
func TestDecoderBomb(t *testing.T) {
	noLeak(t)
	var wire bytes.Buffer
	enc, err := NewEncoder(&wire, zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 128 {
		_, _ = enc.Write(zeros)
	}
	_ = enc.Close()
	began := time.Now()
	got := allocated(func() { err = pushTo(&limited{limit: 4 << 20}, wire.Bytes(), true, 32<<10) })
	if limit := (*limitError)(nil); !errors.As(err, &limit) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); got > 4<<20 || took > 2*time.Second {
		t.Errorf("allocated %d bytes in %v", got, took)
	}
	got = allocated(func() { err = pushTo(io.Discard, wire.Bytes(), true, 32<<10) })
	if err != nil || got > 4<<20 {
		t.Errorf("without a limit: allocated %d bytes, %v", got, err)
	}
}

// A payload that stalls in the middle of a frame keeps the sender's window, here
// the 2 MiB of zstd's level 3, and not much more.
func TestStalledDecodersMemory(t *testing.T) {
	noLeak(t)
	const count, most = 20, 2750 << 10
	var wire bytes.Buffer
	enc, err := NewEncoder(&wire, zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = enc.Write(rows(4 << 20))
	_ = enc.Close()
	small := encode(t, rows(1000))
	for name, test := range map[string]struct {
		wire []byte
		most int64
	}{
		"middle": {wire.Bytes()[:wire.Len()*3/4], most},
		"header": {wire.Bytes()[:zstd.HeaderMaxSize], 96 << 10},
		"small":  {small[:len(small)-1], 64 << 10},
	} {
		before := heap()
		decoders := make([]*Decoder, count)
		for i := range decoders {
			decoders[i] = NewDecoder(t.Context(), io.Discard, true)
			if _, err := decoders[i].Write(test.wire); err != nil {
				t.Fatal(err)
			}
		}
		each := (heap() - before) / count
		t.Logf("%s: %d KiB each", name, each>>10)
		if each > test.most {
			t.Errorf("%s: %d bytes each, want at most %d", name, each, test.most)
		}
		for _, d := range decoders {
			d.Abort(nil)
		}
	}
}

func TestDecoderWaitsForWindowMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		header := windowHeader(maxWindow)
		open := func(ctx context.Context) *Decoder { return NewDecoder(ctx, io.Discard, true) }
		var held []*Decoder
		for range windowMemory / maxWindow {
			d := open(t.Context())
			if _, err := d.Write(header); err != nil {
				t.Fatal(err)
			}
			held = append(held, d)
		}
		// Windows that are not counted do not wait.
		if _, err := push(append(windowHeader(freeWindow), rle('x', 10)...), true, 1); err != nil {
			t.Fatal(err)
		}
		// One that is waits until ctx is done …
		gone := errors.New("client gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		refused := make(chan error)
		d := open(ctx)
		go func() {
			_, err := d.Write(header)
			refused <- errors.Join(err, d.Close())
		}()
		synctest.Wait()
		select {
		case err := <-refused:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		cancel(gone)
		if err := <-refused; !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		// … or memory is given back.
		taken := make(chan error)
		d = open(t.Context())
		go func() {
			_, err := d.Write(append(header, rle('x', 10)...))
			taken <- errors.Join(err, d.Close())
		}()
		synctest.Wait()
		held[0].Abort(gone)
		if err := <-taken; err != nil {
			t.Error(err)
		}
		for _, d := range held {
			d.Abort(gone)
		}
		if !windows.TryAcquire(windowMemory) {
			t.Fatal("window memory was not given back")
		}
		windows.Release(windowMemory)
	})
}

func TestDecoderEnds(t *testing.T) {
	noLeak(t)
	frame := encode(t, rows(3*block))
	gone := errors.New("client gone")
	for name, wire := range map[string][]byte{"nothing": nil, "header": frame[:6], "some": frame[:len(frame)/2], "all": frame} {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, compressed), func(t *testing.T) {
				open := func() *Decoder {
					d := NewDecoder(t.Context(), io.Discard, compressed)
					if _, err := d.Write(wire); err != nil {
						t.Fatal(err)
					}
					return d
				}
				d := open()
				first := d.Close()
				if cut := compressed && (name == "header" || name == "some"); cut != (first != nil) {
					t.Errorf("Close: %v", first)
				}
				d.Abort(gone)
				if again := d.Close(); again != first { //nolint:errorlint // unchanged
					t.Errorf("Close again: %v, first %v", again, first)
				}
				if _, err := d.Write([]byte("x")); err == nil {
					t.Error("a Write after Close worked")
				}

				d = open()
				d.Abort(gone)
				d.Abort(errors.New("another"))
				if err := d.Close(); err != gone { //nolint:errorlint // unchanged
					t.Errorf("Close after Abort: %v", err)
				}
				if _, err := d.Write([]byte("x")); err != gone { //nolint:errorlint // unchanged
					t.Errorf("Write after Abort: %v", err)
				}
				d = open()
				d.Abort(nil)
				if d.Close() == nil {
					t.Error("an aborted payload is complete")
				}
			})
		}
	}
}

// Abort waits until dst is not used any more.
func TestDecoderAbortJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy bool
		slow := writerFunc(func(p []byte) (int, error) {
			busy = true
			time.Sleep(time.Minute)
			busy = false
			return len(p), nil
		})
		d := NewDecoder(t.Context(), slow, true)
		if _, err := d.Write(encode(t, rows(1000))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d.Abort(nil)
		if busy {
			t.Error("dst is in use after Abort")
		}
	})
}

func TestDecodersConcurrently(t *testing.T) {
	noLeak(t)
	data := rows(3 * block)
	frame := encode(t, data)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 5 {
				wire, ok := frame, true
				if (i+n)%3 == 0 { // failures must not spoil what is reused
					wire, ok = frame[:len(frame)/2], false
				}
				got, err := push(wire, true, 1000*(i+1))
				if ok != (err == nil) || ok && !bytes.Equal(got, data) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzDecoder has two halves: a payload coded as frames, cut anywhere, comes out
// as it was; and anything at all is decoded as the zstd package does it, or
// refused, but never to more than dst takes.
func FuzzDecoder(f *testing.F) {
	wire, payload := smallStream(f)
	f.Add(payload, uint16(100), uint16(7))
	f.Add(wire, uint16(0), uint16(1))
	f.Add(append(bytes.Clone(wire), "garbage"...), uint16(0), uint16(5000))
	f.Add(append(windowHeader(16<<20), rle('x', 1000)...), uint16(0), uint16(3))
	f.Add([]byte{}, uint16(1), uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, size, cut uint16) {
		if size > 0 {
			roundTrip(t, data, int(size), int(cut)+1)
		}
		dst := &capture{limited: limited{limit: 1 << 20}}
		err := pushTo(dst, data, true, int(cut)+1)
		var limit *limitError
		if dst.n > dst.limit || err != nil && !errors.As(err, &limit) && !errors.As(err, new(*PayloadError)) {
			t.Fatalf("%d bytes, %v", dst.n, err)
		}
		if limit != nil {
			return
		}
		dec := must(zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)))
		var want bytes.Buffer
		_, wantErr := io.CopyN(&want, dec, 1<<20+1)
		if ok := errors.Is(wantErr, io.EOF); err == nil && (!ok || !bytes.Equal(want.Bytes(), dst.Bytes())) {
			t.Fatalf("got %d bytes; zstd has %d, %v", dst.n, want.Len(), wantErr)
		} else if err != nil && ok && !bytes.Contains([]byte(err.Error()), []byte("a later zstd frame")) {
			t.Fatalf("got %v; zstd has %d bytes", err, want.Len())
		}
	})
}

type capture struct {
	limited
	bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	n, err := c.limited.Write(p)
	c.Buffer.Write(p[:n])
	return n, err
}

// roundTrip codes data as frames of size bytes.
func roundTrip(t *testing.T, data []byte, size, cut int) {
	size = max(size, len(data)/20)
	var wire []byte
	for rest := data; len(rest) > 0; {
		n := min(size, len(rest))
		wire = sharedEncoder().EncodeAll(rest[:n], wire)
		rest = rest[n:]
	}
	got, err := push(wire, true, cut)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d of %d bytes, %v", len(got), len(data), err)
	}
}
