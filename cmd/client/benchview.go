package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aipod/aipod/internal/bench/load"
	"github.com/aipod/aipod/internal/transport"
)

// benchLine is how often a load says how it goes where it can't redraw a line.
const benchLine = 5 * time.Second

// A benchView shows on stderr how a load goes: one line that is drawn again on a
// terminal, else a line now and then.
type benchView struct {
	a        *app
	scenario load.Scenario
	live     bool

	mu    sync.Mutex // guards what follows
	name  string
	told  time.Time
	drawn bool
	errs  int64
}

func (a *app) newBenchView(s load.Series) *benchView {
	return &benchView{a: a, scenario: s.Scenario, live: a.terminal(a.stderr) && !a.dumb()}
}

func (v *benchView) begin(protocol transport.Protocol, rate float64, repeat int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.name, v.told, v.errs = benchName(v.scenario, protocol, rate), time.Now(), 0
	if repeat > 1 {
		v.name += fmt.Sprintf(" (%d)", repeat)
	}
}

func (v *benchView) progress(p load.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.errs += p.Errors
	line := v.name + ": " + progressLine(&p, v.errs)
	if v.live {
		fmt.Fprintf(v.a.stderr, "\r\x1b[K%s", line)
		v.drawn = true
		return
	}
	if now := time.Now(); now.Sub(v.told) >= benchLine {
		v.told = now
		v.a.warn(line)
	}
}

// close takes away what was drawn.
func (v *benchView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.drawn {
		fmt.Fprint(v.a.stderr, "\r\x1b[K")
	}
}

// progressLine is a second of a load, which fits a line of most terminals.
func progressLine(p *load.Progress, errs int64) string {
	parts := []string{short(time.Duration(p.At * float64(time.Second)))}
	if p.Warmup {
		parts[0] += " warm-up"
	}
	if p.Seconds > 0 {
		parts = append(parts, fmt.Sprintf("%.0f calls/s", float64(p.Calls)/p.Seconds))
	}
	parts = append(parts, fmt.Sprintf("%d in flight", p.InFlight))
	if p.P99 > 0 {
		parts = append(parts, "p99 "+(time.Duration(p.P99)*time.Microsecond).Round(10*time.Microsecond).String())
	}
	if p.Seconds > 0 && p.Sent+p.Received > 0 {
		parts = append(parts, fmt.Sprintf("up %.1f down %.1f MB/s", float64(p.Sent)/p.Seconds/1e6, float64(p.Received)/p.Seconds/1e6))
	}
	if errs > 0 {
		parts = append(parts, count(int(errs), "error"))
	}
	return strings.Join(parts, ", ")
}
