// Package load makes load: many calls of a pod at once, as fast as they go or at
// a rate, and hands what happens to a measure.Recorder.
//
// It prints nothing. Whatever Run starts has ended when it returns.
package load

import (
	"math"
	"time"
)

// A Pacer is an absolute schedule: calls start when it says, however long those
// before took. It is a pure function and safe for concurrent use.
type Pacer struct {
	// Rate is in calls per second, above 0.
	Rate float64
	// Ramp is how long the rate takes to grow from 0, linearly; 0 is not at all.
	Ramp time.Duration
}

// inRamp is how many calls there are until the rate is reached.
func (p Pacer) inRamp() float64 { return p.Rate * p.Ramp.Seconds() / 2 }

// At is when the call n, from 0 on, starts, since the begin of the schedule.
func (p Pacer) At(n int64) time.Duration {
	k := float64(n)
	if before := p.inRamp(); k < before {
		// The integral of Rate*t/Ramp is n.
		return seconds(math.Sqrt(2 * k * p.Ramp.Seconds() / p.Rate))
	}
	return p.Ramp + seconds((k-p.inRamp())/p.Rate)
}

// Count is how many calls start before a time.
func (p Pacer) Count(t time.Duration) int64 {
	if t <= 0 {
		return 0
	}
	s := t.Seconds()
	if t < p.Ramp {
		return int64(math.Ceil(p.Rate * s * s / (2 * p.Ramp.Seconds())))
	}
	return int64(math.Ceil(p.inRamp() + p.Rate*(s-p.Ramp.Seconds())))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
