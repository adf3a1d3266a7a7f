package codec

import "time"

const (
	// worthwhile is the largest part of its size that a chunk may have after
	// compression to be sent so. Below a gain of 3 % the receiver's work isn't
	// worth it.
	worthwhile = 0.97
	// maxSkip is how many chunks at most are sent raw between two trials whether
	// the payload compresses again. A trial that takes less than the part freeTrial
	// of the time that the link needs for the chunk isn't worth skipping.
	maxSkip, freeTrial = 16, 0.15
	// trial is for how long a payload is compressed before anything is concluded
	// from how the link takes it: at first, there are buffers.
	trial = 10 * time.Millisecond
	// atWork is the part of that time that the workers must have coded for raw
	// chunks to be tried. If they hardly had to, coding is not the bottleneck.
	atWork = 0.25
	// settle is by how much a level has to promise more than the current one to
	// be taken instead, lest noise switch to and fro.
	settle = 1.03
	// forget is what a chunk leaves of the weight of earlier ones in the link's
	// measurements; coderForget is the same for a level's speed and ratio.
	forget, coderForget = 0.875, 0.75
	// waiting is the part of its time that the sender must have waited for chunks
	// to say that coding, not the link, is the bottleneck; busy is the part of
	// theirs that the workers must have coded, lest the payload's source is.
	waiting, busy = 0.25, 0.5
	// saturation is the part of their time that the workers must have coded to say
	// that they never rest.
	saturation = 0.82
	// maxRenew is by how much the link is thought to be faster for each MiB that
	// wasn't enough to fill it, so that lighter levels get their chance again when
	// it has become so. Each time that this proves wrong it is halved, down to
	// minRenew; when it proves right it starts over.
	maxRenew, minRenew = 0.12, 0.002
	// maxEase is by how much harder levels are thought to be faster, compared with
	// what was measured, for each second that the link was the bottleneck: the
	// machine may have been busy then. minEase and the rest are as with maxRenew.
	maxEase, minEase = 1.2, 0.05
	// surprise is by how much a rate differs from what was thought to prove it
	// wrong.
	surprise = 1.05
)

// A Sample is what became of a chunk.
type Sample struct {
	Level Level         // that Policy.Next asked for
	Raw   int           // bytes of the payload
	Wire  int           // bytes sent; equal to Raw if compression wasn't worthwhile
	Code  time.Duration // that coding took, on one worker
	Wait  time.Duration // that the sender waited for it, after the chunk before
	Send  time.Duration // that the sender had it
}

// A Policy chooses the level for each chunk of a payload so that the whole of it
// arrives soonest.
//
// It predicts how many bytes of payload each level would move in a second: what
// the workers code, or what the link takes divided by the ratio, whichever is
// less. The link's rate is known when the sender is never without chunks; as long
// as it has to wait for them, all that is known are bounds. Levels not used yet
// are expected to relate to others as they mostly do.
//
// A Policy has no clock: what it says depends on the samples alone. It is not
// safe for concurrent use.
type Policy struct {
	workers float64
	coders  [levels]coder
	current Level
	probing bool // the link's rate is a guess, until a chunk is sent raw

	total float64 // seconds, of all samples
	link  float64 // bytes/s on the wire; 0 when not known yet
	renew float64 // what part of link is added for each MiB that didn't fill it
	grown bool    // that was done since the link was last filled
	ease  float64 // what part of its speed is added to a harder level a second

	// Sums over the latest samples, weighted by forget.
	wire, send, wait, code float64 // bytes, then seconds

	dense   bool // the payload doesn't compress at present
	skip    int  // chunks to be sent raw before the next trial
	backoff int  // skip after the next trial
}

// A coder is what is known of a level.
type coder struct {
	speed float64 // payload bytes/s of one worker
	ratio float64 // of wire to payload
	used  bool    // speed and ratio are measured, not guessed
	eased bool    // speed is more than what was measured
}

// NewPolicy makes a Policy for that many chunks being coded at a time.
func NewPolicy(workers int) *Policy {
	return &Policy{
		workers: float64(max(workers, 1)),
		current: LevelFastest,
		backoff: 1,
		renew:   maxRenew,
		ease:    maxEase,
		// Of the levels relative to each other only; a bit in favour of the harder
		// ones, which are then tried where they might pay.
		coders: [levels]coder{
			LevelRaw:     {speed: 4e9, ratio: 1},
			LevelFastest: {speed: 150e6, ratio: 0.4},
			LevelDefault: {speed: 100e6, ratio: 0.37},
			LevelBetter:  {speed: 50e6, ratio: 0.35},
		},
	}
}

// ChunkSize is how many bytes of payload the next chunk should have at most.
func (p *Policy) ChunkSize() int {
	switch {
	case p.link == 0:
		return trialChunk
	case p.probing:
		return probeChunk
	}
	return MaxChunk
}

// Next returns the level for the next chunk, never LevelAdaptive.
func (p *Policy) Next() Level {
	p.choose()
	switch {
	case p.current == LevelRaw || !p.dense:
		return p.current
	case p.skip > 0:
		p.skip--
		return LevelRaw
	}
	p.skip, p.backoff = p.backoff, min(max(2*p.backoff, 1), maxSkip)
	return LevelFastest
}

func (p *Policy) choose() {
	if p.link == 0 {
		return
	}
	best := p.current
	for l := LevelRaw; l < levels; l++ {
		if p.speed(l) > p.speed(best) {
			best = l
		}
	}
	if p.speed(best) > settle*p.speed(p.current) {
		p.current = best
	}
}

// speed predicts how many bytes of payload a second l would move.
func (p *Policy) speed(l Level) float64 {
	c := &p.coders[l]
	return min(p.workers*c.speed, p.link/c.ratio)
}

// Observe takes note of a chunk that was sent.
func (p *Policy) Observe(s Sample) {
	if s.Raw <= 0 || s.Wire <= 0 || s.Level == LevelAdaptive || s.Level >= levels {
		return
	}
	s.Code, s.Wait, s.Send = max(s.Code, 0), max(s.Wait, 0), max(s.Send, 0)
	p.total += (s.Wait + s.Send).Seconds()
	p.observeCoder(s)
	p.observeLink(s)
}

func (p *Policy) observeCoder(s Sample) {
	if s.Level != LevelRaw {
		dense := s.Wire >= s.Raw
		if dense != p.dense {
			p.dense, p.skip, p.backoff = dense, 1, 1
		}
		if dense {
			if s.Code.Seconds() < freeTrial*float64(s.Raw)/p.link { // +Inf when not known
				p.skip, p.backoff = 0, 0
			}
			return // says nothing of what does compress
		}
	}
	c := &p.coders[s.Level]
	was := *c
	speed := float64(s.Raw) / max(s.Code.Seconds(), 1e-6)
	c.ratio = float64(s.Wire) / float64(s.Raw)
	c.speed = speed
	switch {
	case was.eased:
		if was.speed > surprise*speed {
			p.ease = max(p.ease/2, minEase)
		} else {
			p.ease = maxEase
		}
	case was.used:
		// The mean of the times, not of the speeds.
		c.speed = 1 / (coderForget/was.speed + (1-coderForget)/speed)
		c.ratio = coderForget*was.ratio + (1-coderForget)*c.ratio
	}
	c.used, c.eased = true, false
	if s.Level == LevelRaw {
		return
	}
	// What changes with the payload or the load of the machine changes for all.
	for l := LevelFastest; l < levels; l++ {
		other := &p.coders[l]
		if other == c || other.used && !was.used {
			continue
		}
		other.speed *= c.speed / was.speed
		other.ratio = min(other.ratio*c.ratio/was.ratio, 1)
	}
}

func (p *Policy) observeLink(s Sample) {
	if p.probing {
		if s.Level != LevelRaw {
			return // coded before; it says little of what the link takes
		}
		p.wire, p.send, p.wait, p.code = 0, 0, 0, 0
		p.probing = false
	}
	p.wire = forget*p.wire + float64(s.Wire)
	p.send = forget*p.send + s.Send.Seconds()
	p.wait = forget*p.wait + s.Wait.Seconds()
	p.code = forget*p.code + s.Code.Seconds()
	took := p.send + p.wait
	if took <= 0 {
		return
	}
	// The link took wire bytes in took seconds, and would have taken no more than
	// that in the send seconds, but for its buffers, which fill and drain.
	least, most := p.wire/took, p.wire/max(p.send, 1e-9)
	starved := p.wait > waiting*took
	// If the workers never rest, they may take the processors away from the sender,
	// or from a receiver on the same machine: a link looks slow that isn't.
	saturated := p.code > saturation*p.workers*took
	switch {
	case p.link == 0:
		if p.total < trial.Seconds() {
			return
		}
		p.link = most
		if p.code > atWork*p.workers*took {
			p.link = max(most, 2*settle*p.workers*p.coders[p.current].speed) // nothing tells better than sending raw
			p.probing = true
		}
		return
	case least > p.link:
		if least > surprise*p.link {
			p.renew = maxRenew
		}
		p.link = least
	case most < p.link && !saturated:
		if p.grown && p.link > surprise*most {
			p.renew = max(p.renew/2, minRenew)
		}
		p.link = most
	}
	if !starved && !saturated {
		faster := 1 + min(p.ease*(s.Wait+s.Send).Seconds(), 0.25)
		for l := max(p.current+1, LevelFastest); l < levels; l++ {
			if c := &p.coders[l]; c.used {
				c.speed *= faster
				c.eased = true
			}
		}
	}
	if p.grown = saturated || starved && (p.grown || p.code > busy*p.workers*took); p.grown {
		p.link *= 1 + p.renew*float64(s.Raw)/(1<<20)
	}
}
