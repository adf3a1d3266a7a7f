package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	// displayDelay keeps calls that are over at once from flickering.
	displayDelay = 300 * time.Millisecond
	displayTick  = 100 * time.Millisecond
	// silentIntervals is how many heartbeats have to be missing for a warning.
	silentIntervals = 3
)

// A terminalView draws a bar for the upload, and then a line that shows that
// the pod is alive. Its goroutine alone draws.
type terminalView struct {
	out     io.Writer
	state   *callState
	payload source
	silence time.Duration // of the pod, that is worth a warning
	color   bool
	start   time.Time

	notes      chan string
	stop, done chan struct{}
	amount     atomic.Value // string, beside the upload's bar, for mpb's goroutines
	speed      atomic.Value // string, on its other side

	// Of run:
	bars   *mpb.Progress // nil before displayDelay
	upload *mpb.Bar      // nil without a payload
	alive  *mpb.Bar      // nil until the upload is over
	silent bool          // the warning is out
	rate   meter
}

func newTerminalView(out io.Writer, state *callState, spec callSpec, color bool) *terminalView {
	v := &terminalView{
		out: out, state: state, payload: spec.payload, color: color, start: time.Now(),
		silence: silentIntervals * spec.heartbeat,
		notes:   make(chan string), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go v.run()
	return v
}

func (v *terminalView) accepted(string, string) {}
func (v *terminalView) beat()                   {}

func (v *terminalView) retrying(next int, pause time.Duration, why error) {
	v.notes <- retryLine(next, pause, why)
}

func (v *terminalView) close() {
	close(v.stop)
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
	v.watchSilence(now)
	if v.bars == nil {
		if now.Sub(v.start) < displayDelay {
			return
		}
		v.draw()
	}
	uploaded := v.state.uploaded.Load() != 0
	v.measure(v.state.sent.Load(), uploaded, now)
	if v.alive != nil || (v.upload != nil && !uploaded) {
		return
	}
	if v.upload != nil {
		v.upload.SetTotal(-1, true)
	}
	v.alive = v.bars.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(1), mpb.BarFillerTrim(), mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + v.liveness(time.Now()) })))
}

// measure updates the upload's bar and what is beside it.
func (v *terminalView) measure(sent int64, uploaded bool, now time.Time) {
	if v.upload == nil {
		return
	}
	size := v.payload.size
	if uploaded {
		size = sent
	}
	v.rate.add(sent, now)
	v.upload.SetCurrent(sent)
	v.amount.Store("upload " + amount(sent, v.payload.size) + " ")
	v.speed.Store(" " + v.rate.text(size))
}

func (v *terminalView) draw() {
	// That out is a terminal has been decided; it need not be a file.
	v.bars = mpb.New(mpb.WithOutput(v.out), mpb.WithAutoRefresh(), mpb.ForceTTY(), mpb.WithRefreshRate(displayTick))
	size := v.payload.size
	if size == 0 {
		return
	}
	style := mpb.BarFillerBuilder(mpb.BarStyle())
	if size < 0 {
		style = mpb.SpinnerStyle().PositionLeft()
	}
	// The total is set later, so that the bar is complete when the upload is, not
	// when the last byte was read.
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
	if v.alive != nil {
		v.alive.Abort(true)
	}
	if v.upload != nil {
		v.upload.Abort(false) // nothing if it is complete
	}
	v.bars.Wait()
}

// watchSilence warns once for each silence.
func (v *terminalView) watchSilence(now time.Time) {
	last := v.state.lastSeen.Load()
	if last == 0 {
		return
	}
	since := now.Sub(time.Unix(0, last))
	switch {
	case since > v.silence && !v.silent:
		v.silent = true
		v.note(v.warn(fmt.Sprintf("no sign of life from the pod for %s; still waiting", short(since))))
	case since <= v.silence && v.silent:
		v.silent = false
		v.note("the pod is back")
	}
}

// liveness is what is known of the pod while there is nothing else to show.
func (v *terminalView) liveness(now time.Time) string {
	elapsed := short(now.Sub(v.start))
	last := v.state.lastSeen.Load()
	if last == 0 {
		return "waiting for the pod " + elapsed
	}
	since := now.Sub(time.Unix(0, last))
	line := "last sign of life " + short(since) + " ago"
	if since > v.silence {
		line = v.warn(line)
	}
	return "running " + elapsed + ", " + line
}

func (v *terminalView) warn(text string) string {
	if !v.color {
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
