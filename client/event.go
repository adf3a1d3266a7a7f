package client

import (
	"log/slog"
	"sync"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// An Event is something that happened on the way to a job's end. It is one of the
// types below, which all are structs.
type Event interface{ event() }

type (
	// Connecting: a stream begins, or a request in its place.
	Connecting struct {
		Stream int  // counts from 1
		Watch  bool // to follow the job only, not to send
	}
	// Accepted: the pod has the job. It comes once for each stream.
	Accepted struct {
		JobID     string
		State     aipodv1.State
		Attached  bool  // the job was there before
		Committed int64 // bytes of the input that are there
		Attempt   int   // how often the function was begun
	}
	// Reconnecting: a stream has ended without the job's end, and another one
	// begins after a pause.
	Reconnecting struct {
		Failures int // since there was progress
		Pause    time.Duration
		Why      error
		Refused  bool // the pod has no room at present, and said when to come again
	}
	// Heartbeat: the pod says how the job is.
	Heartbeat struct {
		State         aipodv1.State
		QueuePosition int               // 0 if it isn't queued
		Committed     int64             // bytes of the input that are there
		Elapsed       time.Duration     // since the job was made
		Progress      *aipodv1.Progress // nil if the function has said nothing
		WorkerAge     time.Duration     // since the function showed life; -1 if it doesn't run
		Attempt       int
	}
	// Progress: the function says how far it is.
	Progress struct {
		Done, Total int64 // in units; Total is 0 if it isn't known
		Unit, Note  string
	}
	// Log: the function says something.
	Log struct {
		Time  time.Time // zero in JobError.Log
		Level slog.Level
		Line  string
	}
	// Sent: a chunk of the payload was put on a stream.
	Sent struct {
		Offset int64 // behind it, in bytes of the payload
		Size   int64 // of the payload; -1 if it isn't known
		Stats  Stats
	}
	// Received: a chunk of the output has come.
	Received struct {
		Offset int64 // behind it, in bytes of the output
		Stats  Stats
	}
	// Uploaded: all of the input was put on the stream.
	Uploaded struct{ Size int64 }
	// Superseded: someone else sends the input of this job now, which is watched.
	Superseded struct{}
	// Resumed: whoever superseded this client stopped, and sending goes on.
	Resumed struct{}
	// Restarted: the output starts again from its first byte.
	Restarted struct{ Why string }
	// Lost: the pod doesn't have the job any more, and it is made again.
	Lost struct{ JobID string }
	// HalfDuplex: a proxy holds back streams, and single requests are used instead.
	HalfDuplex struct {
		JobID   string
		Polling bool // even answers are held back: the client asks again and again
	}
	// Done: the job has succeeded.
	Done struct{ Result *Result }
)

func (Connecting) event()   {}
func (Accepted) event()     {}
func (Reconnecting) event() {}
func (Heartbeat) event()    {}
func (Progress) event()     {}
func (Log) event()          {}
func (Sent) event()         {}
func (Received) event()     {}
func (Uploaded) event()     {}
func (Superseded) event()   {}
func (Resumed) event()      {}
func (Restarted) event()    {}
func (Lost) event()         {}
func (HalfDuplex) event()   {}
func (Done) event()         {}

// A notifier tells a caller of events, one at a time, and counts.
type notifier struct {
	mu    sync.Mutex
	watch func(Event) // or nil
	stats Stats
}

func (n *notifier) tell(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watch != nil {
		n.watch(e)
	}
}

// count changes the statistics and tells of the event made from them.
func (n *notifier) count(change func(*Stats), event func(Stats) Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.stats)
	if n.watch != nil {
		n.watch(event(n.stats))
	}
}

func (n *notifier) snapshot() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}
