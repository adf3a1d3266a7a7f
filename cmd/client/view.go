package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A view shows what happens to a job to whoever waits for it.
type view interface {
	// event shows an event, with what was known before and after. It must not block
	// for long, and not call the tracker's watch.
	event(e client.Event, before, after *status)
	// close ends the showing. Events may still come, and further calls of close do
	// nothing.
	close()
}

// showing says what to show, and how.
type showing struct {
	fn        string // empty for a job that this command didn't make
	size      int64  // of the payload: as in status
	heartbeat time.Duration
	legacy    bool // ai.AI: the pod says no more than that it lives
	json      bool
}

// newView is JSON lines if asked for, else a display for a terminal, else lines, of
// which there are few.
func (a *app) newView(t *tracker, how showing) view {
	n := &narrator{fn: how.fn, legacy: how.legacy, verbose: a.verbose}
	switch {
	case how.json:
		return newEventView(a.stdout, t, how, &plainView{out: a.stderr, narrator: n})
	case a.terminal(a.stderr):
		n.live = true
		return newTerminalView(a.stderr, t, how, n, look{color: a.color(), dumb: a.dumb()})
	}
	return &plainView{out: a.stderr, narrator: n}
}

// A plainView is for pipes and logs: lines on stderr.
type plainView struct {
	out      io.Writer
	narrator *narrator
}

func (v *plainView) close() {}

func (v *plainView) event(e client.Event, before, after *status) {
	for _, line := range v.narrator.lines(e, before, after, time.Now()) {
		fmt.Fprintf(v.out, "client: %s\n", line)
	}
}

// patience is how long nothing has to happen before that is worth a line.
const patience = 5 * time.Second

// A narrator chooses what of a job's life is told in lines: what costs time, and
// with -v the rest.
type narrator struct {
	fn      string
	legacy  bool
	verbose bool
	live    bool // what lasts is shown elsewhere

	cut   bool          // this loss of the connection has been told
	slept aipodv1.State // the state whose length has been told
}

// lines tells an event.
func (n *narrator) lines(e client.Event, before, after *status, now time.Time) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	detail := func(format string, args ...any) {
		if n.verbose {
			say(format, args...)
		}
	}
	if before.trouble != nil && after.trouble == nil {
		if n.cut {
			say("connected again after %s", short(now.Sub(before.broken)))
		}
		n.cut = false
	}
	switch e := e.(type) {
	case client.Accepted:
		switch {
		case before.job != "":
			detail("attached to job %s again: %s", e.JobID, after.text())
		case n.fn == "" || e.Attached:
			detail("attached to job %s: %s", e.JobID, after.text())
		default:
			detail("the pod runs %s as job %s", n.fn, e.JobID)
		}
	case client.Reconnecting:
		n.reconnecting(e, after, say)
	case client.Log:
		detail("%s", logText(e))
	case client.Superseded:
		say("another client sends the input of this job now: waiting for it")
	case client.Resumed:
		say("the other client has stopped: sending the rest")
	case client.Restarted:
		say("the output starts again: %s", e.Why)
	case client.Lost:
		n.slept = aipodv1.State_STATE_UNSPECIFIED
		say("the pod has lost the job: sending it again")
	case client.HalfDuplex:
		if e.Polling {
			detail("a proxy holds back even answers: asking again and again")
		} else {
			detail("a proxy holds back streams: using single requests")
		}
	}
	if after.state != before.state && before.state != aipodv1.State_STATE_UNSPECIFIED {
		detail("%s", after.text())
	}
	if before.attempt > 0 && after.attempt > before.attempt {
		say("the function is begun again: attempt %d", after.attempt)
	}
	n.waiting(after, say, now)
	return lines
}

// reconnecting tells of a lost connection: once, when it takes long.
func (n *narrator) reconnecting(e client.Reconnecting, s *status, say func(string, ...any)) {
	long := s.retry.Sub(s.broken) >= patience
	switch {
	case n.verbose, n.live && s.job == "":
		say("%s; attempt %d in %s", text(e.Why), e.Failures+1, short(e.Pause))
	case n.live || n.cut || !long:
		return
	case e.Refused:
		say("the pod has no room: %s; asking again", text(e.Why))
	case s.job == "" || n.legacy:
		say("still trying: %s", text(e.Why))
	default:
		say("reconnecting: %s; nothing is lost", text(e.Why))
	}
	n.cut = true
}

// waiting tells once of each state in which nothing is done, if it takes long.
func (n *narrator) waiting(s *status, say func(string, ...any), now time.Time) {
	if n.live || s.state == n.slept || s.trouble != nil || now.Sub(s.since) < patience {
		return
	}
	switch s.state {
	case aipodv1.State_STATE_QUEUED, aipodv1.State_STATE_LOADING:
	case aipodv1.State_STATE_RECEIVING:
		if n.fn != "" {
			return // it is sent, at whatever speed
		}
	default:
		return
	}
	n.slept = s.state
	say("%s, for %s", s.text(), short(now.Sub(s.since)))
}

// logText is a line of the function's log as it is shown between others.
func logText(l client.Log) string {
	if l.Level >= slog.LevelWarn {
		return "log: " + l.Level.String() + " " + printable(l.Line)
	}
	return "log: " + printable(l.Line)
}

// printable is text that does nothing to a terminal but show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// jobError finds what the pod said of a job.
func jobError(err error) *client.JobError {
	var job *client.JobError
	_ = errors.As(err, &job)
	return job
}
