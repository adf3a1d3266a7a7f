package main

import "fmt"

const (
	// manyRounds is the least rate, in Mbit/s, of links on which a call is short
	// enough to be repeated.
	manyRounds = 200
	// unshapedRounds is how many times more rounds there are without a shape.
	unshapedRounds = 7
	// maxMbit is more than veth pairs do.
	maxMbit = 100_000
)

// A shape is how a link is slowed down.
type shape struct {
	mbit  int // Mbit/s; 0 is not at all
	burst int // bytes that may pass at once
	queue int // bytes that may wait; more are dropped
}

// shapeOf is a link as those of that rate are: a bucket of 4 ms, which the
// kernel's timers refill in time even if the processor is busy, and a queue of
// 50 ms, but not more than switches have.
func shapeOf(mbit int) shape {
	rate := mbit * 1_000_000 / 8
	return shape{
		mbit:  mbit,
		burst: max(rate/250, 32<<10),
		queue: min(max(rate/20, 64<<10), 1<<20),
	}
}

func (s shape) String() string {
	switch {
	case s.mbit == 0:
		return "unshaped"
	case s.mbit%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", s.mbit/1000)
	default:
		return fmt.Sprintf("%d Mbit/s", s.mbit)
	}
}

// rounds is how often levels are measured if asked for that many: fewer times on
// slow links, where a call takes long and is as long each time, and more on one
// that isn't shaped, where it takes a third of a second and others who use the
// machine are felt.
func (s shape) rounds(asked int) int {
	switch {
	case s.mbit == 0:
		return asked * unshapedRounds
	case s.mbit < manyRounds:
		return 1
	default:
		return asked
	}
}
