package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// The size of a plot and its margins, in the units of its SVG.
const (
	plotWidth, plotHeight = 720, 260
	plotLeft, plotBottom  = 64, 28
	plotTop, plotRight    = 10, 12
)

// colors is how many the page has.
const colors = 6

// A plot is lines over two axes, ready to be drawn.
type plot struct {
	Label  string // of the vertical axis
	X, Y   []tick
	Curves []curve
}

type tick struct {
	At   float64 // in the SVG
	Text string
}

type curve struct {
	Name   string
	Color  int
	Dashed bool
	Points string // of a polyline
}

// The corners, for the template.
func (plot) Width() int    { return plotWidth }
func (plot) Height() int   { return plotHeight }
func (plot) Left() int     { return plotLeft }
func (plot) Right() int    { return plotWidth - plotRight }
func (plot) Top() int      { return plotTop }
func (plot) Bottom() int   { return plotHeight - plotBottom }
func (p plot) Empty() bool { return len(p.Curves) == 0 }

// scale maps 0 to 1 onto an axis.
func atX(share float64) float64 { return plotLeft + share*(plotWidth-plotLeft-plotRight) }
func atY(share float64) float64 {
	return plotHeight - plotBottom - share*(plotHeight-plotTop-plotBottom)
}

// nines are the percentiles that get a mark: the axis grows with -log10(1-p).
var nines = []float64{0, 50, 90, 99, 99.9, 99.99, 99.999}

// latencyPlot is latency over percentile, both logarithmic.
func latencyPlot(r *measure.Report) plot {
	p := plot{Label: "latency"}
	low, high, most := math.Inf(1), 0.0, 0.0
	type line struct {
		curve
		h *measure.Histogram
	}
	var lines []line
	for i, run := range r.Runs {
		for _, l := range []line{
			{curve{Name: legend(r, run), Color: i % colors}, run.Latency},
			{curve{Name: legend(r, run) + " raw", Color: i % colors, Dashed: true}, run.Raw},
		} {
			if l.h.Count() == 0 {
				continue
			}
			lines = append(lines, l)
			low = min(low, max(l.h.Min().Seconds(), 1e-6))
			high = max(high, l.h.Max().Seconds(), 1e-6)
			most = max(most, math.Log10(float64(l.h.Count())))
		}
	}
	if len(lines) == 0 {
		return p
	}
	most = min(max(most, 1), 5)
	from, to := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	if to <= from {
		to = from + 1
	}
	y := func(d time.Duration) float64 {
		return atY((math.Log10(max(d.Seconds(), 1e-6)) - from) / (to - from))
	}
	for e := from; e <= to; e++ {
		d := time.Duration(math.Pow(10, e) * float64(time.Second))
		p.Y = append(p.Y, tick{y(d), short(d)})
	}
	for _, q := range nines {
		if x := -math.Log10(1 - q/100); x <= most+1e-9 {
			p.X = append(p.X, tick{atX(x / most), fmt.Sprintf("%g %%", q)})
		}
	}
	const steps = 150
	for _, l := range lines {
		var b strings.Builder
		for i := range steps + 1 {
			x := float64(i) / steps
			q := 100 * (1 - math.Pow(10, -x*most))
			fmt.Fprintf(&b, "%.1f,%.1f ", atX(x), y(l.h.Percentile(q)))
		}
		l.Points = strings.TrimSpace(b.String())
		p.Curves = append(p.Curves, l.curve)
	}
	return p
}

// timePlot is something over the time of each run.
func timePlot(r *measure.Report, label string, of func(measure.Point) float64) plot {
	p := plot{Label: label}
	end, most := 0.0, 0.0
	for _, run := range r.Runs {
		for _, t := range telling(run) {
			end, most = max(end, t.At), max(most, of(t))
		}
	}
	if end == 0 || most == 0 {
		return p
	}
	top := nice(most)
	for i := range 5 {
		p.Y = append(p.Y, tick{atY(float64(i) / 4), strconv.FormatFloat(top*float64(i)/4, 'f', -1, 64)})
		p.X = append(p.X, tick{atX(float64(i) / 4), fmt.Sprintf("%.3g s", end*float64(i)/4)})
	}
	for i, run := range r.Runs {
		var b strings.Builder
		for _, t := range telling(run) {
			fmt.Fprintf(&b, "%.1f,%.1f ", atX((t.At-t.Seconds/2)/end), atY(of(t)/top))
		}
		if b.Len() > 0 {
			p.Curves = append(p.Curves, curve{Name: legend(r, run), Color: i % colors, Points: strings.TrimSpace(b.String())})
		}
	}
	return p
}

// telling are the points of a run that are long enough to tell a rate: the last may
// be of a moment only.
func telling(run *measure.Run) []measure.Point {
	return slices.DeleteFunc(slices.Clone(run.Timeline), func(t measure.Point) bool {
		return t.Seconds < 0.2 && (len(run.Timeline) > 1 || t.Seconds <= 0)
	})
}

// nice is the next round number.
func nice(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 5, 8, 10} {
		if v <= m*unit {
			return m * unit
		}
	}
	return 10 * unit
}
