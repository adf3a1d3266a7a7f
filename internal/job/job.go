package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

const (
	// recordedInput is the largest input, in bytes, that is kept in a job's record
	// rather than in a file of its own, which would cost two fsyncs.
	recordedInput = 64 << 10
	// recordedResult is the largest JSON result, in bytes, that is kept in memory
	// and in the record. A larger one becomes an output.
	recordedResult = 32 << 10
)

// A Job is one call's life: input, events, output and end. Its methods are safe
// for concurrent use, except that the input belongs to one goroutine.
type Job struct {
	ID string

	named  bool // durable
	table  *Table
	fn     string          // the function
	ctx    context.Context //nolint:containedctx // the job's life: it ends with the job and is never a stream's
	cancel context.CancelCauseFunc
	events *eventLog
	done   chan struct{} // closed when the state is final
	// changed is sent when there is more of anything: input, events, output.
	changed signal
	in      input
	closing sync.Mutex // held while the input is being closed
	created time.Time

	recording sync.Mutex // held while the record is being written, or the job removed
	removed   bool       // guarded by recording
	writing   sync.Mutex // held while the output's file is made or removed

	mu       sync.Mutex
	spec     Spec
	state    State
	ending   bool          // the outcome is settled, and perhaps being recorded
	ran      bool          // run was called
	begun    bool          // the function is called, or about to be
	placed   chan struct{} // closed when the runner has the job; nil unless resume waits for it
	writer   *Writer       // the newest
	touched  time.Time
	size     int64  // of the input once it is closed, before that -1
	data     []byte // the input, if the record has it
	sha256   []byte // of the input, if it is wanted and known
	attempt  int    // how often the function was begun
	killed   int    // under how many of these its worker died, in this process
	call     *worker.Call
	started  time.Time // the function, last
	ended    time.Time
	alive    time.Time // when the function last showed life
	progress *Progress // the last
	out      *Output   // nil until the function has opened it
	result   Result    // once Succeeded
	err      error     // once Failed or Canceled
	expiry   *time.Timer
}

// A Result is what a function gave: a JSON value, or an output when it wrote
// one.
type Result struct {
	JSON   json.RawMessage
	Output *Output // nil unless there is one; gone with the job
}

// Named says that the job is durable, and not its opener's alone.
func (j *Job) Named() bool { return j.named }

// Spec is what the job is to do.
func (j *Job) Spec() Spec {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.spec
}

// Input takes the payload of a job without a name. Its bytes count as received
// as they are written.
func (j *Job) Input() io.Writer { return j.in.(*streamInput) }

// Committed is how many bytes of the input there are. For a durable job they
// survive the death of the process.
func (j *Job) Committed() int64 {
	j.mu.Lock()
	size := j.size
	j.mu.Unlock()
	if size >= 0 {
		return size
	}
	return j.in.committed()
}

// State is where the job is now.
func (j *Job) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Done is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

// Result is how the job ended; call it after Done. The error is the function's
// own, the pool's, the cause that Cancel was given, or a *ExplainedError.
func (j *Job) Result() (Result, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.result, j.err
}

// Events returns the events with a sequence number over after that the bounded
// log still has, and whether some between are lost.
func (j *Job) Events(after uint64) (events []Event, lost bool) { return j.events.since(after) }

// DropEvents says that nobody will ask for the job's events. They are not kept then:
// those of ten thousand calls that run for hours would be most of the pod's memory.
func (j *Job) DropEvents() { j.events.drop() }

// Changed is closed when there is more of anything: input, events, output, or the
// end. To miss nothing, ask for the channel first and for everything else after.
func (j *Job) Changed() <-chan struct{} { return j.changed.wait() }

// Output is what the function has written so far; nil if it has not begun to.
func (j *Job) Output() *Output {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out
}

// A Snapshot is where a job is at one moment.
type Snapshot struct {
	State     State
	Position  int // in the queue, from 1; 0 when not queued
	Committed int64
	Attempt   int
	LastSeq   uint64
	Progress  *Progress     // the last, nil if there was none
	WorkerAge time.Duration // since the function showed life; negative when it doesn't run
	Created   time.Time
	Started   time.Time // the function, last; zero if it was not
	Ended     time.Time // zero if it has not
	Expires   time.Time // zero if it has not ended or doesn't
}

// Snapshot says where the job is.
func (j *Job) Snapshot() Snapshot {
	committed, seq := j.Committed(), j.events.last()
	j.mu.Lock()
	s := Snapshot{
		State: j.state, Committed: committed, Attempt: j.attempt, LastSeq: seq, Progress: j.progress,
		WorkerAge: -1, Created: j.created, Started: j.started, Ended: j.ended,
	}
	call := j.call
	if j.state == Running {
		s.WorkerAge = now().Sub(j.alive)
	}
	if j.named && j.state.Final() {
		s.Expires = j.ended.Add(j.table.cfg.TTL)
	}
	j.mu.Unlock()
	if call != nil && (s.State == Queued || s.State == Loading) {
		s.Position = j.table.cfg.Runner.Position(call)
	}
	return s
}

// log tells of the job. It is made when it is needed, which for most jobs is never.
func (j *Job) log() *slog.Logger { return j.table.log.With("job", j.ID, "func", j.fn) }

// Start seals the input of a job without a name and lets it run. It is called
// once, by the goroutine that wrote the input.
func (j *Job) Start(spec Spec) error {
	run, err := j.Ready(spec)
	if err == nil {
		go run()
	}
	return err
}

// Ready is Start, but the caller has a goroutine to spare and calls run in it, which
// returns when the function has.
func (j *Job) Ready(spec Spec) (run func(), err error) {
	blob, err := j.in.seal(j.in.committed(), nil)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.spec = spec
	j.mu.Unlock()
	return j.ready(blob, j.in.sum(blob.Size()))
}

// start lets the job run on its input.
func (j *Job) start(blob *spool.Blob, sum []byte) error {
	run, err := j.ready(blob, sum)
	if err == nil {
		go run()
	}
	return err
}

// ready says that the job has its input, with the SHA-256 sum if that is known; run has
// the function run. A durable job is left for the next process when this one shuts
// down.
func (j *Job) ready(blob *spool.Blob, sum []byte) (run func(), err error) {
	defer j.changed.send()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ending {
		return nil, cmp.Or(j.err, context.Cause(j.ctx), errEnded)
	}
	j.size, j.sha256 = blob.Size(), sum
	if j.named {
		j.state = Queued
	}
	if !j.table.functionStarts(j) {
		j.place()
		return func() {}, blob.Remove()
	}
	j.ran = true
	return func() { j.run(blob) }, nil
}

// place lets resume go on. j.mu is held.
func (j *Job) place() {
	if j.placed != nil {
		close(j.placed)
		j.placed = nil
	}
}

// run has the function run. A durable job that the pod's shutdown cuts off stays
// as it is recorded, for the next process.
func (j *Job) run(blob *spool.Blob) {
	defer j.table.functionEnded(j)
	value, out, err := j.runAttempts(blob)
	j.mu.Lock()
	j.place()
	j.mu.Unlock()
	var result Result
	if err == nil {
		result, err = j.resultOf(value, out)
	}
	// The input is freed here and not with the job: a function that ignores its
	// cancellation may still be reading it after the caller has gone.
	if rerr := blob.Remove(); rerr != nil {
		j.log().Warn("input not removed", "err", rerr)
	}
	if j.named && (j.cutOff() && err != nil || errors.Is(err, worker.ErrClosed)) {
		return
	}
	j.finish(result, err)
}

// runAttempts has the function run, and again if its worker dies under it and it
// may be.
func (j *Job) runAttempts(blob *spool.Blob) (value json.RawMessage, out *outputWriter, err error) {
	for {
		before := j.attempts()
		out = &outputWriter{job: j, ctx: j.ctx}
		value, err = j.runFunction(blob, out)
		if j.attempts() == before || !j.mayRunAgain(err) { // or not begun: its version can't be loaded
			return value, out, err
		}
		if err := j.dropOutput(); err != nil {
			return nil, out, err
		}
	}
}

// attempts is how often the function was begun.
func (j *Job) attempts() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.attempt
}

// maxKilled is under how many workers' deaths a job fails, however many attempts
// it has: it may be what kills them.
const maxKilled = 2

// mayRunAgain says whether the function may be begun again after an error: if its
// worker has died, and an attempt is left. Callers learn of it in the log.
func (j *Job) mayRunAgain(err error) bool {
	var crash *worker.CrashError
	if !errors.As(err, &crash) || j.ctx.Err() != nil {
		return false
	}
	j.mu.Lock()
	j.killed++
	killed, attempt := j.killed, j.attempt
	j.mu.Unlock()
	if killed >= maxKilled || attempt >= j.maxAttempts() {
		return false
	}
	j.log().Warn("attempt lost", "attempt", attempt, "err", err)
	j.shows(&Event{Log: &Line{Level: slog.LevelWarn, Text: fmt.Sprintf("attempt %d is lost and begun again: %v", attempt, err)}})
	return true
}

// cutOff says whether the pod's shutdown has canceled the job.
func (j *Job) cutOff() bool { return errors.Is(context.Cause(j.ctx), ErrShutdown) }

// runFunction calls the function, when it is its turn. A durable job that finds
// the queue full waits: it was accepted.
func (j *Job) runFunction(blob *spool.Blob, out *outputWriter) (json.RawMessage, error) {
	j.mu.Lock()
	call := &worker.Call{
		JobID:      j.ID,
		Func:       j.spec.Func,
		Version:    j.spec.Version,
		Kwargs:     j.spec.Kwargs,
		Metadata:   j.spec.Metadata,
		Input:      blob,
		SHA256:     j.sha256,
		Report:     reporter{j},
		Begin:      j.begin,
		OpenOutput: out.open,
		Deadline:   j.spec.Deadline,

		AdoptOutput: out.adopt,
	}
	j.call = call
	j.mu.Unlock()
	for {
		value, err := j.table.cfg.Runner.Run(j.ctx, call, j.stage)
		var full *worker.QueueFullError
		if !j.named || !errors.As(err, &full) {
			return value, err
		}
		select {
		case <-time.After(full.RetryAfter):
		case <-j.ctx.Done():
			return nil, context.Cause(j.ctx)
		}
	}
}

// begin counts an attempt, durably, before the function is called. From then on
// Drain waits for it.
func (j *Job) begin() error {
	return j.withSpace(j.ctx, "the job's record", func() error {
		j.mu.Lock()
		err := context.Cause(j.ctx)
		j.begun = err == nil
		attempt, started := j.attempt+1, now()
		j.mu.Unlock()
		if err == nil && j.named {
			err = j.record(func(r *record) { r.State, r.Attempt, r.Started = Running, attempt, started })
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if err != nil {
			j.begun = false
			return err
		}
		j.attempt, j.started, j.alive = attempt, started, started
		j.call.Attempt = attempt
		return nil
	})
}

// resultOf is what a function gave that has returned.
func (j *Job) resultOf(value json.RawMessage, w *outputWriter) (Result, error) {
	out, err := w.seal()
	switch {
	case err != nil:
		return Result{}, err
	case out != nil:
		return Result{Output: out}, nil
	case len(value) <= recordedResult:
		return Result{JSON: value}, nil
	}
	err = j.withSpace(j.ctx, "the result", func() error {
		if out, err = j.openOutput(true); err != nil {
			return err
		}
		_, err = out.file.Put(0, value)
		return err
	})
	if err == nil {
		err = j.sealOutput(out)
	}
	return Result{Output: out}, err
}

// Cancel ends the job with a cause that callers see: at once, or for a durable
// job when that is recorded. A function that runs is told through its context;
// its slot and input are free when it returns.
func (j *Job) Cancel(cause error) {
	j.cancel(cause)
	if !j.named || !j.cutOff() {
		cause = context.Cause(j.ctx) // of the first who canceled it
	}
	if j.named {
		j.table.recording(func() { j.end(Canceled, Result{}, cause) })
		return
	}
	j.end(Canceled, Result{}, cause)
}

// Close is called once, by the one who opened a job without a name, when it needs
// nothing of it any more: a job that has not ended is canceled, and what it holds
// is freed.
func (j *Job) Close() {
	j.Cancel(context.Canceled)
	j.mu.Lock()
	ran := j.ran
	j.mu.Unlock()
	var err error
	if !ran { // else run does it
		err = j.in.remove()
	}
	if err := errors.Join(err, j.dropOutput()); err != nil {
		j.log().Warn("job not cleaned up", "err", err)
	}
	j.table.forget(j)
}

// finish ends a job with what its function, or input, has come to.
func (j *Job) finish(result Result, err error) {
	state := Succeeded
	switch cause := context.Cause(j.ctx); {
	case err == nil:
	case cause == nil, j.named && j.cutOff():
		state = Failed
	default:
		// What a canceled function returns matters less than why it was canceled.
		state, err = Canceled, cause
	}
	j.end(state, result, err)
}

// end makes the first outcome the final one.
func (j *Job) end(state State, result Result, err error) {
	j.mu.Lock()
	if j.ending {
		j.mu.Unlock()
		return
	}
	j.ending = true
	j.mu.Unlock()
	ended := now()
	if j.named {
		rerr := j.recordEnd(state, ended, result, err)
		switch {
		case rerr == nil:
		case errors.Is(rerr, errEnded), errors.Is(rerr, errStoreClosed), j.table.ctx.Err() != nil:
			return
		default:
			state, err, result = Failed, errors.Join(err, rerr), Result{}
		}
	}
	if !j.settle(state, ended, result, err) {
		return
	}
	j.cancel(nil)
	j.changed.send()
	if j.named {
		if state != Succeeded {
			err = errors.Join(err, j.dropOutput())
		}
		err = errors.Join(err, j.in.remove())
	}
	j.logEnd(state, ended, err)
}

// logEnd tells of the end. That a job without a name went well is for its caller to
// know: there may be thousands a second.
func (j *Job) logEnd(state State, ended time.Time, err error) {
	level := slog.LevelInfo
	if !j.named && state == Succeeded {
		level = slog.LevelDebug
	}
	if !j.table.log.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("state", state.String()), slog.String("took", ended.Sub(j.created).Round(time.Millisecond).String()),
		slog.Int64("received", j.Committed()),
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	j.log().LogAttrs(context.Background(), level, "job ended", attrs...)
}

// settle tells the end, unless the job is removed meanwhile.
func (j *Job) settle(state State, ended time.Time, result Result, err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state.Final() {
		return false
	}
	j.ending = true
	j.state, j.ended, j.result, j.err = state, ended, result, err
	j.call, j.data = nil, nil
	j.events.add(Event{State: state, Time: ended})
	if j.named {
		j.table.expireAt(j, ended.Add(j.table.cfg.TTL))
	}
	close(j.done)
	return true
}

// recordEnd records how a durable job ended, before anyone is told. On a full
// disk it waits, for as long as the process lives. An error is that the job is
// removed, or the store closed.
func (j *Job) recordEnd(state State, ended time.Time, result Result, err error) error {
	end := record{State: state, Ended: ended, Result: result.JSON}
	if err != nil {
		end.Failure = j.table.cfg.Explain(err)
	}
	if out := result.Output; out != nil {
		end.HasOutput, end.OutputJSON, end.OutputSize = true, out.JSON, out.Size()
		if end.OutputCRC, err = out.CRC32C(); err != nil {
			return err
		}
	}
	return j.withSpace(j.table.ctx, "the job's record", func() error {
		return j.record(func(r *record) {
			r.State, r.Ended, r.Result, r.Failure = end.State, end.Ended, end.Result, end.Failure
			r.HasOutput, r.OutputJSON, r.OutputSize, r.OutputCRC = end.HasOutput, end.OutputJSON, end.OutputSize, end.OutputCRC
		})
	})
}

// stage is told by the pool how far the call has come.
func (j *Job) stage(s worker.Stage) {
	state := map[worker.Stage]State{
		worker.Queued: Queued, worker.Loading: Loading, worker.Running: Running,
	}[s]
	j.mu.Lock()
	defer j.mu.Unlock()
	j.place()
	if !j.ending {
		j.state = state
		j.events.add(Event{State: state})
		j.changed.send()
	}
}

// shows notes that the function has shown life, and how.
func (j *Job) shows(e *Event) {
	j.mu.Lock()
	j.alive = now()
	if e != nil && !j.ending {
		if e.Progress != nil {
			j.progress = e.Progress
		}
		j.events.add(*e)
	}
	j.mu.Unlock()
	j.changed.send()
}

func now() time.Time { return time.Now().Round(0) } // as a record keeps it

// reporter turns a function's signs of life into events.
type reporter struct{ job *Job }

func (r reporter) Progress(done, total int64, unit, note string) {
	r.job.shows(&Event{Progress: &Progress{Done: done, Total: total, Unit: unit, Note: note}})
}

func (r reporter) Log(level slog.Level, line string) {
	r.job.log().Log(context.Background(), level, "model", "line", line)
	r.job.shows(&Event{Log: &Line{Level: level, Text: line}})
}

func (r reporter) Alive() { r.job.shows(nil) }

// resume lets a job go on that an earlier process has left. It returns when the
// job has its place in the queue.
func (j *Job) resume() {
	if attempts := j.Snapshot().Attempt; attempts >= j.maxAttempts() {
		j.log().Warn("not run again", "attempts", attempts)
		j.finish(Result{}, &AttemptsError{Attempts: attempts})
		return
	}
	var blob *spool.Blob
	err := j.withSpace(j.ctx, "the input", func() (err error) {
		blob, err = j.restoredInput()
		return err
	})
	switch {
	case err == nil:
	case j.cutOff():
		return
	default:
		j.finish(Result{}, fmt.Errorf("the input is lost: %w", err))
		return
	}
	j.log().Info("job goes on")
	placed := make(chan struct{})
	j.mu.Lock()
	j.placed = placed
	j.mu.Unlock()
	if err := j.start(blob, nil); err != nil {
		j.log().Info("job not started", "err", errors.Join(err, blob.Remove()))
		return
	}
	<-placed
}

// An AttemptsError ends a job under whose function the pod's process died, and
// that may not be begun again.
type AttemptsError struct {
	Attempts int // how often the function was begun
}

func (e *AttemptsError) Error() string {
	return fmt.Sprintf("the pod stopped while the function ran, and it may be begun only %d times: "+
		"call again under another id, or allow more with max_attempts", e.Attempts)
}

// maxAttempts is how often the function may be begun.
func (j *Job) maxAttempts() int {
	spec := j.Spec()
	switch {
	case spec.MaxAttempts > 0:
		return spec.MaxAttempts
	case spec.Func == "train":
		return 1
	}
	return j.table.cfg.MaxAttempts
}

func (j *Job) inputName() string  { return j.ID + ".in" }
func (j *Job) outputName() string { return j.ID + ".out" }
