package worker

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

const (
	// maxLine is the longest line of a process's output that is kept, in bytes. What
	// is longer is cut.
	maxLine = 8 << 10
	// lineRate and lineBurst are how many lines a second a process may print, and how
	// many at once, before lines are dropped: each becomes an event of a job.
	lineRate  = 200
	lineBurst = 2000
	// tailSize is how much of the end of standard error errors quote, in bytes.
	tailSize = 2 << 10
)

// A lineWriter is an io.Writer that makes lines of what a process prints, in
// bounded memory whatever that is. It belongs to one goroutine, except for tail.
type lineWriter struct {
	emit    func(line string)
	limit   *rate.Limiter
	line    []byte // of the line that has not ended, at most maxLine bytes
	cut     int    // bytes of it that were dropped
	dropped int    // lines since the last that was emitted

	mu   sync.Mutex
	last []byte // the end of all that was kept
}

func newLineWriter(emit func(line string)) *lineWriter {
	return &lineWriter{emit: emit, limit: rate.NewLimiter(lineRate, lineBurst)}
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte{'\n'})
		keep := min(len(part), maxLine-len(w.line))
		w.line = append(w.line, part[:keep]...)
		w.cut += len(part) - keep
		if ended {
			w.end()
		}
		p = rest
	}
	return n, nil
}

// close ends the last line.
func (w *lineWriter) close() {
	if len(w.line) > 0 || w.cut > 0 {
		w.end()
	}
	if w.dropped > 0 {
		w.emit(fmt.Sprintf("… %d lines dropped, the process printed too many", w.dropped))
		w.dropped = 0
	}
}

func (w *lineWriter) end() {
	line := printable(bytes.TrimSuffix(w.line, []byte{'\r'}))
	if w.cut > 0 {
		line += fmt.Sprintf(" … %d bytes more", w.cut)
	}
	w.line, w.cut = w.line[:0], 0
	w.remember(line)
	if !w.limit.AllowN(time.Now(), 1) {
		w.dropped++
		return
	}
	if w.dropped > 0 {
		w.emit(fmt.Sprintf("… %d lines dropped, the process printed too many", w.dropped))
		w.dropped = 0
	}
	w.emit(line)
}

func (w *lineWriter) remember(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = append(append(w.last, line...), '\n')
	if over := len(w.last) - tailSize; over > 0 {
		w.last = append(w.last[:0], w.last[over:]...)
	}
}

// tail is the end of what was printed, from the start of a line if it has more
// than one.
func (w *lineWriter) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.TrimRight(string(w.last), "\n")
	if len(w.last) < tailSize {
		return text
	}
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		return rest
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// printable is a line as text that does nothing to a terminal.
func printable(line []byte) string {
	var b strings.Builder
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		if r != '\t' && !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
		line = line[n:]
	}
	return b.String()
}
