package codec

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A coding is what a level makes of a payload on one of two workers that are both
// at work, as measured on 32 MiB in chunks of DefaultChunk, on the two cores of a
// virtual EPYC: payload bytes/s and the ratio.
type coding struct{ speed, ratio float64 }

var payloads = map[string][levels]coding{
	// Eight of 64 words and a hexadecimal number a line.
	"text": {LevelRaw: {3e9, 1}, LevelFastest: {165e6, 0.365}, LevelDefault: {94e6, 0.338}, LevelBetter: {46e6, 0.326}},
	// Seven columns: a counter, a date, words, measurements.
	"csv":    {LevelRaw: {3e9, 1}, LevelFastest: {165e6, 0.282}, LevelDefault: {120e6, 0.283}, LevelBetter: {48e6, 0.265}},
	"random": {LevelRaw: {3e9, 1}, LevelFastest: {1.2e9, 1}, LevelDefault: {0.95e9, 1}, LevelBetter: {0.6e9, 1}},
}

// links in bytes/s. The last is what a sender can push through loopback.
var links = map[string]float64{"20 Mbit": 2.5e6, "200 Mbit": 25e6, "1 Gbit": 125e6, "loopback": 625e6}

// A simulation is a ChunkReader and a sender on a link, without time passing.
type simulation struct {
	size    int64 // of the payload
	workers int
	payload func(offset int64) [levels]coding
	link    func(now float64) float64 // bytes/s
	buffer  float64                   // bytes that the sockets take before the sender has to wait
	copying float64                   // bytes/s that they take at most
}

// run returns how many seconds it takes until all has arrived, and how many
// chunks were sent at each level. A policy of nil is a fixed level.
func (s simulation) run(policy *Policy, fixed Level) (took float64, sent [levels]int) {
	type sending struct {
		sample Sample
		end    float64
	}
	var (
		chunks  []sending
		seen    int                          // by the policy
		workers = make([]float64, s.workers) // when they are free
		drained float64                      // when the link has nothing left
		alive   = &ChunkReader{cfg: ChunkConfig{Hold: 1, Workers: s.workers}}
		seconds = func(f float64) time.Duration { return time.Duration(f * 1e9) }
	)
	for offset := int64(0); offset < s.size; {
		i := len(chunks)
		var now float64 // when there may be one more chunk
		observe := func(ahead int) {
			if i >= ahead {
				now = max(now, chunks[i-ahead].end)
			}
			for policy != nil && seen < i && chunks[seen].end <= now {
				policy.Observe(chunks[seen].sample)
				seen++
			}
		}
		observe(alive.maxAlive(LevelBetter))
		level := fixed
		if policy != nil {
			level = policy.Next()
		}
		observe(alive.maxAlive(level))
		size := min(DefaultChunk, s.size-offset)
		if policy != nil {
			size = min(size, int64(policy.ChunkSize()))
		}
		raw := float64(size)
		codings := s.payload(offset)
		offset += size

		worker := 0
		for w, free := range workers {
			if free < workers[worker] {
				worker = w
			}
		}
		code := raw / codings[level].speed
		coded := max(now, workers[worker]) + code
		workers[worker] = coded
		wire := raw
		if ratio := codings[level].ratio; ratio <= worthwhile {
			wire *= ratio
		}

		var before float64
		if i > 0 {
			before = chunks[i-1].end
		}
		start := max(before, coded)
		rate := s.link(start)
		drained = max(drained, start) + wire/rate
		end := max(start+wire/s.copying, drained-s.buffer/rate)
		chunks = append(chunks, sending{Sample{
			Level: level, Raw: int(raw), Wire: int(wire),
			Code: seconds(code), Wait: seconds(start - before), Send: seconds(end - start),
		}, end})
		sent[level]++
	}
	return max(drained, chunks[len(chunks)-1].end), sent
}

func constant[K, V any](v V) func(K) V { return func(K) V { return v } }

// best is the shortest time of the fixed levels.
func (s simulation) best() (took float64, level Level) {
	for l := LevelRaw; l < levels; l++ {
		if t, _ := s.run(nil, l); took == 0 || t < took {
			took, level = t, l
		}
	}
	return took, level
}

// check runs s and compares it with the best fixed level.
func (s simulation) check(t *testing.T, name string) {
	t.Helper()
	fixed, level := s.best()
	took, sent := s.run(NewPolicy(s.workers), LevelAdaptive)
	name = fmt.Sprintf("%s, %d workers, buffers of %4.0f KiB: %7.2f s, %.3f of %v; sent %v",
		name, s.workers, s.buffer/1024, took, took/fixed, level, sent[LevelRaw:])
	if took > 1.10*fixed {
		t.Error(name)
	} else {
		t.Log(name)
	}
}

// TestPolicyOnLinks: no fixed level is much better on any link for any payload,
// whatever the number of workers and the buffers on the way.
func TestPolicyOnLinks(t *testing.T) {
	for payload, codings := range payloads {
		for link, rate := range links {
			for _, workers := range []int{1, 2, 8} {
				for _, buffer := range []float64{0, 256 << 10, 4 << 20} {
					simulation{
						size: 256 << 20, workers: workers, payload: constant[int64](codings),
						link: constant[float64](rate), buffer: buffer, copying: 2e9,
					}.check(t, fmt.Sprintf("%-6s on %-8s", payload, link))
				}
			}
		}
	}
}

// TestPolicyFollowsLinks that change on the way.
func TestPolicyFollowsLinks(t *testing.T) {
	step := func(at, before, after float64) func(float64) float64 {
		return func(now float64) float64 {
			if now < at {
				return before
			}
			return after
		}
	}
	for name, link := range map[string]func(now float64) float64{
		"slow start":    func(now float64) float64 { return min(1e6+50e6*now*now, 125e6) },
		"to and fro":    func(now float64) float64 { return []float64{5e6, 50e6}[int(now)%2] },
		"gets faster":   step(5, 2.5e6, 125e6),
		"gets slower":   step(0.3, 125e6, 2.5e6),
		"to loopback":   step(1, 25e6, 625e6),
		"from loopback": step(0.1, 625e6, 25e6),
	} {
		for payload, codings := range payloads {
			for _, workers := range []int{1, 2, 8} {
				if name == "to and fro" && workers == 1 {
					continue // takes longer to find a new level than the link keeps it
				}
				simulation{
					size: 256 << 20, workers: workers, payload: constant[int64](codings),
					link: link, buffer: 256 << 10, copying: 2e9,
				}.check(t, fmt.Sprintf("%-6s %-13s", payload, name))
			}
		}
	}
}

// TestPolicyFollowsPayloads that change on the way, and a machine that is busy
// with something else at first. On loopback there is no time to find out when
// that is over.
func TestPolicyFollowsPayloads(t *testing.T) {
	for _, payload := range []string{"text", "csv"} {
		busy := func(offset int64) [levels]coding {
			codings := payloads[payload]
			for l := range codings {
				if offset < 40<<20 {
					codings[l].speed /= 4
				}
			}
			return codings
		}
		for _, link := range []string{"20 Mbit", "200 Mbit", "1 Gbit"} {
			for _, workers := range []int{1, 2, 8} {
				simulation{
					size: 256 << 20, workers: workers, payload: busy,
					link: constant[float64](links[link]), buffer: 256 << 10, copying: 2e9,
				}.check(t, fmt.Sprintf("%-6s busy at first, on %-8s", payload, link))
			}
		}
	}
	for link, rate := range links {
		for _, each := range []int64{1 << 20, 5 << 20, 40 << 20} {
			mixed := func(offset int64) [levels]coding {
				return payloads[[]string{"random", "text", "csv"}[offset/each%3]]
			}
			simulation{
				size: 256 << 20, workers: 2, payload: mixed,
				link: constant[float64](rate), buffer: 256 << 10, copying: 2e9,
			}.check(t, fmt.Sprintf("mixed each %2d MiB on %-8s", each>>20, link))
		}
	}
}

// TestPolicyGivesUpOnRandom: few trials on a link on which they cost something,
// further and further apart, and compression again as soon as one succeeds.
func TestPolicyGivesUpOnRandom(t *testing.T) {
	p := NewPolicy(2)
	sample := func(l Level, ratio float64) Sample {
		return Sample{Level: l, Raw: 1 << 20, Wire: int(ratio * (1 << 20)), Code: 8 * time.Millisecond, Send: 10 * time.Millisecond}
	}
	var trials []int
	for i := range 100 {
		l := p.Next()
		if l != LevelRaw {
			trials = append(trials, i)
		}
		p.Observe(sample(l, 1))
	}
	if diff := cmp.Diff([]int{0, 2, 3, 5, 8, 13, 22, 39, 56, 73, 90}, trials); diff != "" {
		t.Error(diff)
	}
	for range 2 * maxSkip {
		l, ratio := p.Next(), 0.5
		if l == LevelRaw {
			ratio = 1
		}
		p.Observe(sample(l, ratio))
	}
	if l := p.Next(); l == LevelRaw {
		t.Error("raw, although the payload compresses again")
	}
}

// TestPolicyTriesForFree: each chunk where the link is so slow that trials don't
// matter.
func TestPolicyTriesForFree(t *testing.T) {
	p := NewPolicy(2)
	for i := range 20 {
		l := p.Next()
		if l == LevelRaw {
			t.Fatalf("chunk %d was not tried", i)
		}
		p.Observe(Sample{Level: l, Raw: 1 << 20, Wire: 1 << 20, Code: time.Millisecond, Send: 400 * time.Millisecond})
	}
}

// TestPolicyTakesAnySample: zeros and nonsense lead to a level all the same.
func TestPolicyTakesAnySample(t *testing.T) {
	times := []time.Duration{-time.Second, 0, 1, time.Hour}
	sizes := []int{-1, 0, 1, 1 << 20}
	p := NewPolicy(0)
	for level := Level(0); level <= levels; level++ {
		for i := range len(times) * len(times) * len(times) * len(sizes) * len(sizes) {
			at := func(n int) int { k := i % n; i /= n; return k }
			p.Observe(Sample{Level: level, Raw: sizes[at(4)], Wire: sizes[at(4)], Code: times[at(4)], Wait: times[at(4)], Send: times[at(4)]})
			if l := p.Next(); l == LevelAdaptive || l >= levels {
				t.Fatalf("%v", l)
			}
			for _, c := range p.coders {
				if !(p.link >= 0) || !(c.speed >= 0) || !(c.ratio >= 0) { // NaN is not
					t.Fatalf("link %v, level %+v", p.link, c)
				}
			}
		}
	}
}
