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

// The kinds of payload, by how they compress: not at all, about 3 to 1 and to
// nothing.
const (
	Random Kind = "random"
	Text   Kind = "text"
	Zero   Kind = "zero"
)

// Kinds lists all of them.
var Kinds = []Kind{Random, Text, Zero}

// A Payload is a generated payload that is made as it is read, with constant
// memory. The same kind, size and seed give the same bytes, however they are
// read. It is not safe for concurrent use.
type Payload struct {
	kind Kind
	left int64
	rest []byte // of Text: made, not read yet
	buf  []byte // that rest is in
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
	return &Payload{kind: kind, left: size, src: src, rng: rand.New(src)}, nil
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
	case Text:
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

// write makes the next few lines of Text: a record with a running draw of
// words, numbers and punctuation, so that it compresses as logs and CSV do.
func (p *Payload) write() {
	b := p.buf[:0]
	for len(b) < 16<<10 {
		draw := p.rng.Uint64()
		for range 8 {
			b = append(b, words[draw%uint64(len(words))]...)
			draw /= uint64(len(words))
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, draw, 16)
		b = append(b, '\n')
	}
	p.buf, p.rest = b, b
}

// words has 64 entries, so that eight of them use 48 of the 64 bits of a draw.
var words = [...]string{
	"model", "train", "predict", "payload", "stream", "result", "version", "error", "sample", "label", "value",
	"the", "of", "and", "to", "in", "is", "that", "for", "was", "on", "are", "with", "as", "at", "be", "this",
	"have", "from", "or", "had", "by", "not", "what", "all", "were", "when", "we", "there", "can", "an", "your",
	"which", "their", "said", "if", "do", "will", "each", "about", "how", "up", "out", "them", "then", "she",
	"many", "some", "so", "these", "would", "other", "into", "has",
}
