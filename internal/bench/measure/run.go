package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// A Run is one measurement: one protocol, one rate.
type Run struct {
	Protocol string    `json:"protocol"`
	Repeat   int       `json:"repeat"`        // counts from 1
	Rate     float64   `json:"rps,omitempty"` // calls per second that were intended; 0 is a closed loop
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"` // until the last call had ended

	Calls       int64             `json:"calls"`              // that succeeded
	Errors      map[string]int64  `json:"errors"`             // by code
	Details     map[string]string `json:"details,omitempty"`  // an error's text, by code
	Canceled    int64             `json:"canceled,omitempty"` // still going on at the end, neither good nor bad
	Deferred    int64             `json:"deferred,omitempty"` // started late because all streams were busy
	Unsent      int64             `json:"unsent,omitempty"`   // never started, for the same reason
	Beats       int64             `json:"beats,omitempty"`    // heartbeats
	MissedBeats int64             `json:"missed_beats,omitempty"`
	Sent        int64             `json:"sent"`     // bytes of payload
	Received    int64             `json:"received"` // bytes of output

	// Latency is from the intended start of a call to its end, Raw from its real
	// start; without a schedule Latency is what Raw would be.
	Latency   *Histogram `json:"latency,omitempty"`
	Raw       *Histogram `json:"latency_raw,omitempty"`
	FirstByte *Histogram `json:"first_byte,omitempty"` // to the first message, from the real start
	FirstBeat *Histogram `json:"first_beat,omitempty"` // to the first heartbeat, from the real start
	Lateness  *Histogram `json:"lateness,omitempty"`   // of heartbeats
	Silence   *Histogram `json:"silence,omitempty"`    // between messages
	Lag       *Histogram `json:"lag,omitempty"`        // of starts, though a stream was free

	Cuts *Cuts  `json:"cuts,omitempty"`
	Self Usage  `json:"self"`
	Pod  *Usage `json:"pod,omitempty"` // nil if it isn't on this machine

	Timeline    []Point  `json:"timeline"`
	Warnings    []string `json:"warnings,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`
}

// Cuts are what became of jobs whose connections were cut.
type Cuts struct {
	Cut       int64 `json:"cut"`       // connections
	Lost      int64 `json:"lost"`      // jobs that failed, or that the pod forgot
	Reconnect int64 `json:"reconnect"` // times that the client began again
	Resent    int64 `json:"resent"`    // bytes of payload that were sent more than once
	Wire      int64 `json:"wire"`      // bytes on the connections, both ways
}

// Failed is how many calls failed.
func (r *Run) Failed() int64 {
	var n int64
	for _, k := range r.Errors {
		n += k
	}
	return n
}

// PerSecond is how many calls succeeded per second.
func (r *Run) PerSecond() float64 { return perSecond(float64(r.Calls), r.Seconds) }

// Up and Down are in MB/s, of 1e6 bytes of payload and output.
func (r *Run) Up() float64 { return perSecond(float64(r.Sent)/1e6, r.Seconds) }

// Down is that of the output.
func (r *Run) Down() float64 { return perSecond(float64(r.Received)/1e6, r.Seconds) }

func perSecond(n, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return n / seconds
}

// A Report is all that a command has measured.
type Report struct {
	Format  int            `json:"format"` // of this JSON: 1
	Config  map[string]any `json:"config"` // what was asked for
	Machine Machine        `json:"machine"`
	Runs    []*Run         `json:"runs"`
}

// Format is the version of a Report's JSON form.
const Format = 1

// Scenario is what was run.
func (r *Report) Scenario() string {
	s, _ := r.Config["scenario"].(string)
	return s
}

// Interrupted says that it isn't complete.
func (r *Report) Interrupted() bool {
	return len(r.Runs) > 0 && r.Runs[len(r.Runs)-1].Interrupted
}

// ReadReport reads a Report that was written as JSON.
func ReadReport(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is not a report of client bench: %w", path, err)
	}
	switch {
	case r.Format != Format:
		return nil, fmt.Errorf("%s has the format %d, not %d: measure again", path, r.Format, Format)
	case len(r.Runs) == 0:
		return nil, errors.New(path + " has no runs")
	}
	return r, nil
}
