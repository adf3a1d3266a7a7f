package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// collect sends all chunks of r to a buffer, and checks their offsets.
func collect(t testing.TB, r *ChunkReader, offset int64) ([]byte, error) {
	t.Helper()
	var out []byte
	for {
		c, err := r.Next(context.Background())
		if err != nil {
			if _, again := r.Next(context.Background()); again != err { //nolint:errorlint // unchanged
				t.Errorf("not sticky: first %v, then %v", err, again)
			}
			return out, err
		}
		if c.Offset != offset+int64(len(out)) {
			t.Fatalf("a chunk at %d, want %d", c.Offset, offset+int64(len(out)))
		}
		raw, err := DecodeChunk(*c, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw...)
		clear(c.Data) // ours until Release
		r.Release(c)
	}
}

func newChunkReader(t testing.TB, src io.Reader, offset int64, cfg ChunkConfig) *ChunkReader {
	t.Helper()
	r, err := NewChunkReader(src, offset, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestChunkReaderRoundTrip(t *testing.T) {
	noLeak(t)
	const size = 4 << 10
	data := textRows(10*size + 1)
	for _, n := range []int{0, 1, size - 1, size, size + 1, 2 * size, 10*size - 1, 10 * size, 10*size + 1} {
		for level := LevelAdaptive; level < levels; level++ {
			for _, workers := range []int{1, 3} {
				r := newChunkReader(t, bytes.NewReader(data[:n]), 7, ChunkConfig{Level: level, Size: size, Workers: workers})
				got, err := collect(t, r, 7)
				if !errors.Is(err, io.EOF) || !bytes.Equal(got, data[:n]) {
					t.Fatalf("%v, %d workers: %d of %d bytes, %v", level, workers, len(got), n, err)
				}
				stats := r.Stats()
				var chunks int64
				for _, n := range stats.Chunks {
					chunks += n
				}
				if want := int64((n + size - 1) / size); chunks != want || stats.Raw != int64(n) {
					t.Errorf("%d bytes in chunks of %d: %+v", n, size, stats)
				}
				// The last chunk may be too short to gain anything.
				if n > size && level > LevelRaw && (stats.Wire > stats.Raw*3/5 || stats.Chunks[level] < chunks-1) {
					t.Errorf("%v: %+v", level, stats)
				}
				if len(r.slots) > max(workers+2, rawAhead+1) {
					t.Errorf("%d workers, %d slots", workers, len(r.slots))
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestChunkReaderSources(t *testing.T) {
	noLeak(t)
	data := rows(100 << 10)
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		src  io.Reader
		want error
		n    int
	}{
		"one byte":         {iotest.OneByteReader(bytes.NewReader(data[:9000])), io.EOF, 9000},
		"half":             {iotest.HalfReader(bytes.NewReader(data)), io.EOF, len(data)},
		"data with EOF":    {iotest.DataErrReader(bytes.NewReader(data)), io.EOF, len(data)},
		"fails at once":    {iotest.ErrReader(broken), broken, 0},
		"fails half-way":   {io.MultiReader(bytes.NewReader(data[:50001]), iotest.ErrReader(broken)), broken, 50001},
		"fails at a chunk": {io.MultiReader(bytes.NewReader(data[:4<<10]), iotest.ErrReader(broken)), broken, 4 << 10},
		"fails with data":  {iotest.DataErrReader(io.MultiReader(bytes.NewReader(data[:50001]), iotest.ErrReader(broken))), broken, 50001},
		"times out":        {iotest.TimeoutReader(bytes.NewReader(data)), iotest.ErrTimeout, 4 << 10},
		"gives nothing":    {stuck{}, io.ErrNoProgress, 0},
	} {
		r := newChunkReader(t, test.src, 0, ChunkConfig{Size: 4 << 10})
		got, err := collect(t, r, 0)
		if err != test.want || !bytes.Equal(got, data[:test.n]) { //nolint:errorlint // unchanged
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), test.n, err)
		}
		_ = r.Close()
		if _, err := r.Next(context.Background()); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: Next after Close: %v", name, err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestChunkReaderKeepsIncompressible: random bytes go out as they are at every
// level, and what compresses after them is compressed again.
func TestChunkReaderKeepsIncompressible(t *testing.T) {
	const size = 16 << 10
	data := textRows(80 * size)
	random := data[:40*size]
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for level := LevelAdaptive; level < levels; level++ {
		r := newChunkReader(t, bytes.NewReader(data), 0, ChunkConfig{Level: level, Size: size})
		for {
			c, err := r.Next(context.Background())
			if err != nil {
				break
			}
			if c.Offset < int64(len(random)) && c.Coding != CodingRaw {
				t.Fatalf("%v: random bytes at %d as %d bytes", level, c.Offset, len(c.Data))
			}
			r.returned = r.returned.Add(-time.Duration(len(c.Data)) * 10_000) // as if sent at 100 kB/s
			r.Release(c)
		}
		stats := r.Stats()
		if stats.Raw != int64(len(data)) || level != LevelRaw && stats.Chunks[LevelRaw] > 60 {
			t.Errorf("%v: %+v", level, stats)
		}
	}
}

// TestChunkReaderResumes: after a cut anywhere, Reset goes on with the same bytes.
func TestChunkReaderResumes(t *testing.T) {
	noLeak(t)
	const size = 4 << 10
	data := rows(300 << 10)
	rng := rand.New(rand.NewPCG(1, 2))
	for level := LevelAdaptive; level < levels; level++ {
		from := func(offset int) io.Reader {
			return io.NewSectionReader(bytes.NewReader(data), int64(offset), int64(len(data)-offset))
		}
		r := newChunkReader(t, from(0), 0, ChunkConfig{Level: level, Size: size})
		var got []byte
		for range 50 {
			var last *Chunk
			for range rng.IntN(5) {
				c, err := r.Next(context.Background())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if last != nil {
					r.Release(last)
				}
				raw, err := DecodeChunk(*c, nil)
				if err != nil || int(c.Offset) != len(got) {
					t.Fatalf("a chunk at %d, want %d; %v", c.Offset, len(got), err)
				}
				got, last = append(got, raw...), c
			}
			// What the peer has is any of it.
			at := len(got) - rng.IntN(min(len(got), 3*size)+1)
			r.Reset(from(at), int64(at))
			if last != nil { // still whole
				if raw, err := DecodeChunk(*last, nil); err != nil || !bytes.Equal(raw, got[last.Offset:]) {
					t.Fatalf("the chunk held over Reset: %v", err)
				}
				r.Release(last)
			}
			got = got[:at]
		}
		rest, err := collect(t, r, int64(len(got)))
		if !errors.Is(err, io.EOF) || !bytes.Equal(append(got, rest...), data) {
			t.Fatalf("%v: %d bytes and %d, %v", level, len(got), len(rest), err)
		}
		_ = r.Close()
		if r.alive != 0 || len(r.free) != len(r.slots) {
			t.Errorf("%v: %d chunks alive, %d of %d free", level, r.alive, len(r.free), len(r.slots))
		}
	}
}

func TestChunkReaderCanceled(t *testing.T) {
	noLeak(t)
	pr, pw := io.Pipe()
	r := newChunkReader(t, pr, 0, ChunkConfig{Size: 1 << 10})
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := r.Next(ctx); err != why { //nolint:errorlint // unchanged
		t.Fatalf("got %v", err)
	}
	// Nothing is lost by it.
	go func() { _, _ = pw.Write(make([]byte, 1<<10)) }()
	c, err := r.Next(context.Background())
	if err != nil || c.RawSize != 1<<10 {
		t.Fatalf("got %+v, %v", c, err)
	}
	_ = pr.Close() // for Close waits for the Read
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		r.Release(c) // once is enough
	}
	if r.alive != 0 {
		t.Errorf("%d chunks alive", r.alive)
	}
}

// TestChunkReaderCloses in the middle of everything.
func TestChunkReaderCloses(t *testing.T) {
	noLeak(t)
	data := rows(200 << 10)
	for n := range 30 {
		r := newChunkReader(t, bytes.NewReader(data), 0, ChunkConfig{Size: 8 << 10, Hold: 3, Workers: 2})
		var held []*Chunk
		for range n {
			c, err := r.Next(context.Background())
			if err != nil {
				break
			}
			if held = append(held, c); len(held) == 3 {
				r.Release(held[0])
				held = held[1:]
			}
		}
		_ = r.Close()
		if len(r.slots) > 6 || r.alive != len(held) {
			t.Errorf("%d slots, %d alive, %d held", len(r.slots), r.alive, len(held))
		}
	}
}

// TestChunkReaderReadsAhead no further than it has memory for.
func TestChunkReaderReadsAhead(t *testing.T) {
	const size = 1 << 10
	for level := LevelRaw; level < levels; level++ {
		var read atomic.Int64
		src := io.TeeReader(bytes.NewReader(make([]byte, 1<<20)), writerFunc(func(p []byte) (int, error) {
			read.Add(int64(len(p)))
			return len(p), nil
		}))
		r := newChunkReader(t, src, 0, ChunkConfig{Level: level, Size: size, Workers: 4})
		c, err := r.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		want := int64(6 * size)
		if level == LevelRaw {
			want = 3 * size
		}
		for read.Load() < want {
			runtime.Gosched()
		}
		time.Sleep(time.Millisecond) // it would have gone on
		if got := read.Load(); got != want {
			t.Errorf("%v: read %d bytes, want %d", level, got, want)
		}
		r.Release(c)
	}
}

func TestChunkReaderAllocatesNothing(t *testing.T) {
	for level := LevelAdaptive; level < levels; level++ {
		src := &endless{data: textRows(200 << 10)}
		r := newChunkReader(t, src, 0, ChunkConfig{Level: level, Size: 4 << 10})
		ctx := t.Context()
		next := func() {
			c, err := r.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			r.Release(c)
		}
		for range 20 {
			next()
		}
		if got := testing.AllocsPerRun(50, next); got >= 1 {
			t.Errorf("%v: %v allocations a chunk", level, got)
		}
	}
}

// endless repeats data.
type endless struct {
	data []byte
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.at:])
	e.at = (e.at + n) % len(e.data)
	return n, nil
}

func TestChunkConfig(t *testing.T) {
	for _, cfg := range []ChunkConfig{{Level: levels}, {Size: -1}, {Size: MaxChunk + 1}, {Workers: -1}, {Hold: -1}} {
		if _, err := NewChunkReader(nil, 0, cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestParseLevel(t *testing.T) {
	for l := LevelAdaptive; l < levels; l++ {
		if got, err := ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%v: %v, %v", l, got, err)
		}
	}
	const want = `unknown codec "best": choose one of adaptive, raw, fastest, default, better`
	if _, err := ParseLevel("best"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if got := Level(9).String(); got != "Level(9)" {
		t.Error(got)
	}
}

// textRows and csvRows are what the measurements in payloads were made with.
func textRows(n int) []byte {
	words := strings.Fields(`model train predict payload stream result version error sample label value the of and to in is
		that for was on are with as at be this have from or had by not what all were when we there can an your which their said
		if do will each about how up out them then she many some so these would other into has`)
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+200)
	for len(b) < n {
		for range 8 {
			b = append(append(b, words[rng.IntN(len(words))]...), ' ')
		}
		b = append(strconv.AppendUint(b, rng.Uint64N(1<<16), 16), '\n')
	}
	return b[:n]
}

func csvRows(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+200)
	x := 100.0
	for id := 0; len(b) < n; id++ {
		x += rng.NormFloat64()
		b = fmt.Appendf(b, "%d,2026-11-%d,%s,%.3f,%d,%.4f,%t\n", id, 10+id/5000%20,
			[]string{"north", "south", "east", "west", "centre"}[rng.IntN(5)], x, rng.IntN(1000), rng.Float64(), rng.IntN(9) == 0)
	}
	return b[:n]
}

// A shaped writer takes rate bytes/s, and buffer bytes more at once.
type shaped struct {
	rate, buffer float64
	start        time.Time
	drained      time.Duration // since start, when nothing is left
	into         []byte
}

func (s *shaped) Write(p []byte) (int, error) {
	for q := p; len(q) > 0; { // as sockets copy
		q = q[copy(s.into, q):]
	}
	s.drained = max(s.drained, time.Since(s.start)) + time.Duration(float64(len(p))/s.rate*1e9)
	time.Sleep(s.drained - time.Duration(s.buffer/s.rate*1e9) - time.Since(s.start))
	return len(p), nil
}

// BenchmarkLinks sends payloads over links that are slowed down in real time, at
// each fixed level and adaptively, which takes minutes. Run it with the payloads'
// size in MiB:
//
//	AIPOD_BENCH_LINKS=64 go test -run - -bench Links -benchtime 1x ./internal/codec
func BenchmarkLinks(b *testing.B) {
	size, err := strconv.Atoi(os.Getenv("AIPOD_BENCH_LINKS"))
	if err != nil {
		b.Skip("takes minutes: set AIPOD_BENCH_LINKS=64")
	}
	size <<= 20
	random := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for _, payload := range []struct {
		name string
		data []byte
	}{{"text", textRows(size)}, {"csv", csvRows(size)}, {"random", random}} {
		for _, link := range []string{"loopback", "1 Gbit", "200 Mbit", "20 Mbit"} {
			for _, level := range []Level{LevelRaw, LevelFastest, LevelDefault, LevelBetter, LevelAdaptive} {
				b.Run(fmt.Sprintf("%s/%s/%v", payload.name, link, level), func(b *testing.B) {
					b.SetBytes(int64(size))
					for range b.N {
						to := &shaped{rate: links[link], buffer: 1 << 20, start: time.Now(), into: make([]byte, 64<<10)}
						r := newChunkReader(b, bytes.NewReader(payload.data), 0, ChunkConfig{Level: level})
						for {
							c, err := r.Next(context.Background())
							if errors.Is(err, io.EOF) {
								break
							}
							if err != nil {
								b.Fatal(err)
							}
							_, _ = to.Write(c.Data)
							r.Release(c)
						}
						time.Sleep(to.drained - time.Since(to.start))
						stats := r.Stats()
						b.ReportMetric(float64(stats.Wire)/float64(stats.Raw), "ratio")
						b.Logf("chunks %v", stats.Chunks[LevelRaw:])
						_ = r.Close()
					}
				})
			}
		}
	}
}
