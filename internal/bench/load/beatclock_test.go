package load

import (
	"testing"
	"time"
)

// A beat is a message at a time, in ms, and what it has to be taken for.
type beat struct {
	at, late int64
	skipped  int64
	other    bool
}

func TestBeatClock(t *testing.T) {
	for name, beats := range map[string][]beat{
		"on time":      {{at: 0, late: -1}, {at: 1000}, {at: 2000}, {at: 3000}},
		"late once":    {{at: 0, late: -1}, {at: 1000}, {at: 2300, late: 300}, {at: 3000}},
		"first late":   {{at: 200, late: -1}, {at: 1000}, {at: 2000}, {at: 3050, late: 50}},
		"missed one":   {{at: 0, late: -1}, {at: 1000}, {at: 3000, late: 1000, skipped: 1}, {at: 4000}},
		"held back":    {{at: 0, late: -1}, {at: 2500, late: 1500, skipped: 1}, {at: 2501, late: 1, skipped: -1}, {at: 3000}, {at: 4000}},
		"stood in for": {{at: 0, late: -1}, {at: 1000}, {at: 1990, other: true}, {at: 2990}, {at: 3991, late: 1}},
		"both":         {{at: 0, late: -1}, {at: 500, other: true}, {at: 1000}, {at: 1200, other: true}, {at: 2400, late: 400}},
		"slow forever": {{at: 0, late: -1}, {at: 1500, late: 500}, {at: 3000, late: 1000, skipped: 1}, {at: 4500, late: 500}},
	} {
		t.Run(name, func(t *testing.T) {
			c := beatClock{interval: time.Second}
			begin := time.Now()
			for _, b := range beats {
				at := begin.Add(time.Duration(b.at) * time.Millisecond)
				if b.other {
					c.other(at)
					continue
				}
				late, _, skipped := c.beat(at)
				want := time.Duration(b.late) * time.Millisecond
				if b.late < 0 {
					want = -1
				}
				if late != want || skipped != b.skipped {
					t.Errorf("the beat at %d ms is %v late and skips %d, want %v and %d", b.at, late, skipped, want, b.skipped)
				}
			}
		})
	}
}

func TestBeatClockFollowsDrift(t *testing.T) {
	c := beatClock{interval: time.Second}
	at := time.Now()
	var worst time.Duration
	for n := range 2000 {
		late, _, skipped := c.beat(at)
		if skipped != 0 {
			t.Fatalf("beat %d skips %d", n, skipped)
		}
		worst = max(worst, late)
		at = at.Add(time.Second + 100*time.Microsecond) // 100 ppm, more than clocks have
	}
	if limit := 2 * phaseBeats * 100 * time.Microsecond; worst > limit {
		t.Errorf("drift is taken for a lateness of %v, want at most %v", worst, limit)
	}
}

func TestBeatClockMeasuresSilence(t *testing.T) {
	c := beatClock{interval: time.Second}
	begin := time.Now()
	c.beat(begin)
	if got := c.other(begin.Add(700 * time.Millisecond)); got != 700*time.Millisecond {
		t.Errorf("%v before the other message", got)
	}
	if _, got, _ := c.beat(begin.Add(time.Second)); got != 300*time.Millisecond {
		t.Errorf("%v before the beat", got)
	}
}
