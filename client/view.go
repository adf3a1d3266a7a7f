package client

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A view is what a client knows of a job. It belongs to the goroutine that runs
// the job.
type view struct {
	*notifier
	id        string // empty for an ephemeral job that isn't accepted yet
	accepted  bool   // the pod has the job, or had it
	state     aipodv1.State
	committed int64 // bytes of the input that the pod has
	attempt   int32
	seq       uint64 // of the last event seen
	past      uint64 // events up to this seq were there when the stream began
	out       *sink  // nil if the output is not wanted
	pending   bool   // there is more output than what was read
	received  int64  // bytes of output on this stream
	done      *aipodv1.Done

	contact  time.Time // when the pod last gave a sign
	advances int       // how often there was progress
}

// errLost: the pod had the job and doesn't have it any more.
var errLost = errors.New("the pod has lost the job")

// take takes in an event. The error is a *JobError if the job has failed, or says
// why the stream is of no more use. After Done v.done is set.
func (v *view) take(e *aipodv1.Event, creates bool) error {
	v.contact = time.Now()
	seen := e.GetSeq() != 0 && e.GetSeq() <= v.seq
	if e.GetSeq() > v.seq {
		v.seq = e.GetSeq()
		v.advances++
	}
	history := e.GetSeq() != 0 && e.GetSeq() <= v.past
	at := e.GetTime().AsTime()
	switch e := e.GetEvent().(type) {
	case *aipodv1.Event_Accepted:
		return v.takeAccepted(e.Accepted, creates)
	case *aipodv1.Event_Heartbeat:
		if e.Heartbeat.GetState() == aipodv1.State_STATE_UNSPECIFIED {
			return nil // the pod doesn't know yet what the stream is about
		}
		return v.takeHeartbeat(e.Heartbeat, history)
	case *aipodv1.Event_Progress:
		if !seen {
			v.tell(Progress{Done: e.Progress.GetDone(), Total: e.Progress.GetTotal(), Unit: e.Progress.GetUnit(), Note: e.Progress.GetNote()})
		}
	case *aipodv1.Event_Log:
		if !seen {
			v.tell(logLine(e.Log, at))
		}
	case *aipodv1.Event_Output:
		return v.takeOutput(e.Output)
	case *aipodv1.Event_Done:
		if v.out != nil && e.Done.GetHasOutput() {
			if err := v.out.complete(e.Done); err != nil {
				// Whatever it is, it isn't the beginning of the right one.
				return errors.Join(err, v.restart("the output was damaged"))
			}
		}
		v.state, v.done = aipodv1.State_STATE_SUCCEEDED, e.Done
	case *aipodv1.Event_Failed:
		return v.failure(e.Failed)
	}
	return nil
}

func (v *view) takeAccepted(a *aipodv1.Accepted, creates bool) error {
	if creates && v.accepted && !a.GetAttached() {
		return errLost
	}
	first := !v.accepted
	v.accepted = true
	if v.id == "" {
		v.id = a.GetJobId()
	}
	v.past = a.GetLastSeq()
	v.observe(a.GetState(), a.GetCommitted())
	v.tell(Accepted{
		JobID: v.id, State: a.GetState(), Attached: a.GetAttached(), Committed: a.GetCommitted(), Attempt: int(a.GetAttempt()),
	})
	if v.out != nil {
		v.pending = a.GetOutputSize() > v.out.offset
	}
	if first {
		v.attempt = a.GetAttempt()
	}
	return v.begun(a.GetAttempt())
}

// takeHeartbeat takes in a heartbeat, which may be a change of state that Accepted
// has already told the outcome of.
func (v *view) takeHeartbeat(h *aipodv1.Heartbeat, history bool) error {
	if !history {
		v.observe(h.GetState(), h.GetCommitted())
	}
	age := time.Duration(-1)
	if h.GetWorkerAge() != nil {
		age = h.GetWorkerAge().AsDuration()
	}
	v.tell(Heartbeat{
		State: h.GetState(), QueuePosition: int(h.GetQueuePosition()), Committed: h.GetCommitted(),
		Elapsed: h.GetElapsed().AsDuration(), Progress: h.GetProgress(), WorkerAge: age, Attempt: int(h.GetAttempt()),
	})
	return v.begun(h.GetAttempt())
}

// observe takes in where the job is.
func (v *view) observe(state aipodv1.State, committed int64) {
	if state != v.state {
		v.state = state
		v.advances++
	}
	if committed > v.committed {
		v.advances++
	}
	v.committed = committed
}

// begun takes in how often the function was begun. What was read of the output of
// an earlier attempt doesn't count; the pod goes on from the first byte.
func (v *view) begun(attempt int32) error {
	if attempt <= v.attempt {
		return nil
	}
	v.attempt = attempt
	return v.restart("the function was begun again")
}

// restart makes the output start again.
func (v *view) restart(why string) error {
	if v.out == nil || v.out.offset == 0 {
		return nil
	}
	v.tell(Restarted{Why: why})
	return v.out.rewind(why)
}

func (v *view) takeOutput(c *aipodv1.Chunk) error {
	if v.out == nil {
		return nil
	}
	n, err := v.out.write(c)
	if err != nil {
		return err
	}
	// Output may come before the news that the function was begun.
	v.attempt = max(v.attempt, 1)
	v.advances++
	v.received += int64(n)
	v.count(func(s *Stats) { s.Received += int64(n) }, func(s Stats) Event {
		return Received{Offset: v.out.offset, Stats: s}
	})
	return nil
}

func (v *view) failure(f *aipodv1.Failed) error {
	v.state = aipodv1.State_STATE_FAILED
	e := &JobError{JobID: v.id, Code: connect.Code(f.GetCode()), Message: f.GetMessage()}
	for _, l := range f.GetLogTail() {
		e.Log = append(e.Log, logLine(l, time.Time{}))
	}
	return e
}

func logLine(l *aipodv1.Log, at time.Time) Log {
	return Log{Time: at, Level: slog.Level(l.GetLevel()), Line: l.GetLine()}
}

// forget is for a job that is made again.
func (v *view) forget() error {
	v.accepted, v.state, v.committed, v.attempt, v.seq, v.pending = false, aipodv1.State_STATE_UNSPECIFIED, 0, 0, 0, false
	return v.restart("the pod lost the job")
}

// result is what the job gave, once it is done.
func (v *view) result() (*Result, error) {
	r := &Result{
		JobID: v.id, JSON: v.done.GetResultJson(), HasOutput: v.done.GetHasOutput() && !v.done.GetOutputIsJson(),
		Attempt: int(v.attempt), Stats: v.snapshot(),
	}
	switch {
	case v.done.GetOutputIsJson() && len(r.JSON) == 0 && v.out != nil:
		if !v.out.json {
			return nil, fmt.Errorf("the result of the job %s came as an output, though it is JSON: update the client or the pod", v.id)
		}
		r.JSON = v.out.mem
	case r.HasOutput:
		r.OutputSize = v.done.GetOutputSize()
		if v.out != nil {
			r.Output = v.out.mem
		}
	}
	v.tell(Done{Result: r})
	return r, nil
}
