package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/aipod/aipod/internal/bench/measure"
)

// A Verdict is what a difference means.
type Verdict string

// The verdicts on B against A.
const (
	Same    Verdict = "same"    // as far as the noise lets tell
	Better  Verdict = "better"  //
	Worse   Verdict = "worse"   //
	Unclear Verdict = "unclear" // the medians differ, but the runs overlap
)

// A Line compares one metric of one group of runs.
type Line struct {
	Group   string  `json:"group"` // protocol, and rate if there is one
	Metric  string  `json:"metric"`
	Unit    string  `json:"unit,omitempty"` // s, B, or none
	A       float64 `json:"a"`              // median
	B       float64 `json:"b"`              // median
	SpreadA float64 `json:"spread_a"`       // from the least to the most run, as a share of the median
	SpreadB float64 `json:"spread_b"`
	RunsA   int     `json:"runs_a"`
	RunsB   int     `json:"runs_b"`
	Ratio   float64 `json:"ratio"` // B to A; 0 if A is 0
	Verdict Verdict `json:"verdict"`

	unit unit
}

// A Comparison is two reports side by side.
type Comparison struct {
	Lines []Line
	Notes []string // how A and B differ in what was asked for
}

// A yardstick is a metric that reports are compared by.
type yardstick struct {
	name string
	more bool // is better
	// zero: of such a thing there should be none, and one is worse than none.
	zero bool
	// least is how many latencies a run needs for its percentile to be more than the
	// chance of a few calls.
	least int64
}

// yardsticks are what counts, if it was measured.
var yardsticks = []yardstick{
	{name: "rps", more: true},
	{name: "up", more: true},
	{name: "down", more: true},
	{name: "p50"},
	{name: "p99", least: 100},
	{name: "p99.9", least: 1000},
	{name: "firstbyte.p50"},
	{name: "firstbyte.p99", least: 100},
	{name: "lateness.p99"},
	{name: "missed", zero: true},
	{name: "errors", zero: true},
	{name: "lost", zero: true},
	{name: "resent"},
	{name: "pod.cpu/call"},
}

// perCall is the pod's CPU time for a call, in seconds.
var perCall = metric{duration, func(r *measure.Run) (float64, bool) {
	if r.Pod == nil || r.Calls == 0 {
		return 0, false
	}
	return r.Pod.CPU / float64(r.Calls), true
}}

func (y yardstick) metric() metric {
	if y.name == "pod.cpu/call" {
		return perCall
	}
	m, _ := lookup(y.name)
	return m
}

// Compare compares B with A. noise is the share up to which a difference of the
// medians is none. It is an error if they don't measure the same thing.
func Compare(a, b *measure.Report, noise float64) (*Comparison, error) {
	if a.Scenario() != b.Scenario() {
		return nil, fmt.Errorf("the scenario is %q in one report and %q in the other: they can't be compared", a.Scenario(), b.Scenario())
	}
	c := &Comparison{Notes: differences(a, b)}
	others := groups(b)
	for _, ga := range groups(a) {
		i := slices.IndexFunc(others, func(g group) bool { return g.name() == ga.name() })
		if i < 0 {
			c.Notes = append(c.Notes, ga.name()+" is only in A")
			continue
		}
		for _, y := range yardsticks {
			if l, ok := compare(ga, others[i], y, noise); ok {
				c.Lines = append(c.Lines, l)
			}
		}
		others = slices.Delete(others, i, i+1)
	}
	for _, g := range others {
		c.Notes = append(c.Notes, g.name()+" is only in B")
	}
	if len(c.Lines) == 0 {
		return nil, fmt.Errorf("the reports have no protocol and rate in common")
	}
	return c, nil
}

// measured are the values of those runs that have them.
func (g group) measured(m metric, least int64) []float64 {
	var all []float64
	for _, run := range g.runs {
		if run.Latency.Count() < least {
			continue
		}
		if v, ok := m.of(run); ok {
			all = append(all, v)
		}
	}
	return all
}

func compare(ga, gb group, y yardstick, noise float64) (Line, bool) {
	m := y.metric()
	a, b := ga.measured(m, y.least), gb.measured(m, y.least)
	if len(a) == 0 || len(b) == 0 || slices.Max(a) == 0 && slices.Max(b) == 0 && !y.zero {
		return Line{}, false
	}
	l := Line{
		Group: ga.name(), Metric: y.name, Unit: map[unit]string{duration: "s", size: "B"}[m.unit], unit: m.unit,
		A: median(a), B: median(b), SpreadA: spread(a), SpreadB: spread(b), RunsA: len(a), RunsB: len(b),
	}
	if l.A != 0 {
		l.Ratio = l.B / l.A
	}
	l.Verdict = verdict(a, b, y, noise)
	return l, true
}

// verdict compares medians. That they differ counts only if no run of the one is
// within those of the other.
func verdict(a, b []float64, y yardstick, noise float64) Verdict {
	ma, mb := median(a), median(b)
	if y.zero {
		ma, mb = slices.Max(a), slices.Max(b)
		switch {
		case mb > ma*(1+noise):
			return Worse
		case ma > mb*(1+noise):
			return Better
		}
		return Same
	}
	if diff := mb - ma; diff <= noise*ma && diff >= -noise*ma {
		return Same
	}
	if slices.Max(a) >= slices.Min(b) && slices.Max(b) >= slices.Min(a) {
		return Unclear
	}
	if (mb > ma) == y.more {
		return Better
	}
	return Worse
}

func spread(v []float64) float64 {
	return share(slices.Max(v)-slices.Min(v), median(v))
}

// differences tells what makes two reports hard to compare.
func differences(a, b *measure.Report) []string {
	var notes []string
	keys := map[string]bool{}
	for _, c := range []map[string]any{a.Config, b.Config} {
		for k := range c {
			keys[k] = true
		}
	}
	for k := range keys {
		// How much was measured, and where, makes no other thing of it.
		if k == "addr" || k == "repeat" || k == "duration" || k == "calls" || k == "warmup" {
			continue
		}
		if va, vb := setting(a.Config[k]), setting(b.Config[k]); va != vb {
			notes = append(notes, fmt.Sprintf("%s is %s in A and %s in B", k, va, vb))
		}
	}
	slices.Sort(notes)
	ma, mb := a.Machine, b.Machine
	if ma.CPU != mb.CPU || ma.CPUs != mb.CPUs || ma.OS != mb.OS || ma.Arch != mb.Arch {
		notes = append(notes, "they were measured on different machines")
	}
	return notes
}

// setting is a value of a Config, which has been JSON or not.
func setting(v any) string {
	if n := number(v); n != 0 {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// Worse says whether B is worse in anything.
func (c *Comparison) Worse() bool {
	return slices.ContainsFunc(c.Lines, func(l Line) bool { return l.Verdict == Worse })
}

// Text writes the comparison for people.
func (c *Comparison) Text(w io.Writer) error {
	var b strings.Builder
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	fmt.Fprintf(&b, "%-14s %-14s %12s %7s %12s %7s %8s  %s\n", "", "", "A", "±", "B", "±", "B/A", "verdict")
	last := ""
	for _, l := range c.Lines {
		name := l.Group
		if name == last {
			name = ""
		}
		last = l.Group
		ratio := "-"
		if l.Ratio > 0 {
			ratio = fmt.Sprintf("%.3f", l.Ratio)
		}
		fmt.Fprintf(&b, "%-14s %-14s %12s %6.1f%% %12s %6.1f%% %8s  %s\n", name, l.Metric,
			l.unit.text(l.A), 50*l.SpreadA, l.unit.text(l.B), 50*l.SpreadB, ratio, l.Verdict)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
