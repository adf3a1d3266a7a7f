package measure

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestHistogramSurvivesJSON(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 1000, 100_000} {
		h := NewHistogram()
		for range n {
			h.Record(time.Duration(rng.ExpFloat64() * float64(5*time.Millisecond)))
		}
		h.Record(30 * time.Hour) // more than it holds
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		got := new(Histogram)
		if err := json.Unmarshal(text, got); err != nil {
			t.Fatal(err)
		}
		if !got.Equal(h) || got.Count() != int64(n)+1 {
			t.Errorf("%d values: %d come back", n, got.Count())
		}
		for _, p := range []float64{0, 50, 99, 99.9, 100} {
			if got.Percentile(p) != h.Percentile(p) {
				t.Errorf("p%v is %v, was %v", p, got.Percentile(p), h.Percentile(p))
			}
		}
		// Any tool of HdrHistogram's can read it.
		var raw struct{ HDR string }
		if err := json.Unmarshal(text, &raw); err != nil {
			t.Fatal(err)
		}
		if other, err := hdrhistogram.Decode([]byte(raw.HDR)); err != nil || other.TotalCount() != h.Count() {
			t.Errorf("decode: %v", err)
		}
	}
}

func TestHistogramRefuses(t *testing.T) {
	for _, text := range []string{`{}`, `{"unit":"ms","hdr":"HISTFAAAAA"}`, `{"unit":"us","hdr":"HISTFAAAAA"}`, `{"unit":"us","hdr":"?"}`, `7`} {
		if err := json.Unmarshal([]byte(text), new(Histogram)); err == nil {
			t.Errorf("%s is a histogram", text)
		}
	}
}

func TestHistogramIsExactToThreeDigits(t *testing.T) {
	h := NewHistogram()
	for i := range 10_000 {
		h.Record(time.Duration(i+1) * 100 * time.Microsecond) // up to a second
	}
	for p, want := range map[float64]time.Duration{50: 500 * time.Millisecond, 90: 900 * time.Millisecond, 99.9: 999 * time.Millisecond} {
		if got := h.Percentile(p); (got - want).Abs() > want/500 {
			t.Errorf("p%v is %v, want %v", p, got, want)
		}
	}
}

func TestRecorderMergesItsShards(t *testing.T) {
	const workers, calls = 8, 1000
	r := NewRecorder(workers)
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			s := r.Shard(w)
			for i := range calls {
				c := Call{Start: begin, FirstByte: begin.Add(time.Millisecond), End: begin.Add(time.Duration(i+1) * time.Millisecond)}
				switch i % 10 {
				case 0:
					c.Code, c.Detail = "unavailable", "no"
				case 1:
					c.Code = Canceled
				case 2:
					c.Intended, c.Deferred = begin.Add(-time.Second), true
				}
				s.Begin()
				s.Sent(3)
				s.Received(5)
				s.End(&c)
			}
		})
	}
	wg.Wait()
	var run Run
	r.Fill(&run)
	const all = workers * calls
	if run.Calls != all*8/10 || run.Failed() != all/10 || run.Canceled != all/10 || run.Deferred != all/10 || run.Sent != 3*all || run.Received != 5*all {
		t.Errorf("%+v", run)
	}
	if run.Latency.Count() != run.Calls || run.Raw.Count() != all/10 || run.FirstByte.Count() != all || run.Details["unavailable"] != "no" {
		t.Errorf("%d latencies, %d raw", run.Latency.Count(), run.Raw.Count())
	}
	if got := run.Latency.Max(); got < 1990*time.Millisecond {
		t.Errorf("the longest latency is %v: it has to count from the intended start", got)
	}
	if run.Lateness != nil || run.Lag != nil {
		t.Error("there are histograms of what was not measured")
	}
	if p := r.Sample(time.Second); p.InFlight != 0 || p.Calls != run.Calls {
		t.Errorf("%+v", p)
	}
}

// A day's timeline takes as much memory as that of ten minutes, and loses nothing.
func TestTimelineIsBounded(t *testing.T) {
	const day = 24 * 3600
	var line timeline
	for second := range day {
		line.add(Point{At: float64(second + 1), Seconds: 1, Calls: 3, Sent: 7, P99: int64(second)})
	}
	if len(line.points) > maxPoints || cap(line.points) > 2*maxPoints {
		t.Errorf("%d points", len(line.points))
	}
	var calls, sent, worst int64
	var at float64
	for _, p := range line.points {
		calls, sent, worst = calls+p.Calls, sent+p.Sent, max(worst, p.P99)
		if p.At-p.Seconds != at {
			t.Fatalf("a point from %v to %v, but the last ends at %v", p.At-p.Seconds, p.At, at)
		}
		at = p.At
	}
	if calls != 3*day || sent != 7*day || at != day || worst != day-1 {
		t.Errorf("%d calls and %d bytes until %v s, the worst p99 is %d", calls, sent, at, worst)
	}
}

func TestSamplesAreWhatHappenedSince(t *testing.T) {
	r := NewRecorder(1)
	s := r.Shard(0)
	call := func(took time.Duration, code string) {
		s.Begin()
		s.Sent(10)
		s.End(&Call{End: time.Time{}.Add(took), Code: code})
	}
	call(time.Second, "")
	if p := r.Sample(time.Second); p.Calls != 1 || p.P99 < 990_000 || p.Sent != 10 {
		t.Errorf("%+v", p)
	}
	call(time.Millisecond, "")
	call(time.Millisecond, "unknown")
	if p := r.Sample(3 * time.Second); p.Calls != 1 || p.Errors != 1 || p.Seconds != 2 || p.P99 > 1100 || p.Sent != 20 {
		t.Errorf("%+v", p)
	}
}

func TestReadReport(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, text := range []string{``, `[]`, `{}`, `{"format":1}`, `{"format":2,"runs":[{}]}`} {
		if _, err := ReadReport(write("bad", text)); err == nil || !strings.Contains(err.Error(), "bad") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if r, err := ReadReport(write("good", `{"format":1,"config":{"scenario":"call"},"runs":[{"seconds":2,"calls":3}]}`)); err != nil ||
		r.Scenario() != "call" || r.Runs[0].PerSecond() != 1.5 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSelf(t *testing.T) {
	m := Self()
	for begin := time.Now(); time.Since(begin) < 30*time.Millisecond; {
		_ = rand.Uint64()
	}
	if u := m.Usage(); u.CPU < 0.005 || u.CPU > 10 {
		t.Errorf("%+v", u)
	}
}
