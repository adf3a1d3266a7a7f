package main

import (
	"fmt"
	"slices"
)

// A metric is a figure of a sample.
type metric struct {
	name   string
	unit   string
	digits int  // behind the point
	worst  bool // a target counts for the largest, not for the median
	of     func(sample) float64
}

func (m metric) format(v float64) string { return fmt.Sprintf("%.*f", m.digits, v) }

func perGiB(seconds float64, s sample) float64 { return seconds / (float64(max(s.Bytes, 1)) / gib) }

func more(key string) func(sample) float64 { return func(s sample) float64 { return s.More[key] } }

var (
	seconds      = metric{name: "time", unit: "s", digits: 2, of: func(s sample) float64 { return s.Seconds }}
	throughput   = metric{name: "throughput", unit: "MiB/s", of: func(s sample) float64 { return float64(s.Bytes) / mib / s.Seconds }}
	serverCPU    = metric{name: "server CPU", unit: "s/GiB", digits: 2, of: func(s sample) float64 { return perGiB(s.ServerCPU, s) }}
	clientCPU    = metric{name: "client CPU", unit: "s/GiB", digits: 2, of: func(s sample) float64 { return perGiB(s.ClientCPU, s) }}
	serverRSS    = metric{name: "server RSS", unit: "MiB", digits: 1, worst: true, of: func(s sample) float64 { return float64(s.ServerRSS) / mib }}
	clientRSS    = metric{name: "client RSS", unit: "MiB", digits: 1, worst: true, of: func(s sample) float64 { return float64(s.ClientRSS) / mib }}
	cpuPerSecond = metric{name: "server CPU", unit: "% of a core", digits: 1, of: func(s sample) float64 { return 100 * s.ServerCPU / s.Seconds }}
	rssPerCall   = metric{name: "memory a call", unit: "KiB", digits: 1, of: more("rss_call_kib")}
	gap999       = metric{name: "p99.9 gap", unit: "s", digits: 3, of: more("p99.9_gap_s")}
	maxGap       = metric{name: "longest gap", unit: "s", digits: 3, worst: true, of: more("max_gap_s")}
	beatCount    = metric{name: "beats", unit: "", of: more("beats")}
	callRate     = metric{name: "calls", unit: "1/s", of: more("calls_per_s")}
	p50          = metric{name: "p50", unit: "ms", digits: 2, of: more("p50_ms")}
	p99          = metric{name: "p99", unit: "ms", digits: 2, of: more("p99_ms")}
	cpuPerCall   = metric{name: "server CPU", unit: "µs/call", of: func(s sample) float64 { return 1e6 * s.ServerCPU / (s.More["calls_per_s"] * s.Seconds) }}
	milliseconds = metric{name: "start", unit: "ms", digits: 1, of: func(s sample) float64 { return 1e3 * s.Seconds }}
	binary       = metric{name: "program", unit: "MB", digits: 1, of: more("binary_mb")}

	transfer = []metric{seconds, throughput, serverCPU, clientCPU, serverRSS, clientRSS}
	waiting  = []metric{cpuPerSecond, rssPerCall, gap999, maxGap, beatCount}
)

// A spread is the median of some figures, and their range.
type spread struct{ median, least, most float64 }

// spreadOf is of at least one figure.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{median: (v[(n-1)/2] + v[n/2]) / 2, least: v[0], most: v[n-1]}
}

func (m metric) spread(samples []sample) spread {
	var values []float64
	for _, s := range samples {
		values = append(values, m.of(s))
	}
	return spreadOf(values)
}

// A target is what is promised of side a, or of a divided by b in the same round.
// Either least or most is set, or it is only of interest.
type target struct {
	metric  metric
	a, b    string
	least   float64
	most    float64
	informs bool
}

func (t target) String() string {
	text := t.metric.name + " of " + t.a
	if t.b != "" {
		text += " ÷ " + t.b
	}
	return text
}

// measured is what became of it. ok is false if a side was not measured.
func (t target) measured(m measuredTable) (s spread, ok bool) {
	a, b := m.Sides[t.a], m.Sides[t.b]
	if len(a) == 0 || t.b != "" && len(b) == 0 {
		return s, false
	}
	if t.b == "" {
		return t.metric.spread(a), true
	}
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, t.metric.of(a[i])/t.metric.of(b[i]))
	}
	return spreadOf(ratios), true
}

func (t target) met(s spread) bool {
	value := s.median
	if t.metric.worst && t.b == "" {
		value = s.most
	}
	switch {
	case t.least > 0:
		return value >= t.least
	case t.most > 0:
		return value <= t.most
	}
	return true
}

// promise is what it should be.
func (t target) promise() string {
	unit := ""
	if t.b == "" {
		unit = " " + t.metric.unit
	}
	switch {
	case t.least > 0:
		return fmt.Sprintf("≥ %.4g%s", t.least, unit)
	case t.most > 0:
		return fmt.Sprintf("≤ %.4g%s", t.most, unit)
	}
	return "–"
}

func (t target) show(s spread) string {
	digits := 2
	if t.b == "" {
		digits = max(t.metric.digits, 1)
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.median, digits, s.least, digits, s.most)
}
