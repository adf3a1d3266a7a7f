// Package job keeps a job's life apart from any connection: its input, state,
// events, output and end.
//
// A stream is only one view of a job. Jobs never inherit a stream's context. A
// job without a name belongs to the one who opened it, who closes it. One with a
// name is durable: it is recorded in a store at each change of its state, goes on
// after a restart, and stays until it is deleted or expires.
//
// A Table and its Jobs are safe for concurrent use.
package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// A Runner runs the function of a call. *worker.Pool is one.
type Runner interface {
	Run(ctx context.Context, c *worker.Call, observe func(worker.Stage)) (json.RawMessage, error)
	Position(c *worker.Call) int
	Full() error
}

// Config is what a Table needs. Spool and Runner are required, Store for durable
// jobs.
type Config struct {
	Spool  *spool.Spool
	Runner Runner
	// Store is the file with the records of durable jobs.
	Store string
	// Explain says what callers are told of an error, also after a restart; default
	// its text.
	Explain func(error) *ExplainedError
	// TTL is how long a durable job is kept after its end, and how long one that
	// receives may go without news; default 1h.
	TTL time.Duration
	// MaxAttempts is how often a function is begun when the process dies under
	// it, unless the job says; default 2, and always 1 for train.
	MaxAttempts int
	// MaxPayload is the largest input and the largest output, in bytes, default
	// no limit but the spool's budget.
	MaxPayload int64
	// Digest says whether a function wants the SHA-256 of its input, which is then
	// computed while that arrives; default none does.
	Digest func(fn string) bool
	// EventTail is how many events a job keeps, default 256.
	EventTail int
	// Logger takes what the jobs tell, default slog.Default().
	Logger *slog.Logger
}

// A Table holds the jobs of a pod.
type Table struct {
	cfg    Config
	log    *slog.Logger
	blocks sync.Pool       // of *block, for digesters
	store  *store          // nil without Config.Store
	ctx    context.Context //nolint:containedctx // of records that wait for space; ends with Close
	cancel context.CancelFunc

	mu        sync.Mutex
	jobs      map[string]*Job
	open      int           // jobs without a name
	functions map[*Job]bool // that run or wait in the pool, some for jobs that are closed
	records   int           // goroutines that record the end of an input, or of a job
	draining  chan struct{}
	refuses   bool
	empty     chan struct{} // closed when draining and nothing is left
	emptied   bool

	resuming sync.WaitGroup
}

// NewTable makes a table of the durable jobs in the store. They go on with
// Resume.
func NewTable(cfg Config) (*Table, error) {
	cfg.EventTail = cmp.Or(max(cfg.EventTail, 0), 256)
	cfg.TTL = cmp.Or(cfg.TTL, time.Hour)
	cfg.MaxAttempts = cmp.Or(max(cfg.MaxAttempts, 0), 2)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Explain == nil {
		cfg.Explain = func(err error) *ExplainedError { return &ExplainedError{Message: err.Error()} }
	}
	if cfg.Digest == nil {
		cfg.Digest = func(string) bool { return false }
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Table{
		cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel, jobs: map[string]*Job{}, functions: map[*Job]bool{},
		draining: make(chan struct{}), empty: make(chan struct{}), blocks: sync.Pool{New: func() any { return new(block) }},
	}
	if cfg.Store == "" {
		return t, nil
	}
	store, entries, aside, err := openStore(cfg.Store)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open job store: %w", err)
	}
	t.store = store
	for _, a := range aside {
		t.log.Error("job record set aside", "what", a.what, "err", a.err)
	}
	for _, e := range entries {
		if err := t.load(e.id, e.value); err != nil {
			t.log.Error("job record set aside", "what", e.id, "err", err)
			if err := store.move(e.id, err); err != nil {
				t.log.Warn("job record not set aside", "job", e.id, "err", err)
			}
		}
	}
	t.dropOrphans()
	return t, nil
}

func (t *Table) load(id string, value []byte) error {
	r, err := decodeRecord(value)
	if err != nil {
		return err
	}
	j, err := t.restore(id, r)
	if err != nil {
		return err
	}
	t.jobs[id] = j
	return nil
}

// dropOrphans removes payloads that no job has.
func (t *Table) dropOrphans() {
	for _, f := range t.cfg.Spool.Files() {
		ext := path.Ext(f.Name)
		j := t.jobs[strings.TrimSuffix(f.Name, ext)]
		switch {
		case j == nil:
		case ext == ".in" && (j.state == Receiving || !j.state.Final() && j.size > recordedInput):
			continue
		case ext == ".out" && j.out != nil:
			continue
		}
		if err := t.cfg.Spool.RemoveFile(f.Name); err != nil {
			t.log.Warn("payload without a job not removed", "file", f.Name, "err", err)
		}
	}
}

// Resume lets the jobs go on that an earlier process has left, the oldest first.
// It doesn't wait for that: there may be no room on the disk.
func (t *Table) Resume() {
	var queued []*Job
	for _, j := range slices.Backward(t.List()) {
		switch s := j.Snapshot(); s.State {
		case Receiving:
			t.watchIdle(j)
		case Queued:
			queued = append(queued, j)
		default:
			j.mu.Lock()
			t.expireAt(j, s.Expires)
			j.mu.Unlock()
		}
	}
	t.resuming.Go(func() {
		for _, j := range queued {
			if t.ctx.Err() == nil {
				j.resume()
			}
		}
	})
}

// ErrDraining refuses new jobs while the pod shuts down.
var ErrDraining = errors.New("the pod is shutting down and takes no new jobs; try again")

// ErrShutdown ends jobs that the pod did not wait for.
var ErrShutdown = errors.New("the pod shut down before the job had ended; try again")

// ErrNotFound is that there is no such job.
var ErrNotFound = errors.New("there is no such job: it was deleted, has expired, or another pod has it")

// ErrCanceled is the cause of jobs that a caller has canceled.
var ErrCanceled = errors.New("the job was canceled")

// ErrDeleted is the cause of jobs that were deleted before they had ended.
var ErrDeleted = errors.New("the job was deleted")

// NewID makes an id, a UUIDv7.
func NewID() (string, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make job id: %w", err)
	}
	return u.String(), nil
}

// newJob makes a job that waits for its input.
func (t *Table) newJob(id string, spec Spec, named bool) *Job {
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &Job{
		ID:      id,
		named:   named,
		table:   t,
		fn:      spec.Func,
		ctx:     ctx,
		cancel:  cancel,
		events:  newEventLog(t.cfg.EventTail),
		done:    make(chan struct{}),
		created: now(),
		touched: now(),
		spec:    spec,
		size:    -1,
	}
	var digest *digester
	if t.cfg.Digest(spec.Func) {
		digest = newDigester(&t.blocks)
	}
	if named {
		j.in = &fileInput{spool: t.cfg.Spool, name: j.inputName(), limit: t.cfg.MaxPayload, digest: digest}
	} else {
		j.in = &streamInput{w: t.cfg.Spool.Create(t.cfg.MaxPayload), digest: digest}
	}
	return j
}

// Open makes a job without a name, which waits for its input. The caller owns it
// and must Close it.
func (t *Table) Open(spec Spec) (*Job, error) {
	id, err := NewID()
	if err != nil {
		return nil, err
	}
	j := t.newJob(id, spec, false)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuses {
		j.cancel(ErrDraining)
		return nil, ErrDraining
	}
	t.jobs[id] = j
	t.open++
	j.events.add(Event{State: Receiving})
	return j, nil
}

// Create makes a durable job with the id, which waits for its input, or finds the
// one that has it. attached says which; a job that is there with another spec is
// an *ExistsError. The job is recorded when Create returns.
func (t *Table) Create(id string, spec Spec) (j *Job, attached bool, err error) {
	for {
		j, attached, err = t.enter(id, spec)
		if err != nil {
			return nil, false, err
		}
		if !attached {
			break
		}
		// Not before it is recorded, or removed.
		j.recording.Lock()
		removed := j.removed
		j.recording.Unlock()
		if removed {
			continue
		}
		if diff := j.Spec().differs(spec); diff != "" {
			return nil, false, &ExistsError{ID: id, Diff: diff}
		}
		return j, true, nil
	}
	defer j.recording.Unlock()
	j.events.add(Event{State: Receiving})
	if err := j.recordLocked(func(*record) {}); err != nil {
		j.removed = true
		t.take(j)
		j.cancel(err)
		return nil, false, err
	}
	t.watchIdle(j)
	j.log().Info("job created")
	return j, false, nil
}

// enter finds a job, or makes one whose record is locked.
func (t *Table) enter(id string, spec Spec) (j *Job, found bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.jobs[id]; j != nil {
		return j, true, nil
	}
	if t.refuses {
		return nil, false, ErrDraining
	}
	j = t.newJob(id, spec, true)
	j.recording.Lock()
	t.jobs[id] = j
	return j, false, nil
}

// take takes a durable job out of the table.
func (t *Table) take(j *Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.jobs, j.ID)
}

// Get finds a durable job.
func (t *Table) Get(id string) (*Job, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := t.jobs[id]
	if j == nil || !j.named {
		return nil, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	return j, nil
}

// List returns the durable jobs, the newest first.
func (t *Table) List() []*Job {
	t.mu.Lock()
	var list []*Job
	for _, j := range t.jobs {
		if j.named {
			list = append(list, j)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *Job) int {
		return cmp.Or(b.created.Compare(a.created), cmp.Compare(b.ID, a.ID))
	})
	return list
}

// Delete removes a durable job and all that it holds. One that is not there is no
// error. After an error the job is gone, but may be back after a restart.
func (t *Table) Delete(id string) error {
	j, err := t.Get(id)
	if err != nil {
		return nil //nolint:nilerr // it is as it should be
	}
	return t.remove(j)
}

// remove ends a durable job and removes what it holds. Until that is done nobody
// can have its id.
func (t *Table) remove(j *Job) error {
	j.recording.Lock()
	defer j.recording.Unlock()
	if j.removed {
		return nil
	}
	err := t.store.delete(j.ID)
	if errors.Is(err, errStoreClosed) {
		return err
	}
	j.removed = true
	j.cancel(ErrDeleted)
	j.settle(Canceled, now(), Result{}, ErrDeleted)
	j.mu.Lock()
	if j.expiry != nil {
		j.expiry.Stop()
	}
	j.mu.Unlock()
	err = errors.Join(err, j.in.remove(), j.dropOutput())
	t.take(j)
	j.changed.send()
	if err != nil {
		j.log().Warn("job not removed", "err", err)
		return err
	}
	j.log().Info("job removed")
	return nil
}

// expireAt removes the job at a time. j.mu is held.
func (t *Table) expireAt(j *Job, at time.Time) {
	if j.expiry != nil {
		j.expiry.Stop()
	}
	j.expiry = time.AfterFunc(time.Until(at), func() {
		j.log().Debug("job expires")
		_ = t.remove(j) // which has logged it
	})
}

// watchIdle cancels a job that receives and has had no news for the TTL.
func (t *Table) watchIdle(j *Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != Receiving || j.ending || t.ctx.Err() != nil {
		return
	}
	j.expiry = time.AfterFunc(time.Until(j.touched.Add(t.cfg.TTL)), func() {
		j.mu.Lock()
		idle := now().Sub(j.touched)
		receiving := j.state == Receiving && !j.ending
		j.mu.Unlock()
		switch {
		case !receiving:
		case idle >= t.cfg.TTL:
			j.log().Warn("job expires before its input was complete", "committed", j.Committed(), "idle", idle.String())
			_ = t.remove(j)
		default:
			t.watchIdle(j)
		}
	})
}

// Len is how many jobs there are that the pod works for: those without a name,
// and durable ones whose function waits or runs.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.open
	for j := range t.functions {
		if j.named {
			n++
		}
	}
	return n
}

// Draining is closed when the table begins to refuse new jobs.
func (t *Table) Draining() <-chan struct{} { return t.draining }

func (t *Table) forget(j *Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.jobs, j.ID)
	t.open--
	t.tellEmpty()
}

// functionStarts says whether it may: one of a durable job not while the pod
// shuts down.
func (t *Table) functionStarts(j *Job) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j.named && t.refuses {
		return false
	}
	t.functions[j] = true
	return true
}

// recording does in a goroutine what Drain should wait for.
func (t *Table) recording(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records++
	go func() {
		do()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.records--
		t.tellEmpty()
	}()
}

func (t *Table) functionEnded(j *Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.functions, j)
	t.tellEmpty()
}

// tellEmpty ends Drain's wait. t.mu is held.
func (t *Table) tellEmpty() {
	if t.refuses && !t.emptied && t.open == 0 && len(t.functions) == 0 && t.records == 0 {
		t.emptied = true
		close(t.empty)
	}
}

// Refuse makes Open and Create return ErrDraining from now on.
func (t *Table) Refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.refuses {
		t.refuses = true
		close(t.draining)
	}
	t.tellEmpty()
}

// Drain refuses new jobs and waits until those without a name are closed, the
// functions that run have returned and what has ended is recorded. Durable jobs that are still queued are left
// for the next process. When ctx ends first, Drain cancels what is there with
// ErrShutdown, which callers are told at once, and says in the error how many
// they were; durable jobs are then run again by the next process, if they may.
func (t *Table) Drain(ctx context.Context) error {
	t.Refuse()
	for _, j := range t.List() {
		j.mu.Lock()
		if !j.begun && (j.state == Queued || j.state == Loading) {
			j.cancel(ErrShutdown)
		}
		j.mu.Unlock()
	}
	select {
	case <-t.empty:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	left := slices.Collect(maps.Values(t.jobs))
	jobs, functions := t.open, len(t.functions)
	t.mu.Unlock()
	for _, j := range left {
		if j.named {
			j.cancel(ErrShutdown)
		} else {
			j.Cancel(ErrShutdown)
		}
	}
	return fmt.Errorf("%d jobs and %d functions were still there: %w", jobs, functions, context.Cause(ctx))
}

// Close closes the store and lets go of the files of durable jobs, whoever uses
// them. Those that have not ended go on in the next process.
func (t *Table) Close() error {
	t.Refuse()
	t.cancel()
	var errs []error
	for _, j := range t.List() {
		errs = append(errs, j.leave())
	}
	t.resuming.Wait()
	if t.store != nil {
		errs = append(errs, t.store.close())
	}
	return errors.Join(errs...)
}

// leave leaves a durable job to the next process.
func (j *Job) leave() error {
	j.cancel(ErrShutdown)
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.expiry != nil {
		j.expiry.Stop()
	}
	err := j.in.close()
	if j.out != nil && j.out.file != nil {
		err = errors.Join(err, j.out.file.Close())
	}
	return err
}
