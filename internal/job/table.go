// Package job keeps a job's life apart from any connection: its input, state,
// events, output and end.
//
// A stream is only one view of a job. Jobs never inherit a stream's context;
// whoever opened a job closes it.
//
// A Table and its Jobs are safe for concurrent use.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// A Runner runs the function of a call. *worker.Pool is one.
type Runner interface {
	Run(ctx context.Context, c *worker.Call, observe func(worker.Stage)) (json.RawMessage, error)
}

// Config is what a Table needs. Spool and Runner are required.
type Config struct {
	Spool  *spool.Spool
	Runner Runner
	// MaxPayload is the largest input and the largest output, in bytes, default
	// no limit but the spool's budget.
	MaxPayload int64
	// EventTail is how many events a job keeps, default 256.
	EventTail int
	// Logger takes what the jobs tell, default slog.Default().
	Logger *slog.Logger
}

// A Table holds the jobs of a pod.
type Table struct {
	cfg Config
	log *slog.Logger

	mu        sync.Mutex
	jobs      map[string]*Job
	functions int // that run or wait in the pool, some for jobs that are closed
	draining  bool
	empty     chan struct{} // closed when draining and nothing is left
	emptied   bool
}

// NewTable makes an empty table.
func NewTable(cfg Config) *Table {
	if cfg.EventTail <= 0 {
		cfg.EventTail = 256
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Table{cfg: cfg, log: cfg.Logger, jobs: map[string]*Job{}, empty: make(chan struct{})}
}

// ErrDraining refuses new jobs while the pod shuts down.
var ErrDraining = errors.New("the pod is shutting down and takes no new jobs; try again")

// ErrShutdown ends jobs that the pod did not wait for.
var ErrShutdown = errors.New("the pod shut down before the job had ended; try again")

// ErrExists refuses a job whose id another one has.
var ErrExists = errors.New("a job with this id is already there")

// Open makes a job that waits for its input. An empty id gets a new UUIDv7. The
// caller owns the job and must Close it.
func (t *Table) Open(id, fn string) (*Job, error) {
	if id == "" {
		u, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make job id: %w", err)
		}
		id = u.String()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &Job{
		ID:     id,
		Func:   fn,
		table:  t,
		log:    t.log.With("job", id, "func", fn),
		input:  t.cfg.Spool.Create(t.cfg.MaxPayload),
		ctx:    ctx,
		cancel: cancel,
		events: newEventLog(t.cfg.EventTail),
		done:   make(chan struct{}),
		begun:  time.Now(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.draining:
		cancel(ErrDraining)
		return nil, ErrDraining
	case t.jobs[id] != nil:
		cancel(ErrExists)
		return nil, fmt.Errorf("job %q: %w", id, ErrExists)
	}
	t.jobs[id] = j
	j.events.add(Event{State: Receiving})
	return j, nil
}

// Len is how many jobs there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.jobs)
}

// Draining says whether the table refuses new jobs.
func (t *Table) Draining() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.draining
}

func (t *Table) forget(j *Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.jobs, j.ID)
	t.tellEmpty()
}

func (t *Table) functionStarts() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.functions++
}

func (t *Table) functionEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.functions--
	t.tellEmpty()
}

// tellEmpty ends Drain's wait. t.mu is held.
func (t *Table) tellEmpty() {
	if t.draining && !t.emptied && len(t.jobs) == 0 && t.functions == 0 {
		t.emptied = true
		close(t.empty)
	}
}

// Refuse makes Open return ErrDraining from now on.
func (t *Table) Refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	t.tellEmpty()
}

// Drain refuses new jobs and waits until those that are there are closed and
// their functions have returned. When ctx ends first, it cancels them with
// ErrShutdown, which their callers are told at once, and says in the error how
// many they were.
func (t *Table) Drain(ctx context.Context) error {
	t.Refuse()
	select {
	case <-t.empty:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	left := slices.Collect(maps.Values(t.jobs))
	functions := t.functions
	t.mu.Unlock()
	for _, j := range left {
		j.Cancel(ErrShutdown)
	}
	return fmt.Errorf("%d jobs and %d functions were still there: %w", len(left), functions, context.Cause(ctx))
}
