package doctor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
)

// A Level says how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"      // a fact, as it should be
	Note    Level = "note"    // a fact that some callers have to know
	Problem Level = "problem" // something that costs calls, time or bytes
)

// A Kind says what a finding is about.
type Kind string

// The kinds, in the order of the report.
const (
	Protocols         Kind = "protocols"
	Health            Kind = "health"
	Sticky            Kind = "sticky"
	Unprobed          Kind = "unprobed"
	IdleTimeout       Kind = "idle-timeout"
	UploadIdleTimeout Kind = "upload-idle-timeout"
	TimeLimit         Kind = "time-limit"
	UploadTimeLimit   Kind = "upload-time-limit"
	Unstable          Kind = "unstable"
	RequestBuffering  Kind = "request-buffering"
	ResponseBuffering Kind = "response-buffering"
	HalfDuplex        Kind = "half-duplex"
	MessageLimit      Kind = "message-limit"
	UploadLimit       Kind = "upload-limit"
	RTT               Kind = "rtt"
	Settings          Kind = "http2-settings"
	Streams           Kind = "http2-streams"
	Window            Kind = "http2-window"
	Pings             Kind = "http2-pings"
	Goaway            Kind = "http2-goaway"
)

var kinds = []Kind{
	Protocols, Health, Sticky, Unprobed, IdleTimeout, UploadIdleTimeout, TimeLimit, UploadTimeLimit, Unstable,
	RequestBuffering, ResponseBuffering, HalfDuplex, MessageLimit, UploadLimit, RTT, Settings, Streams, Window, Pings, Goaway,
}

// A Finding is one thing that was found out.
type Finding struct {
	Level Level `json:"level"`
	Kind  Kind  `json:"kind"`
	// Over is the HTTP version, "h2" or "http/1.1"; empty if it is about both.
	Over string `json:"over,omitempty"`
	// Text is what was found, a line for people.
	Text string `json:"text"`
	// Value is the number in it, and Unit what it counts: s, ms, bytes, messages,
	// pings or requests.
	Value float64 `json:"value,omitempty"`
	Unit  string  `json:"unit,omitempty"`
	// Facts are further numbers by name; the names end with their unit.
	Facts map[string]float64 `json:"facts,omitempty"`
	// Costs says what the user has of it. The others are the line that mends it,
	// or where to look. All are empty when there is nothing to mend.
	Costs   string `json:"costs,omitempty"`
	Nginx   string `json:"nginx,omitempty"`
	HAProxy string `json:"haproxy,omitempty"`
	Envoy   string `json:"envoy,omitempty"`
}

// Problems counts the findings that are problems.
func Problems(all []Finding) int {
	n := 0
	for _, f := range all {
		if f.Level == Problem {
			n++
		}
	}
	return n
}

// findings collects what the probes find. Any goroutine may use it.
type findings struct {
	mu  sync.Mutex
	all []Finding // guarded by mu
}

// add takes a finding and gives advice with it, unless all is well. limit is put
// into the advice.
func (s *findings) add(f Finding, limit string) {
	if f.Level != OK {
		a := advices[f.Kind]
		f.Costs = strings.ReplaceAll(a.costs, "{limit}", limit)
		f.Nginx, f.HAProxy, f.Envoy = a.nginx, a.haproxy, a.envoy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, f)
}

// sorted are all findings in the order of the report.
func (s *findings) sorted() []Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.all)
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), strings.Compare(a.Over, b.Over))
	})
	return all
}

// seconds is a duration for people: 0.25 s, 3.0 s, 42 s.
func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 1:
		return fmt.Sprintf("%.2f s", s)
	case s < 20:
		return fmt.Sprintf("%.1f s", s)
	default:
		return fmt.Sprintf("%.0f s", s)
	}
}

// millis is a duration for people, in ms with two digits that count.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms >= 10 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// rate is bytes per second for people.
func rate(bytesPerSecond float64) string {
	return size(int64(math.Min(bytesPerSecond, 1<<60))) + "/s"
}
