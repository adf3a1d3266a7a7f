package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
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
	Result     json.RawMessage `json:"result,omitempty"`
	HasOutput  bool            `json:"has_output,omitempty"`
	OutputJSON bool            `json:"output_json,omitempty"`
	OutputSize int64           `json:"output_size,omitempty"`
	OutputCRC  uint32          `json:"output_crc,omitempty"`
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

var errRemoved = errors.New("the job is removed")

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
		return errRemoved
	}
	j.mu.Lock()
	r := record{
		Spec: j.spec, State: j.state, Attempt: j.attempt,
		Created: j.created, Started: j.started, Ended: j.ended,
		InputSize: j.size, Input: j.data, Progress: j.progress,
	}
	if j.state == Loading {
		r.State = Queued
	}
	j.mu.Unlock()
	r.Events, r.Seq, r.Lost = j.events.recorded()
	change(&r)
	if r.State.Final() {
		r.Input = nil
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record job: %w", err)
	}
	return j.table.store.put(j.ID, value)
}
