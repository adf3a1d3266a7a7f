package main

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// An event is a line of --json.
type event struct {
	Event   string          `json:"event"` // accepted, heartbeat, progress, retry, result or error
	Elapsed float64         `json:"elapsed_s"`
	Job     string          `json:"job_id,omitempty"`
	Func    string          `json:"func,omitempty"`
	Sent    *int64          `json:"sent,omitempty"`   // bytes of payload
	Total   *int64          `json:"total,omitempty"`  // absent when unknown
	Result  json.RawMessage `json:"result,omitempty"` // absent when it went to a file
	Code    string          `json:"code,omitempty"`   // of RPC
	Message string          `json:"message,omitempty"`
	Exit    int             `json:"exit,omitempty"`
	Attempt int             `json:"attempt,omitempty"` // the next one
	Pause   float64         `json:"pause_s,omitempty"` // before it
}

// progressInterval is how often progress is printed while there is any.
const progressInterval = time.Second

// An eventView prints the events of a call as JSON lines.
type eventView struct {
	state *callState
	total int64 // bytes of payload, -1 when unknown
	start time.Time

	mu   sync.Mutex // guards what follows
	out  io.Writer
	err  error // the first of out
	last int64 // bytes of the last progress printed

	stop, done chan struct{}
}

func newEventView(out io.Writer, state *callState, total int64) *eventView {
	v := &eventView{
		out: out, state: state, total: total, start: time.Now(),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go v.run()
	return v
}

func (v *eventView) run() {
	defer close(v.done)
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			v.progress()
		case <-v.stop:
			v.progress()
			return
		}
	}
}

// progress prints how much has been sent, if that has changed.
func (v *eventView) progress() {
	sent := v.state.sent.Load()
	v.mu.Lock()
	defer v.mu.Unlock()
	if sent == v.last {
		return
	}
	v.last = sent
	e := event{Event: "progress", Sent: &sent}
	if v.total >= 0 {
		e.Total = &v.total
	}
	v.write(e)
}

func (v *eventView) print(e event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.write(e)
}

// write needs mu.
func (v *eventView) write(e event) {
	e.Elapsed = seconds(time.Since(v.start))
	enc := json.NewEncoder(v.out)
	enc.SetEscapeHTML(false) // leave the result as it is
	if err := enc.Encode(e); v.err == nil {
		v.err = err
	}
}

func (v *eventView) accepted(job, fn string) { v.print(event{Event: "accepted", Job: job, Func: fn}) }
func (v *eventView) beat()                   { v.print(event{Event: "heartbeat"}) }

func (v *eventView) retrying(next int, pause time.Duration, why error) {
	v.print(event{
		Event: "retry", Attempt: next, Pause: seconds(pause),
		Code: connect.CodeOf(why).String(), Message: text(why),
	})
}

func (v *eventView) close() {
	close(v.stop)
	<-v.done
}

// end prints the last event, after close. It returns err, or what kept the
// events from being printed.
func (v *eventView) end(ctx context.Context, result json.RawMessage, err error) error {
	e := event{Event: "result", Job: v.state.jobID(), Result: result}
	if err != nil {
		f := asFailure(ctx, err)
		e = event{Event: "error", Job: f.job, Code: f.codeName(), Message: f.message(), Exit: f.exit}
	}
	v.print(e)
	if err == nil && v.err != nil {
		err = failf("write the result: %w", v.err)
	}
	return err
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
