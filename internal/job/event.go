package job

import (
	"log/slog"
	"sync"
	"time"
)

// An Event is one thing that happened to a job: a change of state, progress or
// a log line, told apart by which pointer is set.
type Event struct {
	Seq      uint64    `json:"seq"` // ascending within a job, from 1, also over restarts
	Time     time.Time `json:"time"`
	State    State     `json:"state"`              // the new state when Progress and Log are nil
	Progress *Progress `json:"progress,omitempty"` // nil unless this is progress
	Log      *Line     `json:"log,omitempty"`      // nil unless this is a log line
}

// Progress is how far a function says it is.
type Progress struct {
	Done  int64  `json:"done"`            // units
	Total int64  `json:"total,omitempty"` // units; 0 means unknown
	Unit  string `json:"unit,omitempty"`
	Note  string `json:"note,omitempty"`
}

// A Line is a line of a job's log.
type Line struct {
	Level slog.Level `json:"level"`
	Text  string     `json:"text"`
}

// eventLog keeps the newest events of a job.
type eventLog struct {
	mu   sync.Mutex
	keep int     // 0 for none
	seq  uint64  // of the newest event
	lost uint64  // of the newest event that is no longer kept
	tail []Event // ascending by Seq, at most 2*keep
}

func newEventLog(keep int) *eventLog { return &eventLog{keep: keep} }

// add keeps an event under the next number, with the time of now if it has none.
func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	if l.keep == 0 {
		l.lost = l.seq
		return
	}
	e.Seq = l.seq
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(l.tail) >= 2*l.keep {
		l.lost = max(l.lost, l.tail[l.keep-1].Seq)
		n := copy(l.tail, l.tail[l.keep:])
		clear(l.tail[n:])
		l.tail = l.tail[:n]
	}
	l.tail = append(l.tail, e)
}

// drop forgets all events, and those to come.
func (l *eventLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep, l.tail, l.lost = 0, nil, l.seq
}

// since returns the kept events after a sequence number, and whether some
// between are lost.
func (l *eventLog) since(after uint64) (events []Event, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after > l.seq { // of a numbering that a crash has taken
		after, lost = 0, true
	}
	skip := len(l.tail)
	for skip > 0 && l.tail[skip-1].Seq > after {
		skip--
	}
	return append([]Event(nil), l.tail[skip:]...), lost || after < l.lost
}

// last is the number of the newest event.
func (l *eventLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// The most of a job's events that its record has: what is worth keeping over a
// restart, but not more than is written at each change of state.
const (
	recordedEvents = 64
	recordedText   = 16 << 10 // bytes of log lines and notes
)

// recorded returns the newest events for a record.
func (l *eventLog) recorded() (tail []Event, seq, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, text := len(l.tail), 0
	for from > 0 && len(l.tail)-from < recordedEvents {
		switch e := l.tail[from-1]; {
		case e.Log != nil:
			text += len(e.Log.Text)
		case e.Progress != nil:
			text += len(e.Progress.Note)
		}
		if text > recordedText {
			break
		}
		from--
	}
	lost = l.lost
	if from > 0 {
		lost = max(lost, l.tail[from-1].Seq)
	}
	return append([]Event(nil), l.tail[from:]...), l.seq, lost
}

// seqGap is by how much the numbers go on after a restart: more than can have
// been given after the last record.
const seqGap = 1 << 32

// restoreEventLog makes a log of what recorded returned. What a function has
// told since it was begun is lost.
func restoreEventLog(keep int, r *record) *eventLog {
	l := &eventLog{keep: keep, tail: r.Events, seq: r.Seq, lost: r.Lost}
	if !r.State.Final() {
		l.seq += seqGap
	}
	if r.State == Running {
		l.lost = l.seq
	}
	return l
}
