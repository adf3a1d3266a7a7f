package main

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/client"
)

// An event is a line of --json; eventHelp says which there are.
type event struct {
	Event     string          `json:"event"`
	Elapsed   float64         `json:"elapsed_s"`
	Job       string          `json:"job_id,omitempty"`
	Func      string          `json:"func,omitempty"`
	State     string          `json:"state,omitempty"`
	Position  int             `json:"queue_position,omitempty"`
	Begun     int             `json:"begun,omitempty"`     // how often the function was begun
	Attached  bool            `json:"attached,omitempty"`  // the job was there before
	Sent      *int64          `json:"sent,omitempty"`      // bytes of payload
	Committed *int64          `json:"committed,omitempty"` // bytes of payload that the pod has
	Received  *int64          `json:"received,omitempty"`  // bytes of output
	Done      *int64          `json:"done,omitempty"`      // by the function, in units
	Total     *int64          `json:"total,omitempty"`     // absent when unknown
	Unit      string          `json:"unit,omitempty"`
	Note      string          `json:"note,omitempty"`
	Level     string          `json:"level,omitempty"`       // of a log line
	Result    json.RawMessage `json:"result,omitempty"`      // absent when it went to a file
	Output    []byte          `json:"output,omitempty"`      // the same
	Size      *int64          `json:"output_size,omitempty"` // bytes; absent when there is no output
	Code      string          `json:"code,omitempty"`        // of RPC
	Message   string          `json:"message,omitempty"`
	Exit      int             `json:"exit,omitempty"`
	Attempt   int             `json:"attempt,omitempty"` // to connect, the next one
	Pause     float64         `json:"pause_s,omitempty"` // before it
}

// eventHelp documents the lines of --json.
const eventHelp = `Each line of --json is an object with "event" and "elapsed_s", and

  accepted      job_id, func, state, attached, committed: the pod has the job
  heartbeat     state, queue_position, committed, begun: the pod lives
  state         state, queue_position, begun: the job's state is another one
  progress      sent, committed, total; received: bytes of payload and output
  function      done, total, unit, note: the function says how far it is
  log           level, message: the function says something
  retry         attempt, pause_s, code, message: no connection yet
  reconnecting  the same: it is lost, the job is not
  reconnected   state, committed
  superseded    another client sends the input
  resumed       it has stopped, sending goes on
  restarted     message: the output starts again
  lost          the pod has lost the job, and it is made again
  half_duplex   a proxy holds back streams
  detached      state, committed, total: interrupted, and the job goes on
  result        job_id, result; output in base64, output_size: the end
  error         job_id, code, message, exit: the end`

// progressInterval is how often progress is printed while there is any.
const progressInterval = time.Second

// An eventView prints the events of a job as JSON lines.
type eventView struct {
	t    *tracker
	how  showing
	side *plainView // stderr

	mu   sync.Mutex // guards what follows
	out  io.Writer
	err  error // the first of out
	last [3]int64
	beat time.Time // when a heartbeat was printed last

	closing    sync.Once
	stop, done chan struct{}
}

func newEventView(out io.Writer, t *tracker, how showing, side *plainView) *eventView {
	v := &eventView{out: out, t: t, how: how, side: side, stop: make(chan struct{}), done: make(chan struct{})}
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

// progress prints how much has been transferred, if that has changed.
func (v *eventView) progress() {
	s := v.t.status()
	v.mu.Lock()
	defer v.mu.Unlock()
	now := [3]int64{s.sent, s.committed, s.received}
	if now == v.last {
		return
	}
	e := event{Event: "progress"}
	if now[0] != v.last[0] || now[1] != v.last[1] {
		e.Sent = &s.sent
		if !v.how.legacy {
			e.Committed = &s.committed
		}
		if s.size > 0 {
			e.Total = &s.size
		}
	}
	if now[2] != v.last[2] {
		e.Received = &s.received
	}
	v.last = now
	v.write(e)
}

func (v *eventView) print(e event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.write(e)
}

// write needs mu.
func (v *eventView) write(e event) {
	e.Elapsed = seconds(time.Since(v.t.status().start))
	enc := json.NewEncoder(v.out)
	enc.SetEscapeHTML(false) // leave the result as it is
	if err := enc.Encode(e); v.err == nil {
		v.err = err
	}
}

func (v *eventView) event(e client.Event, before, after *status) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.side.event(e, before, after)
	switch e := e.(type) {
	case client.Accepted:
		v.accepted(e, before, after)
	case client.Heartbeat:
		v.heartbeat(after)
	case client.Progress:
		line := event{Event: "function", Done: &e.Done, Unit: e.Unit, Note: e.Note}
		if e.Total > 0 {
			line.Total = &e.Total
		}
		v.write(line)
	case client.Log:
		v.write(event{Event: "log", Level: e.Level.String(), Message: e.Line})
	case client.Reconnecting:
		line := event{
			Event: "reconnecting", Attempt: e.Failures + 1, Pause: seconds(e.Pause),
			Code: connect.CodeOf(e.Why).String(), Message: text(e.Why),
		}
		if after.job == "" {
			line.Event = "retry"
		}
		v.write(line)
	case client.Superseded:
		v.write(event{Event: "superseded"})
	case client.Resumed:
		v.write(event{Event: "resumed"})
	case client.Restarted:
		v.write(event{Event: "restarted", Message: e.Why})
	case client.Lost:
		v.write(event{Event: "lost", Job: e.JobID})
	case client.HalfDuplex:
		v.write(event{Event: "half_duplex"})
	}
	if after.state != before.state && before.state != 0 && after.state != 0 {
		v.write(v.stateOf("state", after))
	}
}

// accepted needs mu, as what follows.
func (v *eventView) accepted(e client.Accepted, before, after *status) {
	if before.job != "" {
		line := v.stateOf("reconnected", after)
		line.Committed = &after.committed
		v.write(line)
		return
	}
	line := event{Event: "accepted", Job: e.JobID, Func: v.how.fn, Attached: e.Attached}
	if !v.how.legacy {
		line.State, line.Committed = stateName(e.State), &after.committed
	}
	v.write(line)
}

// heartbeat prints no more of them than were asked for: while the payload is
// sent, they come with each piece that the pod has stored.
func (v *eventView) heartbeat(s *status) {
	now := time.Now()
	if now.Sub(v.beat) < v.how.heartbeat*9/10 {
		return
	}
	v.beat = now
	line := v.stateOf("heartbeat", s)
	if !v.how.legacy {
		line.Committed = &s.committed
	}
	v.write(line)
}

// stateOf is an event with where the job is.
func (v *eventView) stateOf(name string, s *status) event {
	if v.how.legacy {
		return event{Event: name}
	}
	return event{Event: name, State: stateName(s.state), Position: s.position, Begun: s.attempt}
}

func (v *eventView) close() {
	v.closing.Do(func() { close(v.stop) })
	<-v.done
}

// end prints the last event, after close. It returns err, or what kept the
// events from being printed.
func (v *eventView) end(ctx context.Context, result *client.Result, err error) error {
	e := event{Event: "result", Job: v.t.status().job}
	switch {
	case err != nil:
		f := asFailure(ctx, err)
		e = event{Event: "error", Job: f.job, Code: f.codeName(), Message: f.message(), Exit: f.exit}
	case result.HasOutput:
		e.Output, e.Size = result.Output, &result.OutputSize
	default:
		e.Result = result.JSON
	}
	v.print(e)
	if err == nil && v.err != nil {
		err = failf("write the result: %w", v.err)
	}
	return err
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
