package load

import "time"

// phaseBeats is after how many heartbeats a clock looks anew for when they are
// due: clocks of two machines drift apart.
const phaseBeats = 60

// A beatClock tells how late heartbeats are against an absolute schedule: one
// each interval, from some moment on. That moment isn't known; it is taken from
// those that came earliest, so what delays all of them alike can't be seen.
type beatClock struct {
	interval time.Duration

	first, last time.Time
	next        int64         // number of the heartbeat that is due next
	phase       time.Duration // the earliest of this round, against first
	before      time.Duration // and of the round before
	beats       int           // of this round
	others      bool          // other messages came since the last heartbeat
}

// other takes in a message that isn't a heartbeat, but makes one needless. It
// returns how long nothing had come, -1 for the first.
func (c *beatClock) other(at time.Time) (silent time.Duration) {
	c.others = true
	silent = -1
	if !c.last.IsZero() {
		silent = at.Sub(c.last)
	}
	c.last = at
	return silent
}

// beat takes in a heartbeat. late is how long it was due, and silent how long
// nothing had come before; both are -1 for the first. skipped is how many were
// due besides it; it is negative for those that come after all. A heartbeat that
// another message stood in for isn't due.
func (c *beatClock) beat(at time.Time) (late, silent time.Duration, skipped int64) {
	excused := c.others
	silent = c.other(at)
	c.others = false
	if c.first.IsZero() {
		c.first, c.next = at, 1
		return -1, silent, 0
	}
	x := at.Sub(c.first) - time.Duration(c.next)*c.interval
	due := min(c.phase, c.before)
	for x < due-c.interval/2 { // one that was given up
		c.next--
		skipped--
		x += c.interval
	}
	c.next++
	for excused && x >= due+c.interval/2 { // those that were not needed
		c.next++
		x -= c.interval
	}
	late = max(x-due, 0)
	if late >= c.interval {
		n := int64(late / c.interval)
		c.next += n
		x -= time.Duration(n) * c.interval
		// What was silent for so long may beat at another moment now.
		c.phase, c.before, c.beats = x, x, 0
		return late, silent, skipped + n
	}
	if c.beats++; c.beats >= phaseBeats {
		c.before, c.phase, c.beats = c.phase, x, 0
	}
	c.phase = min(c.phase, x)
	return late, silent, skipped
}
