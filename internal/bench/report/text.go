// Package report tells what a measure.Report says: as text, as a page of HTML,
// against another one, and against what was asked for. It measures nothing.
package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/aipod/aipod/internal/bench/measure"
)

// Text writes a Report for people.
func Text(w io.Writer, r *measure.Report) error {
	var b strings.Builder
	for _, run := range r.Runs {
		Run(&b, r, run)
	}
	if len(r.Runs) > 1 {
		summary(&b, r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// title says what a run does, in one line.
func title(r *measure.Report, run *measure.Run) string {
	c := r.Config
	what := r.Scenario()
	if of, ok := c["of"].(string); ok {
		what += " of " + of
	}
	way := "closed loop"
	if run.Rate > 0 {
		way = fmt.Sprintf("%g calls/s", run.Rate)
		if ramp := number(c["ramp"]); ramp > 0 {
			way += fmt.Sprintf(" after a ramp of %s", short(time.Duration(ramp*float64(time.Second))))
		}
	}
	service := "JobService"
	if c["service"] == "ai" {
		service = "ai.AI"
	}
	line := fmt.Sprintf("%s  %s over %s, %s × %s, %s, %s", what, service, run.Protocol,
		count(int64(number(c["conns"])), "connection"), count(int64(number(c["streams"])), "stream"), payload(c), way)
	if number(c["repeat"]) > 1 {
		line += fmt.Sprintf(", run %d", run.Repeat)
	}
	return line
}

func payload(c map[string]any) string {
	size := number(c["size"])
	if size == 0 {
		return "no payload"
	}
	return fmt.Sprintf("%s of %v", humanize.IBytes(uint64(size)), c["kind"])
}

// number reads a value of a Config, which has been JSON or not.
func number(v any) float64 {
	switch v := v.(type) {
	case float64:
		return v
	case int:
		return float64(v)
	case int64:
		return float64(v)
	}
	return 0
}

// Run writes one run for people.
func Run(b *strings.Builder, r *measure.Report, run *measure.Run) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(b, title(r, run))
	calls := fmt.Sprintf("%d in %s, %.4g/s", run.Calls, short(time.Duration(run.Seconds*float64(time.Second))), run.PerSecond())
	for _, extra := range []struct {
		n    int64
		what string
	}{{run.Deferred, "deferred"}, {run.Unsent, "never begun"}, {run.Canceled, "ended by the end"}} {
		if extra.n > 0 {
			calls += fmt.Sprintf(", %d %s", extra.n, extra.what)
		}
	}
	if r.Scenario() == "idle" {
		calls = fmt.Sprintf("%d waited %s", run.Canceled, short(time.Duration(run.Seconds*float64(time.Second))))
	}
	line("calls", "%s", calls)
	if run.Failed() == 0 {
		line("errors", "0")
	}
	for _, code := range slices.Sorted(maps.Keys(run.Errors)) {
		line("errors", "%d %s: %s", run.Errors[code], code, run.Details[code])
	}
	if run.Sent > 0 || run.Received > 0 {
		line("payload", "up %.4g MB/s, down %.4g MB/s", run.Up(), run.Down())
	}
	if c := run.Cuts; c != nil {
		line("cuts", "%s, %d reconnects, %d jobs lost, %s sent again (%.1f %%)", count(c.Cut, "connection"), c.Reconnect, c.Lost,
			humanize.IBytes(uint64(c.Resent)), 100*share(float64(c.Resent), float64(run.Sent)))
	}
	if run.Beats > 0 {
		line("heartbeats", "%d, %d missed", run.Beats, run.MissedBeats)
	}
	table(b, run)
	line("generator", "%s", usage(&run.Self, run.Seconds))
	if run.Pod != nil {
		line("pod", "%s", usage(run.Pod, run.Seconds))
	}
	for _, w := range run.Warnings {
		line("warning", "%s", w)
	}
	if run.Interrupted {
		line("warning", "interrupted: this is what was measured until then")
	}
	fmt.Fprintln(b)
}

// percentiles are those that are shown; 100 is the maximum.
var percentiles = []float64{50, 90, 99, 99.9, 100}

// A row is a histogram with its name.
type row struct {
	name string
	h    *measure.Histogram
}

// rows are the histograms of a run that have something.
func rows(run *measure.Run) []row {
	all := []row{
		{"latency", run.Latency}, {"raw", run.Raw}, {"first byte", run.FirstByte}, {"first beat", run.FirstBeat},
		{"lateness", run.Lateness}, {"silence", run.Silence}, {"lag", run.Lag},
	}
	return slices.DeleteFunc(all, func(r row) bool { return r.h.Count() == 0 })
}

func table(b *strings.Builder, run *measure.Run) {
	all := rows(run)
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(b, "%-11s %9s %9s %9s %9s %9s\n", "", "p50", "p90", "p99", "p99.9", "max")
	for _, r := range all {
		fmt.Fprintf(b, "%-11s", r.name)
		for _, p := range percentiles {
			fmt.Fprintf(b, " %9s", short(r.h.Percentile(p)))
		}
		fmt.Fprintln(b)
	}
}

func usage(u *measure.Usage, seconds float64) string {
	line := fmt.Sprintf("%.2f s of CPU, %.0f %% of one", u.CPU, 100*share(u.CPU, seconds))
	if u.PeakRSS > 0 {
		line += ", peak RSS " + humanize.IBytes(uint64(u.PeakRSS))
	}
	return line
}

func share(part, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return part / of
}

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// short is a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%.3gms", float64(d.Microseconds())/1000)
	case d < 100*time.Second:
		return fmt.Sprintf("%.3gs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// A group is the runs that differ in nothing but their number.
type group struct {
	protocol string
	rate     float64
	runs     []*measure.Run
}

func (g group) name() string {
	if g.rate > 0 {
		return fmt.Sprintf("%s %g/s", g.protocol, g.rate)
	}
	return g.protocol
}

// groups are in the order in which they were run first.
func groups(r *measure.Report) []group {
	var all []group
	for _, run := range r.Runs {
		i := slices.IndexFunc(all, func(g group) bool { return g.protocol == run.Protocol && g.rate == run.Rate })
		if i < 0 {
			all, i = append(all, group{protocol: run.Protocol, rate: run.Rate}), len(all)
		}
		all[i].runs = append(all[i].runs, run)
	}
	return all
}

// summary is a line for each group: medians, and how far the runs are apart.
func summary(b *strings.Builder, r *measure.Report) {
	fmt.Fprintf(b, "%-18s %4s %14s %12s %12s %12s %7s\n", "medians", "runs", "calls/s", "MB/s", "p50", "p99", "errors")
	for _, g := range groups(r) {
		rate := median(g.values(func(run *measure.Run) float64 { return run.PerSecond() }))
		bytes := median(g.values(func(run *measure.Run) float64 { return max(run.Up(), run.Down()) }))
		var failed int64
		for _, run := range g.runs {
			failed += run.Failed()
		}
		at := func(p float64) string {
			return short(time.Duration(median(g.values(func(run *measure.Run) float64 { return float64(run.Latency.Percentile(p)) }))))
		}
		fmt.Fprintf(b, "%-18s %4d %14.5g %12.4g %12s %12s %7d\n", g.name(), len(g.runs), rate, bytes, at(50), at(99), failed)
	}
}

// values are a measure of all runs.
func (g group) values(of func(*measure.Run) float64) []float64 {
	all := make([]float64, 0, len(g.runs))
	for _, run := range g.runs {
		all = append(all, of(run))
	}
	return all
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
