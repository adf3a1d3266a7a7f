package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

const (
	// promise is how much slower than the best fixed level adaptive sending may be.
	promise = 1.10
	// hopeless is how much slower than the best a fixed level must have been in the
	// first round not to be measured again.
	hopeless = 3
)

// levels is the order of a round; the fixed ones come first.
var levels = []client.Level{client.LevelRaw, client.LevelFastest, client.LevelDefault, client.LevelBetter, client.LevelAdaptive}

var fixed = levels[:len(levels)-1]

// A call is one payload that was sent.
type call struct {
	Seconds float64 // from Run's start to its end
	Sent    int64   // bytes of payload
	Wire    int64   // bytes that they became
}

func (c call) ratio() float64 { return float64(c.Wire) / float64(max(c.Sent, 1)) }

// A row is what was measured with one payload on one link: the calls of each
// level, by round. All levels have as many as adaptive, but for those that were
// given up after the first.
type row struct {
	link  shape
	kind  bench.Kind
	calls map[client.Level][]call
}

func (r *row) add(l client.Level, c call) {
	if r.calls == nil {
		r.calls = map[client.Level][]call{}
	}
	r.calls[l] = append(r.calls[l], c)
}

// skips tells whether a level is not worth another round.
func (r *row) skips(l client.Level) bool {
	calls := r.calls[l]
	if l == client.LevelAdaptive || len(calls) == 0 || len(r.calls[client.LevelAdaptive]) == 0 {
		return false
	}
	for _, other := range fixed {
		if c := r.calls[other]; len(c) > 0 && calls[0].Seconds > hopeless*c[0].Seconds {
			return true
		}
	}
	return false
}

func (r *row) rounds() int { return len(r.calls[client.LevelAdaptive]) }

// seconds is the median over the rounds.
func (r *row) seconds(l client.Level) float64 {
	var all []float64
	for _, c := range r.calls[l] {
		all = append(all, c.Seconds)
	}
	return median(all)
}

// median sorts all, of which there is at least one.
func median(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// best is the fixed level with the least median, of those that were not given up.
func (r *row) best() client.Level {
	var best client.Level
	for _, l := range fixed {
		if len(r.calls[l]) == r.rounds() && (best == "" || r.seconds(l) < r.seconds(best)) {
			best = l
		}
	}
	return best
}

// ratio is how long adaptive took for each second of the best fixed level: the
// median of the rounds' ratios, since a machine that others use, too, is as fast
// for both within a round only.
func (r *row) ratio() float64 {
	best := r.calls[r.best()]
	var all []float64
	for n, c := range r.calls[client.LevelAdaptive] {
		all = append(all, c.Seconds/best[n].Seconds)
	}
	return median(all)
}

// wire is what part of the payload's size adaptive sent, over all rounds.
func (r *row) wire() float64 {
	var all call
	for _, c := range r.calls[client.LevelAdaptive] {
		all.Sent += c.Sent
		all.Wire += c.Wire
	}
	return all.ratio()
}

const tableHead = "| link | payload | raw | fastest | default | better | adaptive | best fixed | adaptive / best | sent / size |\n" +
	"|---|---|--:|--:|--:|--:|--:|---|--:|--:|\n"

// String is a line of a Markdown table.
func (r row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |", r.link, r.kind)
	for _, l := range levels {
		mark := ""
		if len(r.calls[l]) < r.rounds() {
			mark = " ¹"
		}
		fmt.Fprintf(&b, " %.2f%s |", r.seconds(l), mark)
	}
	ratio := fmt.Sprintf("%.2f", r.ratio())
	if r.ratio() > promise {
		ratio = fmt.Sprintf("**%.3f**", r.ratio())
	}
	fmt.Fprintf(&b, " %s | %s | %.3f |\n", r.best(), ratio, r.wire())
	return b.String()
}
