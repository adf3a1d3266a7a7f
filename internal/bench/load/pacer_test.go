package load

import (
	"testing"
	"time"
)

func TestPacer(t *testing.T) {
	for _, test := range []struct {
		pacer Pacer
		n     int64
		want  time.Duration
	}{
		{Pacer{Rate: 10}, 0, 0},
		{Pacer{Rate: 10}, 25, 2500 * time.Millisecond},
		{Pacer{Rate: 0.5}, 3, 6 * time.Second},
		// A ramp of 2 s to 10/s has 10 calls: half of what the rate would have.
		{Pacer{Rate: 10, Ramp: 2 * time.Second}, 0, 0},
		{Pacer{Rate: 10, Ramp: 2 * time.Second}, 10, 2 * time.Second},
		{Pacer{Rate: 10, Ramp: 2 * time.Second}, 20, 3 * time.Second},
	} {
		if got := test.pacer.At(test.n); (got - test.want).Abs() > time.Microsecond {
			t.Errorf("%+v: call %d at %v, want %v", test.pacer, test.n, got, test.want)
		}
	}
}

func TestPacerCountsWhatItSchedules(t *testing.T) {
	for _, p := range []Pacer{{Rate: 7}, {Rate: 1000}, {Rate: 50, Ramp: 3 * time.Second}, {Rate: 0.3, Ramp: time.Minute}} {
		last := time.Duration(-1)
		for n := range int64(500) {
			at := p.At(n)
			if at < last {
				t.Fatalf("%+v: call %d comes at %v, before the one before at %v", p, n, at, last)
			}
			last = at
			if got := p.Count(at + time.Microsecond); got != n+1 {
				t.Errorf("%+v: %d calls until just after call %d, want %d", p, got, n, n+1)
			}
		}
	}
}
