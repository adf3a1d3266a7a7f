package report

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/aipod/aipod/internal/bench/measure"
)

// A unit is what a metric is measured in.
type unit int

const (
	plain    unit = iota // a number
	duration             // in seconds
	size                 // in bytes
)

// A metric is a number of a run.
type metric struct {
	unit unit
	of   func(*measure.Run) (float64, bool) // false if the run doesn't have it
}

// histograms are those that percentiles can be asked of; "" is the latency.
var histograms = map[string]func(*measure.Run) *measure.Histogram{
	"":          func(r *measure.Run) *measure.Histogram { return r.Latency },
	"latency":   func(r *measure.Run) *measure.Histogram { return r.Latency },
	"raw":       func(r *measure.Run) *measure.Histogram { return r.Raw },
	"firstbyte": func(r *measure.Run) *measure.Histogram { return r.FirstByte },
	"firstbeat": func(r *measure.Run) *measure.Histogram { return r.FirstBeat },
	"lateness":  func(r *measure.Run) *measure.Histogram { return r.Lateness },
	"silence":   func(r *measure.Run) *measure.Histogram { return r.Silence },
	"lag":       func(r *measure.Run) *measure.Histogram { return r.Lag },
}

// metrics are the others.
var metrics = map[string]metric{
	"calls":     {plain, always(func(r *measure.Run) float64 { return float64(r.Calls) })},
	"rps":       {plain, always((*measure.Run).PerSecond)},
	"errors":    {plain, always(func(r *measure.Run) float64 { return float64(r.Failed()) })},
	"deferred":  {plain, always(func(r *measure.Run) float64 { return float64(r.Deferred) })},
	"unsent":    {plain, always(func(r *measure.Run) float64 { return float64(r.Unsent) })},
	"missed":    {plain, func(r *measure.Run) (float64, bool) { return float64(r.MissedBeats), r.Beats > 0 }},
	"up":        {plain, always((*measure.Run).Up)},
	"down":      {plain, always((*measure.Run).Down)},
	"mbps":      {plain, always(func(r *measure.Run) float64 { return r.Up() + r.Down() })},
	"cpu":       {plain, always(func(r *measure.Run) float64 { return r.Self.CPU })},
	"rss":       {size, func(r *measure.Run) (float64, bool) { return float64(r.Self.PeakRSS), r.Self.PeakRSS > 0 }},
	"pod.cpu":   {plain, ofPod(func(u *measure.Usage) float64 { return u.CPU })},
	"pod.rss":   {size, ofPod(func(u *measure.Usage) float64 { return float64(u.PeakRSS) })},
	"lost":      {plain, ofCuts(func(c *measure.Cuts) int64 { return c.Lost })},
	"cut":       {plain, ofCuts(func(c *measure.Cuts) int64 { return c.Cut })},
	"reconnect": {plain, ofCuts(func(c *measure.Cuts) int64 { return c.Reconnect })},
	"resent":    {size, ofCuts(func(c *measure.Cuts) int64 { return c.Resent })},
}

func always(of func(*measure.Run) float64) func(*measure.Run) (float64, bool) {
	return func(r *measure.Run) (float64, bool) { return of(r), true }
}

func ofPod(of func(*measure.Usage) float64) func(*measure.Run) (float64, bool) {
	return func(r *measure.Run) (float64, bool) {
		if r.Pod == nil {
			return 0, false
		}
		return of(r.Pod), true
	}
}

func ofCuts(of func(*measure.Cuts) int64) func(*measure.Run) (float64, bool) {
	return func(r *measure.Run) (float64, bool) {
		if r.Cuts == nil {
			return 0, false
		}
		return float64(of(r.Cuts)), true
	}
}

// lookup finds a metric by its name.
func lookup(name string) (metric, bool) {
	if m, ok := metrics[name]; ok {
		return m, true
	}
	which, at := "", name
	if i := strings.IndexByte(name, '.'); i >= 0 && histograms[name[:i]] != nil {
		which, at = name[:i], name[i+1:]
	}
	if len(at) > 1 && at[0] == 'p' {
		p, err := strconv.ParseFloat(at[1:], 64)
		// Not NaN, and nothing like p1e1.
		if err != nil || !(p >= 0 && p <= 100) || strings.Trim(at[1:], "0123456789.") != "" {
			return metric{}, false
		}
		return ofHistogram(which, func(h *measure.Histogram) time.Duration { return h.Percentile(p) }), true
	}
	switch at {
	case "min":
		return ofHistogram(which, (*measure.Histogram).Min), true
	case "mean":
		return ofHistogram(which, (*measure.Histogram).Mean), true
	case "max":
		return ofHistogram(which, (*measure.Histogram).Max), true
	}
	return metric{}, false
}

func ofHistogram(which string, of func(*measure.Histogram) time.Duration) metric {
	return metric{duration, func(r *measure.Run) (float64, bool) {
		h := histograms[which](r)
		return of(h).Seconds(), h.Count() > 0
	}}
}

// operators, the longer ones first.
var operators = []string{"<=", ">=", "==", "!=", "<", ">", "="}

// An Assert is one demand on a run.
type Assert struct {
	text   string
	metric metric
	op     string
	value  float64
}

// Asserts are several, all of which have to hold.
type Asserts []Assert

// A SyntaxError is a demand that can't be understood.
type SyntaxError struct {
	Text string // the demand
	What string // is wrong, and what to write
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%q: %s", e.Text, e.What) }

// ParseAsserts reads demands like p99<10ms,errors==0,up>100: a metric, an operator
// and a value, with a unit if it has one. Errors are *SyntaxErrors.
func ParseAsserts(text string) (Asserts, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var all Asserts
	for part := range strings.SplitSeq(text, ",") {
		a, err := parseAssert(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func parseAssert(text string) (Assert, error) {
	fail := func(format string, args ...any) (Assert, error) {
		return Assert{}, &SyntaxError{Text: text, What: fmt.Sprintf(format, args...)}
	}
	if text == "" {
		return fail("nothing is demanded: write it like p99<10ms")
	}
	i := strings.IndexAny(text, "<>=!")
	if i < 0 {
		return fail("there is no operator: write it like p99<10ms, with one of < <= > >= == !=")
	}
	j := slices.IndexFunc(operators, func(op string) bool { return strings.HasPrefix(text[i:], op) })
	if j < 0 {
		return fail("unknown operator: choose one of < <= > >= == !=")
	}
	a := Assert{text: text, op: operators[j]}
	name, value := strings.TrimSpace(text[:i]), strings.TrimSpace(text[i+len(a.op):])
	var ok bool
	if a.metric, ok = lookup(name); !ok {
		return fail("unknown metric %q: choose p0 to p100, min, mean or max, also of %s, as in raw.p99; or one of %s", name,
			strings.Join(slices.Sorted(maps.Keys(histograms))[1:], ", "), strings.Join(slices.Sorted(maps.Keys(metrics)), ", "))
	}
	var err error
	switch a.metric.unit {
	case duration:
		var d time.Duration
		d, err = time.ParseDuration(value)
		a.value = d.Seconds()
		if err != nil {
			return fail("%q is not a duration: write it like 10ms or 1.5s", value)
		}
	case size:
		var n uint64
		n, err = humanize.ParseBytes(value)
		a.value = float64(n)
		if err != nil {
			return fail("%q is not a size: write it like 64MiB", value)
		}
	default:
		a.value, err = strconv.ParseFloat(value, 64)
		if err != nil || a.value != a.value { // NaN
			return fail("%q is not a number", value)
		}
	}
	return a, nil
}

// holds compares a value with the demand.
func (a *Assert) holds(v float64) bool {
	switch a.op {
	case "<":
		return v < a.value
	case "<=":
		return v <= a.value
	case ">":
		return v > a.value
	case ">=":
		return v >= a.value
	case "!=":
		return v != a.value
	}
	return v == a.value
}

// An AssertError says which demands weren't met, one a line.
type AssertError struct{ Broken []string }

func (e *AssertError) Error() string { return strings.Join(e.Broken, "; ") }

// Check demands of each run that all hold. The error is an *AssertError; a metric
// that a run doesn't have is one, too.
func (all Asserts) Check(r *measure.Report) error {
	e := &AssertError{}
	for _, run := range r.Runs {
		where := ""
		if len(r.Runs) > 1 {
			where = fmt.Sprintf(" (%s, run %d)", group{protocol: run.Protocol, rate: run.Rate}.name(), run.Repeat)
		}
		for i := range all {
			a := &all[i]
			v, ok := a.metric.of(run)
			switch {
			case !ok:
				e.Broken = append(e.Broken, fmt.Sprintf("%s can't be told: it was not measured%s", a.text, where))
			case !a.holds(v):
				e.Broken = append(e.Broken, fmt.Sprintf("%s does not hold: it is %s%s", a.text, a.metric.unit.text(v), where))
			}
		}
	}
	if len(e.Broken) == 0 {
		return nil
	}
	return e
}

// text is a value as people read it.
func (u unit) text(v float64) string {
	switch u {
	case duration:
		return short(time.Duration(v * float64(time.Second)))
	case size:
		return humanize.IBytes(uint64(max(v, 0)))
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
