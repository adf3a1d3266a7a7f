package measure

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Call is what is known of one call when it has ended.
type Call struct {
	// Intended is when the schedule wanted it to start; zero without a schedule.
	Intended time.Time
	Start    time.Time
	// FirstByte is when the first message came, FirstBeat when the first heartbeat
	// did; zero if none came.
	FirstByte, FirstBeat time.Time
	End                  time.Time
	// Code is empty for success, Canceled for a call that the end of the load has
	// ended, else the kind of error.
	Code string
	// Detail is the text of the error.
	Detail string
	// Deferred: it could not start as intended, because all streams were busy.
	Deferred bool
}

// Canceled is the code of calls that the load itself has ended.
const Canceled = "-"

// The times that a Recorder keeps apart.
const (
	latency = iota
	raw
	firstByte
	firstBeat
	lateness
	silence
	lag
	times
)

// A Recorder takes in what happens. It is safe for concurrent use. Its memory,
// some 2 MiB for each shard, doesn't grow.
type Recorder struct {
	shards         []*Shard
	sent, received atomic.Int64 // bytes of payload
	inFlight       atomic.Int64

	timeline timeline // of the sampling goroutine
}

// NewRecorder makes a Recorder for so many workers. They share shards, because a
// histogram for each of thousands would take more memory than what they measure.
func NewRecorder(workers int) *Recorder {
	n := max(1, min(workers, 2*runtime.GOMAXPROCS(0)))
	r := &Recorder{}
	for range n {
		r.shards = append(r.shards, newShard(r))
	}
	return r
}

// Shard is the part of the Recorder that a worker, by its number, uses.
func (r *Recorder) Shard(worker int) *Shard { return r.shards[worker%len(r.shards)] }

// A Shard is a Recorder's part for some of the workers. It is safe for concurrent
// use.
type Shard struct {
	recorder *Recorder

	mu       sync.Mutex // guards what follows
	times    [times]*Histogram
	recent   *Histogram // latencies since the last sample
	ok       int64
	canceled int64
	errors   map[string]int64  // by code
	details  map[string]string // by code, of the first
	deferred int64
	beats    int64
	missed   int64 // heartbeats
}

func newShard(r *Recorder) *Shard {
	s := &Shard{recorder: r, recent: NewHistogram(), errors: map[string]int64{}, details: map[string]string{}}
	for i := range s.times {
		s.times[i] = NewHistogram()
	}
	return s
}

// Begin says that a call begins; End has to follow.
func (s *Shard) Begin() { s.recorder.inFlight.Add(1) }

// Sent and Received count bytes of payload as they go.
func (s *Shard) Sent(n int) { s.recorder.sent.Add(int64(n)) }

// Received counts bytes of output.
func (s *Shard) Received(n int) { s.recorder.received.Add(int64(n)) }

// End takes in a call. The latencies are those of calls that succeeded.
func (s *Shard) End(c *Call) {
	s.recorder.inFlight.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Deferred {
		s.deferred++
	}
	if !c.FirstByte.IsZero() {
		s.times[firstByte].Record(c.FirstByte.Sub(c.Start))
	}
	if !c.FirstBeat.IsZero() {
		s.times[firstBeat].Record(c.FirstBeat.Sub(c.Start))
	}
	switch c.Code {
	case "":
	case Canceled:
		s.canceled++
		return
	default:
		if s.errors[c.Code]++; s.errors[c.Code] == 1 {
			s.details[c.Code] = c.Detail
		}
		return
	}
	s.ok++
	took := c.End.Sub(c.Start)
	if !c.Intended.IsZero() {
		s.times[raw].Record(took)
		took = c.End.Sub(c.Intended)
	}
	s.times[latency].Record(took)
	s.recent.Record(took)
}

// Lag takes in how much later than intended a worker that was free started: the
// fault of this process or machine.
func (s *Shard) Lag(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[lag].Record(d)
}

// Silent takes in how long nothing came before a message; a negative time is not
// known.
func (s *Shard) Silent(d time.Duration) {
	if d < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[silence].Record(d)
}

// Beat takes in a heartbeat: how late it was, how long it was silent before it,
// and how many were missed in between. A negative time is not known.
func (s *Shard) Beat(late, silent time.Duration, skipped int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats++
	s.missed += skipped
	if late >= 0 {
		s.times[lateness].Record(late)
	}
	if silent >= 0 {
		s.times[silence].Record(silent)
	}
}

// Fill writes what was recorded into a Run.
func (r *Recorder) Fill(run *Run) {
	var sums [times]*Histogram
	for i := range sums {
		sums[i] = NewHistogram()
	}
	run.Errors, run.Details = map[string]int64{}, map[string]string{}
	for _, s := range r.shards {
		s.mu.Lock()
		for i, h := range s.times {
			sums[i].Merge(h)
		}
		run.Calls += s.ok
		run.Canceled += s.canceled
		run.Deferred += s.deferred
		run.Beats += s.beats
		run.MissedBeats += s.missed
		for code, n := range s.errors {
			run.Errors[code] += n
			run.Details[code] = s.details[code]
		}
		s.mu.Unlock()
	}
	for i, h := range []**Histogram{&run.Latency, &run.Raw, &run.FirstByte, &run.FirstBeat, &run.Lateness, &run.Silence, &run.Lag} {
		if sums[i].Count() > 0 {
			*h = sums[i]
		}
	}
	run.Sent, run.Received = r.sent.Load(), r.received.Load()
	run.Timeline = r.timeline.points
}
