package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// A State is where a job is in its life.
type State int

// The states of a job. The last three are final.
const (
	Receiving State = iota // its input is arriving
	Queued                 // waits for a slot
	Loading                // waits for its version to be loaded
	Running
	Succeeded
	Failed
	Canceled
)

var stateNames = [...]string{"RECEIVING", "QUEUED", "LOADING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"}

func (s State) String() string { return stateNames[s] }

// Final says whether the state is the last.
func (s State) Final() bool { return s >= Succeeded }

// A Job is one call's life: input, events, output and end. Its methods are safe
// for concurrent use, except that the input belongs to one goroutine.
type Job struct {
	ID   string
	Func string

	table  *Table
	log    *slog.Logger
	input  *spool.Writer
	ctx    context.Context //nolint:containedctx // the job's life: it ends with the job and is never a stream's
	cancel context.CancelCauseFunc
	events *eventLog
	done   chan struct{} // closed when the state is final
	begun  time.Time

	mu     sync.Mutex
	state  State
	result Result // once Succeeded
	err    error  // once Failed or Canceled
}

// A Result is what a function gave: a JSON value, or an output when it wrote
// one.
type Result struct {
	JSON   json.RawMessage
	Output *spool.Blob // nil unless the function wrote an output; freed by Job.Close
}

// Input takes the payload. Its bytes count as received as they are written.
func (j *Job) Input() *spool.Writer { return j.input }

// Received is how many bytes of the payload have arrived.
func (j *Job) Received() int64 { return j.input.Size() }

// State is where the job is now.
func (j *Job) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Done is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

// Result is how the job ended; call it after Done. The error is the function's
// own, the pool's, or the cause that Cancel was given.
func (j *Job) Result() (Result, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.result, j.err
}

// Events returns the events with a sequence number over after that the bounded
// log still has, and a channel that is closed when there are more.
func (j *Job) Events(after uint64) ([]Event, <-chan struct{}) { return j.events.since(after) }

// A Spec is what a call asks for, besides its payload.
type Spec struct {
	Version  string
	Kwargs   json.RawMessage   // a JSON object without reserved keys
	Metadata map[string]string // keys in lower case
}

// Start seals the input and lets the job run. It is called once, by the
// goroutine that wrote the input.
func (j *Job) Start(spec Spec) error {
	blob, err := j.input.Seal()
	if err != nil {
		return err
	}
	j.mu.Lock()
	if j.state.Final() {
		err := j.err
		j.mu.Unlock()
		return errors.Join(err, blob.Remove())
	}
	j.table.functionStarts()
	j.mu.Unlock()
	go j.run(spec, blob)
	return nil
}

func (j *Job) run(spec Spec, blob *spool.Blob) {
	defer j.table.functionEnded()
	out := &output{spool: j.table.cfg.Spool, limit: j.table.cfg.MaxPayload}
	value, err := j.table.cfg.Runner.Run(j.ctx, &worker.Call{
		JobID:      j.ID,
		Func:       j.Func,
		Version:    spec.Version,
		Kwargs:     spec.Kwargs,
		Metadata:   spec.Metadata,
		Input:      blob,
		Report:     reporter{j},
		OpenOutput: out.open,
	}, j.stage)
	result := Result{JSON: value}
	if err == nil {
		result.Output, err = out.seal()
	}
	if err != nil {
		err = errors.Join(err, out.discard())
	}
	// The input is freed here and not with the job: a function that ignores its
	// cancellation may still be reading it after the caller has gone.
	if rerr := blob.Remove(); rerr != nil {
		j.log.Warn("input not removed", "err", rerr)
	}
	if !j.end(result, err) && result.Output != nil {
		if err := result.Output.Remove(); err != nil {
			j.log.Warn("output not removed", "err", err)
		}
	}
}

// Cancel ends the job at once with a cause that callers see. A function that
// runs is told through its context; its slot and input are free when it
// returns.
func (j *Job) Cancel(cause error) {
	j.cancel(cause)
	j.end(Result{}, cause)
}

// Close is called once, by the owner, when it needs nothing of the job any
// more: a job that has not ended is canceled, and what it holds is freed.
func (j *Job) Close() {
	j.Cancel(context.Canceled)
	err := j.input.Discard()
	if out := j.result.Output; out != nil {
		err = errors.Join(err, out.Remove())
	}
	if err != nil {
		j.log.Warn("job not cleaned up", "err", err)
	}
	j.table.forget(j)
}

// end makes the first outcome the final one and says whether this was it.
func (j *Job) end(result Result, err error) bool {
	j.mu.Lock()
	if j.state.Final() {
		j.mu.Unlock()
		return false
	}
	switch {
	case err == nil:
		j.state, j.result = Succeeded, result
	case j.ctx.Err() != nil:
		// What a canceled function returns matters less than why it was canceled.
		j.state, j.err = Canceled, context.Cause(j.ctx)
	default:
		j.state, j.err = Failed, err
	}
	state := j.state
	j.events.add(Event{State: state})
	j.mu.Unlock()
	j.cancel(nil)
	close(j.done)
	log := j.log.With("state", state.String(), "took", time.Since(j.begun).Round(time.Millisecond).String(),
		"received", j.Received())
	if err != nil {
		log = log.With("err", err)
	}
	log.Info("job ended")
	return true
}

// stage is told by the pool how far the call has come.
func (j *Job) stage(s worker.Stage) {
	state := map[worker.Stage]State{
		worker.Queued: Queued, worker.Loading: Loading, worker.Running: Running,
	}[s]
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.state.Final() {
		j.state = state
		j.events.add(Event{State: state})
	}
}

// reporter turns a function's signs of life into events.
type reporter struct{ job *Job }

func (r reporter) Progress(done, total int64, unit, note string) {
	r.job.events.add(Event{Progress: &Progress{Done: done, Total: total, Unit: unit, Note: note}})
}

func (r reporter) Log(level slog.Level, line string) {
	r.job.log.Log(context.Background(), level, "model", "line", line)
	r.job.events.add(Event{Log: &Line{Level: level, Text: line}})
}

// output is the file that a function writes, made when it asks for it.
type output struct {
	spool *spool.Spool
	limit int64

	mu sync.Mutex
	w  *spool.Writer
}

func (o *output) open() (io.Writer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		o.w = o.spool.Create(o.limit)
	}
	return o.w, nil
}

func (o *output) seal() (*spool.Blob, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		return nil, nil //nolint:nilnil // no output is not an error
	}
	blob, err := o.w.Seal()
	if err != nil {
		return nil, fmt.Errorf("seal output: %w", err)
	}
	return blob, nil
}

func (o *output) discard() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		return nil
	}
	return o.w.Discard()
}
