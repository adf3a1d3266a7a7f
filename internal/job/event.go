package job

import (
	"log/slog"
	"sync"
	"time"
)

// An Event is one thing that happened to a job: a change of state, progress or
// a log line, told apart by which pointer is set.
type Event struct {
	Seq      uint64 // ascending by one within a job, from 1
	Time     time.Time
	State    State     // the new state when Progress and Log are nil
	Progress *Progress // nil unless this is progress
	Log      *Line     // nil unless this is a log line
}

// Progress is how far a function says it is.
type Progress struct {
	Done, Total int64 // in units; total 0 means unknown
	Unit, Note  string
}

// A Line is a line of a job's log.
type Line struct {
	Level slog.Level
	Text  string
}

// eventLog keeps the newest events of a job.
type eventLog struct {
	mu   sync.Mutex
	keep int
	seq  uint64
	tail []Event // ascending by Seq, at most 2*keep
	more chan struct{}
}

func newEventLog(keep int) *eventLog {
	return &eventLog{keep: keep, more: make(chan struct{})}
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq, e.Time = l.seq, time.Now()
	if len(l.tail) >= 2*l.keep {
		n := copy(l.tail, l.tail[l.keep:])
		clear(l.tail[n:])
		l.tail = l.tail[:n]
	}
	l.tail = append(l.tail, e)
	close(l.more)
	l.more = make(chan struct{})
}

// since returns the kept events after a sequence number.
func (l *eventLog) since(after uint64) ([]Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.seq - uint64(len(l.tail)) // the sequence number before the tail
	skip := 0
	if after > first {
		skip = int(min(after-first, uint64(len(l.tail))))
	}
	return append([]Event(nil), l.tail[skip:]...), l.more
}
