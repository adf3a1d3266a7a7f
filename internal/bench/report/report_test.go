package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// run makes a Run of 1000 calls in 10 s whose latencies are about d.
func run(d time.Duration, change ...func(*measure.Run)) *measure.Run {
	h := measure.NewHistogram()
	for i := range 1000 {
		h.Record(d + time.Duration(i)*time.Microsecond)
	}
	r := &measure.Run{
		Protocol: "grpc", Repeat: 1, Seconds: 10, Calls: 1000, Errors: map[string]int64{}, Sent: 1e9, Latency: h, FirstByte: h,
		Timeline: []measure.Point{{At: 1, Seconds: 1, Calls: 100, Sent: 1e8}, {At: 2, Seconds: 1, Calls: 120, Sent: 2e8}},
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func reportOf(runs ...*measure.Run) *measure.Report {
	return &measure.Report{
		Format: measure.Format, Runs: runs,
		Config: map[string]any{"scenario": "upload", "addr": "http://127.0.0.1:1", "service": "job", "kind": "text", "size": int64(1000), "conns": 1, "streams": 2, "repeat": len(runs)},
	}
}

func TestAsserts(t *testing.T) {
	r := reportOf(run(10*time.Millisecond, func(r *measure.Run) {
		r.Deferred = 3
		r.Self.PeakRSS = 50 << 20
		r.Cuts = &measure.Cuts{Lost: 0, Resent: 5 << 20}
	}))
	for text, want := range map[string]bool{
		"":                          true,
		"p99<11.5ms":                true,
		"p99<10ms":                  false,
		"p50 >= 10ms , errors == 0": true,
		"p99.9<12ms,max<12ms":       true,
		"latency.p0>9ms":            true,
		"firstbyte.p50<=11ms":       true,
		"errors=0":                  true,
		"errors!=0":                 false,
		"calls==1000,rps>99":        true,
		"up>99,mbps<=100,down==0":   true,
		"deferred<3":                false,
		"lost==0,resent<6MiB":       true,
		"resent<5MiB":               false,
		"rss<64MiB":                 true,
		"raw.p99<1s":                false, // not measured
		"pod.cpu<1":                 false,
		"missed==0":                 false,
	} {
		all, err := ParseAsserts(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		err = all.Check(r)
		if (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
		var broken *AssertError
		if err != nil && !errors.As(err, &broken) {
			t.Errorf("%q: %T", text, err)
		}
	}
	all, err := ParseAsserts("p99<10ms,errors<0")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := all.Check(r).Error(), "p99<10ms does not hold: it is 11ms; errors<0 does not hold: it is 0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAssertSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"p99":         "there is no operator",
		"p99<":        `"" is not a duration`,
		"p99<10":      `"10" is not a duration: write it like 10ms`,
		"p101<1s":     `unknown metric "p101"`,
		"p-1<1s":      `unknown metric "p-1"`,
		"pNaN<1s":     `unknown metric "pNaN"`,
		"x<1":         `unknown metric "x": choose p0 to p100, min, mean or max, also of firstbeat,`,
		"x.p99<1s":    `unknown metric "x.p99"`,
		"errors<x":    `"x" is not a number`,
		"errors<NaN":  `"NaN" is not a number`,
		"rss<x":       `"x" is not a size`,
		"p99!10ms":    "unknown operator",
		"p99<10ms,":   "nothing is demanded",
		"<10ms":       `unknown metric ""`,
		"p99<<10ms":   `"<10ms" is not a duration`,
		"raw.rps>100": `unknown metric "raw.rps"`,
	} {
		_, err := ParseAsserts(text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzAsserts(f *testing.F) {
	for _, text := range []string{"p99<10ms,errors==0", "raw.p99.9>=1s", "rss!=64MiB", ",", "p<1s", "resent<1e30EiB"} {
		f.Add(text)
	}
	r := reportOf(run(time.Millisecond))
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseAsserts(text)
		var syntax *SyntaxError
		if err != nil {
			if !errors.As(err, &syntax) || all != nil {
				t.Fatalf("%q: %T", text, err)
			}
			return
		}
		if text = strings.TrimSpace(text); text != "" && len(all) != strings.Count(text, ",")+1 {
			t.Fatalf("%q: %d demands", text, len(all))
		}
		_ = all.Check(r)
		// A demand and its opposite don't both hold.
		for i := range all {
			opposite := all[i]
			opposite.op = map[string]string{"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "=": "!=", "!=": "=="}[all[i].op]
			if v := r.Runs[0].PerSecond(); all[i].holds(v) == opposite.holds(v) {
				t.Fatalf("%q and its opposite", all[i].text)
			}
		}
	})
}

func TestVerdicts(t *testing.T) {
	more, less, none := yardstick{more: true}, yardstick{}, yardstick{zero: true}
	for _, test := range []struct {
		a, b []float64
		y    yardstick
		want Verdict
	}{
		{[]float64{100}, []float64{104}, more, Same},
		{[]float64{100}, []float64{106}, more, Better},
		{[]float64{100}, []float64{94}, more, Worse},
		{[]float64{100}, []float64{106}, less, Worse},
		{[]float64{100}, []float64{94}, less, Better},
		{[]float64{90, 100, 115}, []float64{108, 110, 112}, more, Unclear},
		{[]float64{90, 100, 105}, []float64{108, 110, 112}, more, Better},
		{[]float64{90, 100, 105}, []float64{70, 80, 89}, more, Worse},
		{[]float64{99, 100, 101}, []float64{103, 104, 105}, less, Same}, // apart, but hardly
		{[]float64{0}, []float64{0}, none, Same},
		{[]float64{0, 0, 0}, []float64{0, 0, 1}, none, Worse}, // one error in one run is one
		{[]float64{0, 2, 0}, []float64{0, 0, 0}, none, Better},
		{[]float64{0}, []float64{3}, less, Worse},
	} {
		if got := verdict(test.a, test.b, test.y, 0.05); got != test.want {
			t.Errorf("%v against %v (%+v): %s, want %s", test.b, test.a, test.y, got, test.want)
		}
	}
}

func TestCompare(t *testing.T) {
	a := reportOf(run(10*time.Millisecond), run(11*time.Millisecond), run(10500*time.Microsecond))
	b := reportOf(run(20*time.Millisecond), run(21*time.Millisecond), run(22*time.Millisecond))
	same, err := Compare(a, a, 0.05)
	if err != nil || same.Worse() || len(same.Notes) > 0 {
		t.Errorf("%+v, %v", same, err)
	}
	worse, err := Compare(a, b, 0.05)
	if err != nil || !worse.Worse() {
		t.Fatalf("%+v, %v", worse, err)
	}
	i := slices.IndexFunc(worse.Lines, func(l Line) bool { return l.Metric == "p50" })
	if l := worse.Lines[i]; l.Verdict != Worse || l.Ratio < 1.9 || l.Ratio > 2.1 || l.RunsA != 3 || l.Unit != "s" || l.SpreadA < 0.05 {
		t.Errorf("%+v", l)
	}
	var text strings.Builder
	if err := worse.Text(&text); err != nil || !strings.Contains(text.String(), "p50") || !strings.Contains(text.String(), "worse") {
		t.Errorf("%v\n%s", err, text.String())
	}
	if better, err := Compare(b, a, 0.05); err != nil || better.Worse() {
		t.Errorf("%+v, %v", better, err)
	}
	b.Config["scenario"] = "call"
	if _, err := Compare(a, b, 0.05); err == nil {
		t.Error("different scenarios are compared")
	}
	few := func(r *measure.Run) {
		r.Latency = measure.NewHistogram()
		r.Latency.Record(time.Second)
	}
	if c, err := Compare(reportOf(run(0, few)), reportOf(run(0, few)), 0.05); err != nil ||
		slices.ContainsFunc(c.Lines, func(l Line) bool { return l.Metric == "p99" || l.Metric == "p99.9" }) {
		t.Errorf("a percentile of one call is compared: %+v, %v", c, err)
	}
	b.Config["scenario"], b.Config["kind"] = "upload", "zero"
	if c, err := Compare(a, b, 0.05); err != nil || !slices.Contains(c.Notes, "kind is text in A and zero in B") {
		t.Errorf("%+v, %v", c, err)
	}
	for _, r := range b.Runs {
		r.Protocol = "connect"
	}
	if _, err := Compare(a, b, 0.05); err == nil {
		t.Error("nothing in common is compared")
	}
}

// all is a report with everything that there can be.
func all() *measure.Report {
	open := func(r *measure.Run) {
		r.Rate, r.Raw, r.Lag, r.Lateness, r.Silence = 100, r.Latency, r.Latency, r.Latency, r.Latency
		r.Deferred, r.Unsent, r.Canceled, r.Beats, r.MissedBeats, r.Received = 5, 6, 7, 8, 9, 1e9
		r.Errors = map[string]int64{"unavailable": 2}
		r.Details = map[string]string{"unavailable": `<script>alert("http://evil")</script>`}
		r.Cuts = &measure.Cuts{Cut: 1, Reconnect: 2, Resent: 3}
		r.Pod = &measure.Usage{CPU: 1, PeakRSS: 1 << 20}
		r.Warnings = []string{"the generator is the <b>bottleneck</b>"}
		r.Interrupted = true
	}
	return reportOf(run(time.Millisecond), run(20*time.Millisecond, open), run(time.Second, func(r *measure.Run) { *r = measure.Run{Protocol: "x"} }))
}

func TestHTML(t *testing.T) {
	var page strings.Builder
	if err := HTML(&page, all()); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, foreign := range []string{"http://", "https://", "//", "<script", "@import", "url(", "src=", "<link"} {
		if strings.Contains(text, foreign) {
			t.Errorf("%q is in the page", foreign)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "Latency by percentile", "Calls a second", "MB a second", "grpc 100/s #1 raw", "99.9 %", "&lt;b&gt;", "first byte"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	// As XML it is stricter than HTML has to be: each element ends.
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = true
	lines := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
			for _, a := range e.Attr {
				if a.Name.Local == "points" && strings.Contains(a.Value, "NaN") {
					t.Errorf("a line through %.60s", a.Value)
				}
			}
		}
	}
	if lines < 8 {
		t.Errorf("%d lines", lines)
	}
}

func TestText(t *testing.T) {
	var text strings.Builder
	if err := Text(&text, all()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"upload  JobService over grpc, 1 connection × 2 streams, 1000 B of text, closed loop, run 1\n",
		"1000 in 10s, 100/s, 5 deferred, 6 never begun, 7 ended by the end", "2 unavailable", "up 100 MB/s", "0 jobs lost",
		"latency ", "raw ", "warning     the generator", "interrupted", "medians",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

// A report that was written and read again says the same.
func TestReportSurvivesJSON(t *testing.T) {
	r := all()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again := new(measure.Report)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	var before, after strings.Builder
	if err := errors.Join(Text(&before, r), Text(&after, again)); err != nil || before.String() != after.String() {
		t.Errorf("%v\n%s\n%s", err, before.String(), after.String())
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", -1: "0", 7 * time.Microsecond: "7µs", 1234 * time.Microsecond: "1.23ms", 999_600 * time.Microsecond: "1s",
		1500 * time.Millisecond: "1.5s", 99 * time.Second: "99s", 100 * time.Second: "1m40s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}
