package client

import (
	"testing"

	"github.com/aipod/aipod/internal/codec"
)

func TestWindow(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	for _, c := range []struct {
		name    string
		streams []int64 // what each carried before its cut
		carried int64   // on the present one
		limit   int64
		chunk   int
	}{
		{name: "at first", limit: 2 * mib, chunk: codec.DefaultChunk},
		{name: "then", carried: mib, limit: 3 * mib, chunk: codec.DefaultChunk},
		{name: "a long stream", carried: 1 << 40, limit: 8 * mib, chunk: codec.DefaultChunk},
		{name: "nothing", streams: []int64{0}, limit: 512 * kib, chunk: 256 * kib},
		{name: "nothing, twice", streams: []int64{0, 0}, limit: 128 * kib, chunk: 64 * kib},
		{name: "nothing, then something", streams: []int64{0}, carried: mib, limit: mib + 512*kib, chunk: 512 * kib},
		{name: "never anything", streams: make([]int64, 100), limit: 4 * kib, chunk: 4 * kib},
		{name: "a mebibyte", streams: []int64{mib}, limit: mib / 20, chunk: 16 * kib},
		{name: "then more", streams: []int64{mib, 3 * mib}, limit: 2 * mib / 20, chunk: 32 * kib},
		{name: "then nothing", streams: []int64{mib, 0}, limit: mib / 80, chunk: 4 * kib},
		{name: "a bit", streams: []int64{1}, limit: 4 * kib, chunk: 4 * kib},
		{name: "a mebibyte, then much", streams: []int64{mib}, carried: 100 * mib, limit: 5 * mib, chunk: codec.DefaultChunk},
		{name: "a bit, then much", streams: []int64{1}, carried: 10 * mib, limit: mib / 2, chunk: 256 * kib},
		{name: "very much", streams: []int64{1 << 40}, limit: 8 * mib, chunk: codec.DefaultChunk},
		{name: "very much, then little", streams: []int64{1 << 40, 0}, limit: 2 * mib, chunk: codec.DefaultChunk},
	} {
		w := newWindow()
		for _, n := range c.streams {
			w.ended(n)
		}
		if got := w.limit(c.carried); got != c.limit {
			t.Errorf("%s: the limit is %d, want %d", c.name, got, c.limit)
		}
		if got := chunkSize(w.limit(c.carried)); got != c.chunk {
			t.Errorf("%s: chunks have %d bytes, want %d", c.name, got, c.chunk)
		}
	}
}

// Whatever the cuts are, what they cost is bounded.
func TestWindowWaste(t *testing.T) {
	for _, every := range []int64{200 << 10, 1 << 20, 1300 << 10, 5 << 20} {
		w := newWindow()
		var stored, sent int64
		for stored < 256<<20 {
			chunk := int64(chunkSize(w.limit(0)))
			var carried int64
			for carried+chunk+w.limit(carried) <= every {
				carried += chunk
			}
			sent += carried + w.limit(carried) // all that is on the way is lost
			stored += carried
			w.ended(carried)
		}
		if share := float64(sent) / float64(stored); share > 1.1 {
			t.Errorf("cut each %d bytes: %.3f bytes are sent for each that is stored", every, share)
		}
	}
}
