// Package bench makes load and measures what becomes of it.
//
// It is for the project's own benchmarks, tests and demo; the pod does not use
// it.
package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
)

// A Kind is what a generated payload consists of.
type Kind string

// The kinds of payload, by how they compress: not at all, about 3 to 1 (lines of
// words), about 4 to 1 (a table of measurements) and to nothing.
const (
	Random Kind = "random"
	Text   Kind = "text"
	CSV    Kind = "csv"
	Zero   Kind = "zero"
)

// Kinds lists all of them.
var Kinds = []Kind{Random, Text, CSV, Zero}

// A Payload is a generated payload that is made as it is read, with constant
// memory. The same kind, size and seed give the same bytes, however they are
// read. It is not safe for concurrent use.
type Payload struct {
	kind Kind
	left int64
	rest []byte // of Text and CSV: made, not read yet
	buf  []byte // that rest is in
	row  int64  // of CSV: how many were made
	walk int64  // of CSV: the last row's measurement, in thousandths
	src  *rand.ChaCha8
	rng  *rand.Rand
}

// NewPayload makes a payload of size bytes.
func NewPayload(kind Kind, size int64, seed uint64) (*Payload, error) {
	if !slices.Contains(Kinds, kind) {
		return nil, fmt.Errorf("unknown kind of payload %q: choose one of %v", kind, Kinds)
	}
	if size < 0 {
		return nil, fmt.Errorf("a payload can't have %d bytes", size)
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	src := rand.NewChaCha8(key)
	return &Payload{kind: kind, left: size, walk: 100_000, src: src, rng: rand.New(src)}, nil
}

// Read is for io.Reader. It fills p unless the payload ends.
func (p *Payload) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	switch p.kind {
	case Random:
		_, _ = p.src.Read(b) // fills b and never fails
	case Zero:
		clear(b)
	case Text, CSV:
		for filled := 0; filled < len(b); {
			if len(p.rest) == 0 {
				p.write()
			}
			n := copy(b[filled:], p.rest)
			p.rest = p.rest[n:]
			filled += n
		}
	}
	p.left -= int64(len(b))
	return len(b), nil
}

// write makes the next few lines.
func (p *Payload) write() {
	b := p.buf[:0]
	for len(b) < 16<<10 {
		if p.kind == CSV {
			b = p.appendRow(b)
		} else {
			b = p.appendLine(b)
		}
	}
	p.buf, p.rest = b, b
}

// appendLine makes a line of Text: a record with a running draw of words, numbers
// and punctuation, so that it compresses as logs do.
func (p *Payload) appendLine(b []byte) []byte {
	draw := p.rng.Uint64()
	for range 8 {
		b = append(b, words[draw%uint64(len(words))]...)
		draw /= uint64(len(words))
		b = append(b, ' ')
	}
	b = strconv.AppendUint(b, draw, 16)
	return append(b, '\n')
}

// appendRow makes a row of CSV, without a header: a number that counts, a date
// that seldom changes, a name of five, a random walk, a count, a share and a flag.
// There are no floats in it, whose last bits may differ between machines.
func (p *Payload) appendRow(b []byte) []byte {
	step := int64(-4000) // four draws are nearly normal: mean 0, deviation 1.155
	for range 4 {
		step += p.rng.Int64N(2001)
	}
	p.walk += step
	b = strconv.AppendInt(b, p.row, 10)
	b = append(b, ",2026-11-"...)
	b = strconv.AppendInt(b, 10+p.row/5000%20, 10)
	b = append(b, ',')
	b = append(b, regions[p.rng.IntN(len(regions))]...)
	b = append(b, ',')
	b = appendFixed(b, p.walk, 3)
	b = append(b, ',')
	b = strconv.AppendInt(b, p.rng.Int64N(1000), 10)
	b = append(b, ',')
	b = appendFixed(b, p.rng.Int64N(10_000), 4)
	b = append(b, ',')
	b = strconv.AppendBool(b, p.rng.IntN(9) == 0)
	p.row++
	return append(b, '\n')
}

// appendFixed appends n with that many of its digits behind the point.
func appendFixed(b []byte, n int64, digits int) []byte {
	if n < 0 {
		b = append(b, '-')
		n = -n
	}
	unit := int64(1)
	for range digits {
		unit *= 10
	}
	b = strconv.AppendInt(b, n/unit, 10)
	b = append(b, '.')
	for n %= unit; digits > 0; digits-- {
		unit /= 10
		b = append(b, byte('0'+n/unit))
		n %= unit
	}
	return b
}

var regions = [...]string{"north", "south", "east", "west", "centre"}

// words has 64 entries, so that eight of them use 48 of the 64 bits of a draw.
var words = [...]string{
	"model", "train", "predict", "payload", "stream", "result", "version", "error", "sample", "label", "value",
	"the", "of", "and", "to", "in", "is", "that", "for", "was", "on", "are", "with", "as", "at", "be", "this",
	"have", "from", "or", "had", "by", "not", "what", "all", "were", "when", "we", "there", "can", "an", "your",
	"which", "their", "said", "if", "do", "will", "each", "about", "how", "up", "out", "them", "then", "she",
	"many", "some", "so", "these", "would", "other", "into", "has",
}
