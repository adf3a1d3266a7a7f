package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A status is what is known of a job from what has happened to it.
type status struct {
	start time.Time // of the command
	job   string    // its id, once the pod has it
	state aipodv1.State
	since time.Time // when the state began, as seen from here

	position  int   // in the queue, from 1; 0 if that isn't known
	attempt   int   // how often the function was begun
	size      int64 // bytes of payload; -1 if unknown, 0 also if this command sends none
	sent      int64 // of those, put on a stream
	fresh     bool  // nothing was put on the stream that there is
	committed int64 // bytes of payload that the pod has
	single    bool  // they go in single requests, whose answers are no events
	uploaded  bool  // all of it was put on a stream
	received  int64 // bytes of output
	work      *client.Progress
	other     bool // another client sends the input

	beats    int
	lastSeen time.Time // when the pod gave the last sign; zero is never

	trouble error     // why there is no connection, or no room; nil if there is
	refused bool      // it is that the pod has no room
	broken  time.Time // since when
	retry   time.Time // when the next attempt begins
}

// take takes in an event.
func (s *status) take(e client.Event, now time.Time) {
	switch e := e.(type) {
	case client.Connecting:
		s.fresh = true
	case client.Accepted:
		s.seen(now)
		s.job, s.committed, s.other = e.JobID, e.Committed, false
		if s.fresh {
			s.sent, s.uploaded = e.Committed, false
		}
		s.enter(e.State, now)
		s.attempt = max(s.attempt, e.Attempt)
	case client.Reconnecting:
		if s.trouble == nil {
			s.broken = now
		}
		s.trouble, s.refused, s.retry = e.Why, e.Refused, now.Add(e.Pause)
	case client.Heartbeat:
		s.seen(now)
		s.beats++
		s.enter(e.State, now)
		if s.committed < s.sent && e.Committed >= s.sent {
			s.since = now // begins to store it
		}
		s.position, s.committed = e.QueuePosition, e.Committed
		s.attempt = max(s.attempt, e.Attempt)
		if p := e.Progress; p != nil {
			s.work = &client.Progress{Done: p.GetDone(), Total: p.GetTotal(), Unit: p.GetUnit(), Note: p.GetNote()}
		}
	case client.Progress:
		s.seen(now)
		s.work = &e
	case client.Log:
		s.seen(now)
	case client.Sent:
		s.sent, s.fresh = e.Offset, false
	case client.Uploaded:
		s.uploaded, s.fresh, s.since = true, false, now
	case client.Received:
		s.seen(now)
		s.received = e.Offset
	case client.HalfDuplex:
		s.single = true
	case client.Superseded:
		s.other = true
	case client.Resumed:
		s.other = false
	case client.Restarted:
		s.received = 0
	case client.Lost:
		s.enter(aipodv1.State_STATE_UNSPECIFIED, now)
		s.sent, s.committed, s.received, s.attempt, s.uploaded, s.work = 0, 0, 0, 0, false, nil
	case client.Done:
		s.seen(now)
		s.enter(aipodv1.State_STATE_SUCCEEDED, now)
	}
}

func (s *status) seen(now time.Time) { s.lastSeen, s.trouble = now, nil }

func (s *status) enter(state aipodv1.State, now time.Time) {
	if state != s.state || s.since.IsZero() {
		s.state, s.since, s.position = state, now, 0
	}
}

// arrived says that the pod has all of the payload. What speaks ai.AI never hears
// of a state.
func (s *status) arrived() bool {
	return s.size == 0 || s.state > aipodv1.State_STATE_RECEIVING || s.state == aipodv1.State_STATE_UNSPECIFIED && s.uploaded
}

// there is how much of the payload the pod has, in bytes. What was sent on a stream
// may be on its way for long, but what speaks ai.AI knows no more, and a single
// request is not much.
func (s *status) there(legacy bool) int64 {
	if legacy || s.single || s.arrived() {
		return max(s.sent, s.committed)
	}
	return s.committed
}

// uploading says that nothing is to be told of but the payload, which is on its
// way.
func (s *status) uploading(legacy bool) bool {
	under := !s.uploaded || s.there(legacy) < s.sent
	return under && !s.other && s.trouble == nil
}

// text is what the job does now, for people; it has no line end.
func (s *status) text() string {
	switch s.state {
	case aipodv1.State_STATE_RECEIVING:
		switch {
		case s.other:
			return "another client sends the input, " + bytesText(s.committed) + " are there"
		case s.uploaded && s.committed >= s.sent:
			return "the pod stores the input"
		}
		return "the input arrives, " + bytesText(s.committed) + " are there"
	case aipodv1.State_STATE_QUEUED:
		if s.position > 0 {
			return fmt.Sprintf("queued (position %d)", s.position)
		}
		return "queued"
	case aipodv1.State_STATE_LOADING:
		return "loading the model"
	case aipodv1.State_STATE_SUCCEEDED:
		return "done"
	case aipodv1.State_STATE_FAILED:
		return "failed"
	case aipodv1.State_STATE_CANCELED:
		return "canceled"
	}
	if s.attempt > 1 {
		return fmt.Sprintf("running (attempt %d)", s.attempt)
	}
	return "running"
}

// progressText is how far a function says it is; empty if it says nothing.
func progressText(done, total int64, unit, note string) string {
	var text string
	switch {
	case total > 0 && unit == "bytes":
		text = bytesText(done) + "/" + bytesText(total)
	case unit == "bytes":
		text = bytesText(done)
	case total > 0:
		text = fmt.Sprintf("%d/%d", done, total)
	case done > 0:
		text = fmt.Sprint(done)
	}
	if text != "" && unit != "" && unit != "bytes" {
		text += " " + unit
	}
	if note != "" {
		if text != "" {
			text += ", "
		}
		text += note
	}
	return printable(text)
}

// stateName is a state as people write it: running.
func stateName(s aipodv1.State) string { return stateNames[s] }

var stateNames = map[aipodv1.State]string{
	aipodv1.State_STATE_UNSPECIFIED: "unknown",
	aipodv1.State_STATE_RECEIVING:   "receiving",
	aipodv1.State_STATE_QUEUED:      "queued",
	aipodv1.State_STATE_LOADING:     "loading",
	aipodv1.State_STATE_RUNNING:     "running",
	aipodv1.State_STATE_SUCCEEDED:   "succeeded",
	aipodv1.State_STATE_FAILED:      "failed",
	aipodv1.State_STATE_CANCELED:    "canceled",
}

// A tracker keeps the status of a job and shows what happens to it. Any goroutine
// may use it.
type tracker struct {
	order sync.Mutex // one event after the other
	view  view

	mu sync.Mutex // guards status
	st status
}

// track starts to show a job; close ends it. size is the payload's.
func (a *app) track(how showing) *tracker {
	t := &tracker{st: status{start: time.Now(), size: how.size, fresh: true}}
	t.view = a.newView(t, how)
	return t
}

// status is what is known now.
func (t *tracker) status() status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.st
}

// watch takes an event.
func (t *tracker) watch(e client.Event) {
	t.order.Lock()
	defer t.order.Unlock()
	t.mu.Lock()
	before := t.st
	t.st.take(e, time.Now())
	after := t.st
	t.mu.Unlock()
	t.view.event(e, &before, &after)
}

// close ends the showing. What happens afterwards is not shown.
func (t *tracker) close() { t.view.close() }
