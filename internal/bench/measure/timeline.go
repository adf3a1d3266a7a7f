package measure

import "time"

// A Point is a stretch of a run.
type Point struct {
	At       float64 `json:"t"`    // its end, in seconds since the run's begin
	Seconds  float64 `json:"s"`    // how long it is
	Calls    int64   `json:"n"`    // that succeeded
	Errors   int64   `json:"err"`  // calls that failed
	Sent     int64   `json:"up"`   // bytes of payload
	Received int64   `json:"down"` // bytes of output
	P50      int64   `json:"p50"`  // latency, in µs
	P99      int64   `json:"p99"`  // latency, in µs
	InFlight int64   `json:"open"` // calls at its end
}

// maxPoints bounds a timeline: when there would be more, each two become one.
const maxPoints = 600

// A timeline is what happened when, with less detail the longer it lasts.
type timeline struct {
	points []Point
	width  int // samples in a point
	part   int // samples in the last point
	recent *Histogram

	at                          time.Duration
	calls, errs, sent, received int64 // at the last sample
}

// Sample takes stock: the Point since the last Sample, at a time since the run's
// begin. It is for one goroutine.
func (r *Recorder) Sample(at time.Duration) Point {
	t := &r.timeline
	if t.recent == nil {
		t.recent = NewHistogram()
	}
	recent := t.recent
	recent.Reset()
	var calls, errs int64
	for _, s := range r.shards {
		s.mu.Lock()
		recent.Merge(s.recent)
		s.recent.Reset()
		calls += s.ok
		for _, n := range s.errors {
			errs += n
		}
		s.mu.Unlock()
	}
	sent, received := r.sent.Load(), r.received.Load()
	p := Point{
		At: at.Seconds(), Seconds: (at - t.at).Seconds(), Calls: calls - t.calls, Errors: errs - t.errs,
		Sent: sent - t.sent, Received: received - t.received, InFlight: r.inFlight.Load(),
		P50: recent.Percentile(50).Microseconds(), P99: recent.Percentile(99).Microseconds(),
	}
	t.at, t.calls, t.errs, t.sent, t.received = at, calls, errs, sent, received
	t.add(p)
	return p
}

func (t *timeline) add(p Point) {
	if t.width == 0 {
		t.width = 1
	}
	if t.part > 0 && t.part < t.width {
		last := &t.points[len(t.points)-1]
		*last = last.join(p)
		t.part++
		return
	}
	if len(t.points) == maxPoints {
		for i := range maxPoints / 2 {
			t.points[i] = t.points[2*i].join(t.points[2*i+1])
		}
		t.points = t.points[:maxPoints/2]
		t.width *= 2
	}
	t.points = append(t.points, p)
	t.part = 1
}

// join makes one of two neighbours. Percentiles can't be added: the worse counts.
func (p Point) join(next Point) Point {
	return Point{
		At: next.At, Seconds: p.Seconds + next.Seconds, Calls: p.Calls + next.Calls, Errors: p.Errors + next.Errors,
		Sent: p.Sent + next.Sent, Received: p.Received + next.Received, InFlight: next.InFlight,
		P50: max(p.P50, next.P50), P99: max(p.P99, next.P99),
	}
}
