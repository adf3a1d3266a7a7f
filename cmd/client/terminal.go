package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

const (
	// displayDelay keeps calls that are over at once from flickering.
	displayDelay = 300 * time.Millisecond
	displayTick  = 100 * time.Millisecond
	// silentIntervals is how many heartbeats have to be missing for a warning.
	silentIntervals = 3
	// lineInterval is how often a terminal that can't move its cursor gets a line.
	lineInterval = 5 * time.Second
)

// A look is what a terminal can show, and its user wants to see.
type look struct {
	color bool
	dumb  bool // it can't move its cursor
}

// A terminalView draws a bar for the upload, and a line that says what the job
// does; on a dumb terminal it prints lines, one now and then. Its goroutine alone
// draws.
type terminalView struct {
	out      io.Writer
	t        *tracker
	how      showing
	narrator *narrator
	silence  time.Duration // of the pod, that is worth a warning
	look     look

	notes      chan string
	closing    sync.Once
	stop, done chan struct{}
	amount     atomic.Value // string, beside the upload's bar, for mpb's goroutines
	speed      atomic.Value // string, on its other side
	line       atomic.Value // string, what the job does

	// Of run:
	bars   *mpb.Progress // nil before displayDelay
	upload *mpb.Bar      // nil if there is nothing to be sent
	state  *mpb.Bar      // nil while the upload's bar says it all
	silent bool          // the warning is out
	sent   meter
	got    meter
	told   time.Time // when a dumb terminal got its last line
}

func newTerminalView(out io.Writer, t *tracker, how showing, n *narrator, look look) *terminalView {
	v := &terminalView{
		out: out, t: t, how: how, narrator: n, look: look,
		silence: silentIntervals * how.heartbeat,
		notes:   make(chan string), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go v.run()
	return v
}

func (v *terminalView) event(e client.Event, before, after *status) {
	for _, line := range v.narrator.lines(e, before, after, time.Now()) {
		select {
		case v.notes <- line:
		case <-v.done:
			fmt.Fprintf(v.out, "client: %s\n", line)
		}
	}
}

func (v *terminalView) close() {
	v.closing.Do(func() { close(v.stop) })
	<-v.done
}

func (v *terminalView) run() {
	defer close(v.done)
	ticker := time.NewTicker(displayTick)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			v.tick(now)
		case note := <-v.notes:
			v.note(note)
		case <-v.stop:
			v.tick(time.Now())
			v.clear()
			return
		}
	}
}

// note prints a line above the bars.
func (v *terminalView) note(line string) {
	out := v.out
	if v.bars != nil {
		out = v.bars
	}
	fmt.Fprintf(out, "client: %s\n", line)
}

func (v *terminalView) tick(now time.Time) {
	s := v.t.status()
	if v.how.legacy {
		v.watchSilence(&s, now)
	}
	if v.look.dumb {
		v.tell(&s, now)
		return
	}
	if v.bars == nil {
		if now.Sub(s.start) < displayDelay {
			return
		}
		// That out is a terminal has been decided; it need not be a file.
		v.bars = mpb.New(mpb.WithOutput(v.out), mpb.WithAutoRefresh(), mpb.ForceTTY(), mpb.WithRefreshRate(displayTick))
	}
	v.tickUpload(&s, now)
	v.got.add(s.received, now)
	v.line.Store(" " + v.describe(&s, now))
	busy := v.upload != nil && s.uploading(v.how.legacy)
	switch {
	case busy && v.state != nil:
		v.state.Abort(true)
		v.state = nil
	case !busy && v.state == nil:
		v.state = v.bars.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(1), mpb.BarFillerTrim(), mpb.BarRemoveOnComplete(),
			mpb.BarPriority(1), mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return v.line.Load().(string) })))
	}
}

// tell prints where the job is, now and then.
func (v *terminalView) tell(s *status, now time.Time) {
	v.sent.add(s.there(v.how.legacy), now)
	v.got.add(s.received, now)
	if v.told.IsZero() {
		v.told = s.start
	}
	if now.Sub(v.told) < lineInterval {
		return
	}
	v.told = now
	if !s.arrived() && s.uploading(v.how.legacy) {
		v.note("upload " + amount(s.there(v.how.legacy), s.size) + ", " + v.sent.text(s.size))
		return
	}
	v.note(v.describe(s, now))
}

// tickUpload updates the upload's bar and what is beside it. A job that is made
// again gets a new one.
func (v *terminalView) tickUpload(s *status, now time.Time) {
	if v.upload == nil {
		if s.arrived() {
			return
		}
		v.sent = meter{}
		v.drawUpload(s.size)
	}
	size := s.size
	if s.uploaded {
		size = s.sent
	}
	there := s.there(v.how.legacy)
	v.sent.add(there, now)
	v.upload.SetCurrent(there)
	v.amount.Store("upload " + amount(there, s.size) + " ")
	v.speed.Store(" " + v.sent.text(size))
	if s.arrived() {
		v.upload.SetTotal(-1, true)
		v.upload = nil
	}
}

func (v *terminalView) drawUpload(size int64) {
	style := mpb.BarFillerBuilder(mpb.BarStyle())
	if size < 0 {
		style = mpb.SpinnerStyle().PositionLeft()
	}
	// The total is set later, so that the bar is complete when the pod has it all,
	// not when the last byte was read.
	options := []mpb.BarOption{
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return v.amount.Load().(string) })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return v.speed.Load().(string) })),
	}
	if size < 0 {
		options = append(options, mpb.BarWidth(1), mpb.BarFillerClearOnComplete())
	}
	v.amount.Store("upload ")
	v.speed.Store("")
	v.upload = v.bars.New(0, style, options...)
	if size > 0 {
		v.upload.SetTotal(size, false)
	}
}

// clear leaves the upload's bar behind and takes the rest away.
func (v *terminalView) clear() {
	if v.bars == nil {
		return
	}
	if v.state != nil {
		v.state.Abort(true)
	}
	if v.upload != nil {
		v.upload.Abort(false)
	}
	v.bars.Wait()
}

// watchSilence warns once for each silence. Only ai.AI needs it: with JobService
// the client connects again.
func (v *terminalView) watchSilence(s *status, now time.Time) {
	if s.lastSeen.IsZero() {
		return
	}
	since := now.Sub(s.lastSeen)
	switch {
	case since > v.silence && !v.silent:
		v.silent = true
		v.note(v.warn(fmt.Sprintf("no sign of life from the pod for %s; still waiting", short(since))))
	case since <= v.silence && v.silent:
		v.silent = false
		v.note("the pod is back")
	}
}

// describe is what the job does, and how long that has been so.
func (v *terminalView) describe(s *status, now time.Time) string {
	switch {
	case s.trouble != nil:
		return v.warn(v.troubleText(s, now))
	case s.lastSeen.IsZero():
		return "waiting for the pod " + short(now.Sub(s.start))
	case s.state == aipodv1.State_STATE_UNSPECIFIED:
		return s.text() + " " + short(now.Sub(s.start)) + v.lastSign(s, now)
	}
	line := s.text() + " " + short(now.Sub(s.since))
	if s.state == aipodv1.State_STATE_RUNNING && s.work != nil {
		if work := progressText(s.work.Done, s.work.Total, s.work.Unit, s.work.Note); work != "" {
			line += ", " + work
		}
	}
	if s.received > 0 {
		line += ", output " + bytesText(s.received) + " at " + v.got.text(-1)
	}
	return line + v.lastSign(s, now)
}

func (v *terminalView) lastSign(s *status, now time.Time) string {
	since := now.Sub(s.lastSeen)
	line := "last sign of life " + short(since) + " ago"
	if since > v.silence {
		line = v.warn(line)
	}
	return ", " + line
}

// troubleText says why there is no connection, and what becomes of the job.
func (v *terminalView) troubleText(s *status, now time.Time) string {
	next := ""
	if left := s.retry.Sub(now); left >= time.Second {
		next = ", next attempt in " + short(left)
	}
	why, since := printable(text(s.trouble)), short(now.Sub(s.broken))
	switch {
	case s.refused:
		return "no room " + since + ": " + why + next
	case s.job == "":
		return "connecting " + since + ": " + why + next
	case v.how.legacy:
		return "reconnecting " + since + ": " + why + next
	}
	return "reconnecting " + since + ": " + why + "; nothing is lost" + next
}

func (v *terminalView) warn(text string) string {
	if !v.look.color {
		return text
	}
	return "\x1b[33m" + text + "\x1b[0m"
}

// short is a duration for people: 0.4s, 12s, 3m20s.
func short(d time.Duration) string {
	d = max(d, 0)
	if d < 9950*time.Millisecond {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// amount is how much of a size; the size may be unknown.
func amount(n, size int64) string {
	if size < 0 {
		return bytesText(n)
	}
	return bytesText(n) + " of " + bytesText(size)
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// A meter follows a number of bytes that grows: its rate is over the last few
// seconds while it grows, and over all of the time when it is done.
type meter struct {
	begin, at  time.Time
	begun, now int64 // bytes at begin and at
	rate       float64
	done       time.Time // when now stopped to grow
}

// meterWindow is over how long the rate is averaged.
const meterWindow = 3 * time.Second

func (m *meter) add(n int64, at time.Time) {
	if m.begin.IsZero() || n < m.now { // starts, or starts again
		*m = meter{begin: at, at: at, begun: n, now: n, done: at}
		return
	}
	dt := at.Sub(m.at).Seconds()
	if dt <= 0 {
		return
	}
	// An exponential average that forgets what is older than the window.
	weight := min(dt/min(meterWindow.Seconds(), at.Sub(m.begin).Seconds()), 1)
	m.rate += weight * (float64(n-m.now)/dt - m.rate)
	if n > m.now {
		m.done = at
	}
	m.now, m.at = n, at
}

// left is how long the rest of size bytes takes.
func (m *meter) left(size int64) (time.Duration, bool) {
	if m.rate < 1 || size < 0 {
		return 0, false
	}
	return time.Duration(float64(size-m.now) / m.rate * float64(time.Second)), true
}

func (m *meter) text(size int64) string {
	if size >= 0 && m.now >= size {
		average := float64(m.now-m.begun) / max(m.done.Sub(m.begin).Seconds(), displayTick.Seconds())
		return bytesText(int64(average)) + "/s"
	}
	line := bytesText(int64(m.rate)) + "/s"
	if left, ok := m.left(size); ok {
		line += ", " + short(left) + " left"
	}
	return line
}
