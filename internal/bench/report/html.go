package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"

	_ "embed"

	"github.com/dustin/go-humanize"

	"github.com/aipod/aipod/internal/bench/measure"
)

// HTML writes a Report as one page that needs nothing else: no scripts, no other
// hosts, its plots in SVG, light or dark as the reader's system is.
func HTML(w io.Writer, r *measure.Report) error {
	t, err := template.New("report").Parse(pageText)
	if err != nil {
		return fmt.Errorf("parse page: %w", err)
	}
	p := page{
		Title: "client bench " + r.Scenario(), Machine: r.Machine,
		Latency: latencyPlot(r), Calls: timePlot(r, "calls/s", func(p measure.Point) float64 { return float64(p.Calls) / p.Seconds }),
	}
	for _, run := range r.Runs {
		if run.Sent+run.Received > 0 {
			p.Bytes = timePlot(r, "MB/s", func(p measure.Point) float64 { return float64(p.Sent+p.Received) / p.Seconds / 1e6 })
			break
		}
	}
	for i, run := range r.Runs {
		v := runView{Title: title(r, run), Color: i % colors, Text: facts(run)}
		for _, row := range rows(run) {
			cells := []string{row.name}
			for _, q := range percentiles {
				cells = append(cells, short(row.h.Percentile(q)))
			}
			v.Rows = append(v.Rows, cells)
		}
		v.Warnings = run.Warnings
		p.Runs = append(p.Runs, v)
	}
	if err := t.Execute(w, p); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

//go:embed page.html
var pageText string

// page is what the template shows.
type page struct {
	Title                 string
	Machine               measure.Machine
	Latency, Calls, Bytes plot
	Runs                  []runView
}

type runView struct {
	Title    string
	Color    int
	Text     []string
	Rows     [][]string
	Warnings []string
}

// facts are the lines of a run besides its table.
func facts(run *measure.Run) []string {
	all := []string{fmt.Sprintf("%d calls in %.4g s, %.4g/s; %s", run.Calls, run.Seconds, run.PerSecond(), count(run.Failed(), "error"))}
	for code, n := range run.Errors {
		all = append(all, fmt.Sprintf("%d %s", n, code))
	}
	if run.Sent+run.Received > 0 {
		all = append(all, fmt.Sprintf("up %.4g MB/s, down %.4g MB/s", run.Up(), run.Down()))
	}
	if run.Rate > 0 {
		all = append(all, fmt.Sprintf("%d deferred, %d never begun", run.Deferred, run.Unsent))
	}
	if run.Beats > 0 {
		all = append(all, fmt.Sprintf("%d heartbeats, %d missed", run.Beats, run.MissedBeats))
	}
	if c := run.Cuts; c != nil {
		all = append(all, fmt.Sprintf("%d connections cut, %d jobs lost, %s sent again", c.Cut, c.Lost, humanize.IBytes(uint64(c.Resent))))
	}
	all = append(all, "generator: "+usage(&run.Self, run.Seconds))
	if run.Pod != nil {
		all = append(all, "pod: "+usage(run.Pod, run.Seconds))
	}
	return all
}

// legend is the name of a run among others.
func legend(r *measure.Report, run *measure.Run) string {
	name := group{protocol: run.Protocol, rate: run.Rate}.name()
	if number(r.Config["repeat"]) > 1 {
		name += fmt.Sprintf(" #%d", run.Repeat)
	}
	return strings.TrimSpace(name)
}
