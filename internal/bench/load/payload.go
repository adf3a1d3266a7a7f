package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
)

// seed makes payloads the same on every machine.
const seed = 1

// block is how much of a payload is made: longer ones repeat it. It is beyond
// what any codec looks back.
const block = 4 << 20

// A payload is what all calls send: made once, never written to, and safe for
// concurrent use. It takes two times the block's size of memory.
type payload struct {
	size  int64
	chunk int
	data  []byte   // whole chunks, unless that is all of it; nil for a file
	file  *os.File // or nil
	coded []codec.Chunk
	tail  codec.Chunk // the last chunk, if it is shorter than the others
	crc   uint32      // CRC-32C of all bytes
}

// newPayload makes the payload of a Config that was checked, coded for its
// service.
func newPayload(cfg *Config) (*payload, error) {
	p := &payload{size: cfg.Size, chunk: cfg.Chunk}
	if cfg.Kind == File {
		f, err := os.Open(cfg.File)
		if err != nil {
			return nil, fmt.Errorf("open payload: %w", err)
		}
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("%s is not a regular file", cfg.File), err, f.Close())
		}
		p.file, p.size = f, info.Size()
	} else {
		p.data = make([]byte, min(p.size, int64(max(1, block/p.chunk)*p.chunk)))
		src, err := generator(cfg.Kind, int64(len(p.data)))
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(src, p.data); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("make payload: %w", err)
		}
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.Copy(sum, p.reader()); err != nil {
		return nil, errors.Join(fmt.Errorf("read payload: %w", err), p.close())
	}
	p.crc = sum.Sum32()
	if p.file != nil || cfg.Level == codec.LevelAdaptive {
		return p, nil
	}
	return p, p.code(cfg)
}

// code makes the chunks of a fixed level.
func (p *payload) code(cfg *Config) error {
	encode := chunkOf
	if cfg.Service == AI {
		encode = frameOf
	}
	for off := 0; off+p.chunk <= len(p.data); off += p.chunk {
		c, err := encode(p.data[off:off+p.chunk], cfg.Level)
		if err != nil {
			return err
		}
		p.coded = append(p.coded, c)
	}
	rest := int(p.size % int64(p.chunk))
	if rest == 0 {
		return nil
	}
	start := int((p.size - int64(rest)) % int64(len(p.data)))
	var err error
	p.tail, err = encode(p.data[start:start+rest], cfg.Level)
	return err
}

// chunkOf codes a chunk for JobService.
func chunkOf(data []byte, level codec.Level) (codec.Chunk, error) {
	r, err := codec.NewChunkReader(bytes.NewReader(data), 0, codec.ChunkConfig{Level: level, Size: len(data), Workers: 1})
	if err != nil {
		return codec.Chunk{}, err
	}
	defer func() { _ = r.Close() }() // what it read from is in memory
	c, err := r.Next(context.Background())
	if err != nil {
		return codec.Chunk{}, fmt.Errorf("code payload: %w", err)
	}
	coded := *c
	coded.Data = bytes.Clone(c.Data)
	return coded, nil
}

// frameOf codes a chunk for ai.AI, whose payload is a zstd stream of any number
// of frames.
func frameOf(data []byte, level codec.Level) (codec.Chunk, error) {
	if level == codec.LevelRaw {
		return codec.Chunk{Data: data, RawSize: len(data)}, nil
	}
	speed := map[codec.Level]zstd.EncoderLevel{
		codec.LevelFastest: zstd.SpeedFastest, codec.LevelDefault: zstd.SpeedDefault, codec.LevelBetter: zstd.SpeedBetterCompression,
	}[level]
	var out bytes.Buffer
	enc, err := codec.NewEncoder(&out, speed)
	if err != nil {
		return codec.Chunk{}, err
	}
	if _, err = enc.Write(data); err == nil {
		err = enc.Close()
	}
	return codec.Chunk{Data: out.Bytes(), RawSize: len(data), Coding: codec.CodingZstd}, err
}

// ReadAt is for io.ReaderAt.
func (p *payload) ReadAt(b []byte, off int64) (n int, err error) {
	if p.file != nil {
		return p.file.ReadAt(b, off)
	}
	for n < len(b) && off < p.size {
		from := off % int64(len(p.data))
		k := copy(b[n:], p.data[from:min(int64(len(p.data)), from+p.size-off)])
		n, off = n+k, off+int64(k)
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

func (p *payload) reader() io.Reader { return io.NewSectionReader(p, 0, p.size) }

func (p *payload) close() error {
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// each hands over the chunks in order, each valid until the next. It ends early,
// without an error, when do returns false.
func (p *payload) each(ctx context.Context, cfg *Config, do func(*codec.Chunk) bool) error {
	if p.coded != nil || p.tail.Data != nil {
		for off := int64(0); off < p.size; {
			c := p.tail
			if p.size-off >= int64(p.chunk) {
				c = p.coded[off/int64(p.chunk)%int64(len(p.coded))]
			}
			c.Offset = off
			off += int64(c.RawSize)
			if !do(&c) {
				return nil
			}
		}
		return nil
	}
	if p.size == 0 {
		return nil
	}
	if cfg.Service == AI {
		return p.eachOfFile(cfg, do)
	}
	r, err := codec.NewChunkReader(p.reader(), 0, codec.ChunkConfig{Level: cfg.Level, Size: p.chunk})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read from
	for {
		c, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read payload: %w", err)
		}
		ok := do(c)
		r.Release(c)
		if !ok {
			return nil
		}
	}
}

// eachOfFile codes frames for ai.AI as they are sent.
func (p *payload) eachOfFile(cfg *Config, do func(*codec.Chunk) bool) error {
	buf := make([]byte, p.chunk)
	for r := p.reader(); ; {
		n, err := io.ReadFull(r, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read payload: %w", err)
		}
		c, err := frameOf(buf[:n], cfg.Level)
		if err != nil {
			return err
		}
		if !do(&c) {
			return nil
		}
	}
}

// generator makes bytes of a kind.
func generator(kind bench.Kind, size int64) (io.Reader, error) {
	if kind == JSON {
		return &records{}, nil
	}
	return bench.NewPayload(kind, size, seed)
}

// records are an endless JSON array of objects, which is cut at the payload's
// end.
type records struct {
	row  int64
	rest []byte
	buf  []byte
}

func (r *records) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if len(r.rest) == 0 {
			r.rest = r.next()
		}
		k := copy(b[n:], r.rest)
		r.rest = r.rest[k:]
		n += k
	}
	return n, nil
}

// next makes a record, from a multiplicative hash of its number.
func (r *records) next() []byte {
	b := r.buf[:0]
	if r.row == 0 {
		b = append(b, '[')
	} else {
		b = append(b, ",\n"...)
	}
	x := uint64(r.row) * 0x9e3779b97f4a7c15 // the golden ratio: Knuth, TAOCP 6.4
	b = append(b, `{"id":`...)
	b = strconv.AppendInt(b, r.row, 10)
	b = append(b, `,"user":"user-`...)
	b = strconv.AppendUint(b, x>>50, 10)
	b = append(b, `","score":`...)
	b = strconv.AppendFloat(b, float64(x>>40&0xffff)/100, 'f', 2, 64)
	b = append(b, `,"tags":["`...)
	b = strconv.AppendUint(b, x>>32&7, 10)
	b = append(b, `","new"],"ok":`...)
	b = strconv.AppendBool(b, x>>63 == 0)
	b = append(b, '}')
	r.row++
	r.buf = b
	return b
}
