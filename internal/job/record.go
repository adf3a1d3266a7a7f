package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aipod/aipod/internal/spool"
)

// A record is what the store has of a durable job.
type record struct {
	Spec    Spec      `json:"spec"`
	State   State     `json:"state"`
	Attempt int       `json:"attempt,omitempty"` // how often the function was begun
	Created time.Time `json:"created"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`

	// Once the input is closed, its size; and itself if it is small.
	InputSize int64  `json:"input_size"`
	Input     []byte `json:"input,omitempty"`

	// Once Succeeded.
	Result     []byte `json:"result,omitempty"` // JSON, to the byte
	HasOutput  bool   `json:"has_output,omitempty"`
	OutputJSON bool   `json:"output_json,omitempty"`
	OutputSize int64  `json:"output_size,omitempty"`
	OutputCRC  uint32 `json:"output_crc,omitempty"`
	// Once Failed or Canceled.
	Failure *ExplainedError `json:"failure,omitempty"`

	Progress *Progress `json:"progress,omitempty"`
	Events   []Event   `json:"events,omitempty"`
	Seq      uint64    `json:"seq"`            // of the newest event
	Lost     uint64    `json:"lost,omitempty"` // of the newest that isn't kept
}

// An ExplainedError is why a job has not succeeded, as its callers are told. It is the
// error of a job whose end an earlier process has recorded.
type ExplainedError struct {
	Code    uint32 `json:"code"` // of google.rpc.Code
	Message string `json:"message"`
}

func (f *ExplainedError) Error() string { return f.Message }

func (r *record) check() error {
	switch {
	case r.Spec.Func == "":
		return errors.New("it names no function")
	case r.State.Final() && r.State != Succeeded && r.Failure == nil:
		return fmt.Errorf("it is %v without a reason", r.State)
	case r.State != Receiving && !r.State.Final() && r.InputSize < 0:
		return fmt.Errorf("it is %v without an input", r.State)
	}
	return nil
}

func decodeRecord(value []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(value, r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// errEnded refuses a record of a job that is removed, or of a state before the
// end when that is settled.
var errEnded = fmt.Errorf("the job has ended: %w", spool.ErrClosed)

// record writes what change makes of the job's record. Records of one job are
// written in turn.
func (j *Job) record(change func(*record)) error {
	j.recording.Lock()
	defer j.recording.Unlock()
	return j.recordLocked(change)
}

// recordLocked needs recording.
func (j *Job) recordLocked(change func(*record)) error {
	if j.removed {
		return errEnded
	}
	j.mu.Lock()
	r := record{
		Spec: j.spec, State: j.state, Attempt: j.attempt,
		Created: j.created, Started: j.started, Ended: j.ended,
		InputSize: j.size, Input: j.data, Progress: j.progress,
	}
	ending := j.ending
	j.mu.Unlock()
	r.Events, r.Seq, r.Lost = j.events.recorded()
	change(&r)
	switch {
	case r.State.Final():
		r.Input = nil
	case ending:
		return errEnded
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record job: %w", err)
	}
	return j.table.store.put(j.ID, value)
}

// restore makes a job of its record. It has yet to be resumed.
func (t *Table) restore(id string, r *record) (*Job, error) {
	j := t.newJob(id, r.Spec, true)
	j.created, j.started, j.ended, j.attempt = r.Created, r.Started, r.Ended, r.Attempt
	j.state, j.data, j.progress = r.State, r.Input, r.Progress
	j.events = restoreEventLog(t.cfg.EventTail, r)
	if r.State == Receiving {
		j.in.(*fileInput).adopt()
	} else {
		j.size = r.InputSize
	}
	if r.State.Final() && r.HasOutput {
		blob, err := t.cfg.Spool.OpenSealed(j.outputName())
		if err != nil {
			return nil, fmt.Errorf("its output: %w", err)
		}
		if blob.Size() != r.OutputSize {
			return nil, fmt.Errorf("its output has %d bytes, not %d", blob.Size(), r.OutputSize)
		}
		j.out = &Output{Attempt: r.Attempt, JSON: r.OutputJSON, blob: blob, crc: r.OutputCRC}
	}
	// The event of a state comes after its record, and is not in it.
	event := Event{State: r.State, Time: r.Ended}
	if r.State == Running {
		event.Time = r.Started
	}
	j.events.add(event)
	switch {
	case r.State == Receiving:
	case !r.State.Final():
		j.state = Queued
	default:
		j.ending = true
		j.result = Result{JSON: r.Result, Output: j.out}
		if r.Failure != nil {
			j.err = r.Failure
		}
		j.cancel(nil)
		close(j.done)
	}
	return j, nil
}

// restoredInput is the input of a job that an earlier process has queued.
func (j *Job) restoredInput() (*spool.Blob, error) {
	j.mu.Lock()
	data, size := j.data, j.size
	j.mu.Unlock()
	if size <= recordedInput {
		if int64(len(data)) != size {
			return nil, fmt.Errorf("%d of %d bytes are there", len(data), size)
		}
		return memoryBlob(j.table.cfg.Spool, data)
	}
	blob, err := j.table.cfg.Spool.OpenSealed(j.inputName())
	if err == nil && blob.Size() != size {
		err = fmt.Errorf("%d of %d bytes are there", blob.Size(), size)
	}
	return blob, err
}
