// Package worker runs functions of a model: a pool of instances by version, a
// bounded queue in front of it, and the interface that models implement.
//
// It knows nothing of connections, jobs or wire formats.
//
// A Pool is safe for concurrent use. The goroutine that calls Run is the one
// that the function runs in.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Config sets the size of a Pool.
type Config struct {
	// Instances is how many instances, of all versions together, may be loaded
	// at once, default 2.
	Instances int
	// Slots is how many calls may run in one instance at once, default 4.
	Slots int
	// Queue is how many calls may wait for a slot, default 1000, negative for
	// none. Calls whose instance is being loaded do not count.
	Queue int
	// OnVersion is told when a version goes down, because its instances die again
	// and again, and when it is up again. It must not block. Nil does nothing.
	OnVersion func(version string, up bool)
	// Logger takes what has no job to be told to, default slog.Default().
	Logger *slog.Logger
}

// A Pool keeps loaded instances of one model and gives calls their turn: first
// come, first served, except that a call may overtake others that wait for
// another version to be loaded.
type Pool struct {
	model  Model
	cfg    Config
	log    *slog.Logger
	ctx    context.Context //nolint:containedctx // of loading; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // loads and closes under way

	mu        sync.Mutex
	instances []*instance
	fates     map[string]*fate // by version, of those that have died lately
	queue     queue
	running   int
	closed    bool
	idle      chan struct{} // closed when closed and running == 0
}

// An instance is one place of Config.Instances, loaded or being loaded.
type instance struct {
	version string
	loaded  Instance // nil while loading
	busy    int      // slots taken
	retired bool     // gets no more calls, and is closed when none runs
	dropped bool     // is being closed
}

// A Stage is how far a call has come in the pool.
type Stage int

// The stages of a call, in order.
const (
	Queued  Stage = iota // waits for a slot
	Loading              // waits for its version to be loaded
	Running              // runs in an instance
)

// NewPool makes a pool of the model's instances. None is loaded yet.
func NewPool(model Model, cfg Config) *Pool {
	if cfg.Instances <= 0 {
		cfg.Instances = 2
	}
	if cfg.Slots <= 0 {
		cfg.Slots = 4
	}
	if cfg.Queue == 0 {
		cfg.Queue = 1000
	}
	if cfg.OnVersion == nil {
		cfg.OnVersion = func(string, bool) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Pool{
		model: model, cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel,
		fates: map[string]*fate{}, idle: make(chan struct{}),
	}
}

// Describe tells what the model can do.
func (p *Pool) Describe() Description { return p.model.Describe() }

// Run waits for a slot of the call's version and runs the function in it.
// observe is told of each stage as it begins; it must not block. Errors are the
// function's own, or *FunctionError, *VersionError, *QueueFullError,
// *PanicError, ErrClosed, or the cause of ctx.
func (p *Pool) Run(ctx context.Context, c *Call, observe func(Stage)) (result json.RawMessage, err error) {
	fn, err := p.model.Describe().Function(c.Func)
	if err != nil {
		return nil, err
	}
	version := c.Version
	if fn.MakesVersion {
		version = ""
	}
	inst, err := p.acquire(ctx, c, version, observe)
	if err != nil {
		return nil, err
	}
	defer p.release(inst)
	defer func() { p.called(inst, fn, c, err) }()
	if c.Begin != nil {
		if err := c.Begin(); err != nil {
			return nil, err
		}
	}
	observe(Running)
	return call(ctx, inst.loaded, c)
}

// called notes what a call says of its version: one that ended by itself is a sign
// of health, one that has made a version outdates that version's instances.
func (p *Pool) called(inst *instance, fn Function, c *Call, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var crash *CrashError
	if !errors.As(err, &crash) {
		p.livesLocked(inst.version)
	}
	if err == nil && fn.MakesVersion && c.Version != "" {
		for _, other := range slices.Clone(p.instances) {
			if other.version == c.Version && other.loaded != nil {
				p.retireLocked(other)
			}
		}
	}
}

// call runs the function and turns a panic into an error.
func call(ctx context.Context, inst Instance, c *Call) (result json.RawMessage, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Func: c.Func, Value: v, Stack: debug.Stack()}
		}
	}()
	return inst.Call(ctx, c)
}

// Full says whether a call would be refused now: nil, or a *QueueFullError.
func (p *Pool) Full() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Queue > 0 && p.waiting() >= p.cfg.Queue {
		return p.queueFull()
	}
	return nil
}

// Position is how many calls wait in front of one that Run was given, plus 1; 0
// when it doesn't wait for a slot. A call whose instance is being loaded counts
// for those behind it.
func (p *Pool) Position(c *Call) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.find(c.ticket) + 1
}

func (p *Pool) queueFull() error {
	return &QueueFullError{Queue: max(p.cfg.Queue, 0), RetryAfter: time.Second}
}

func (p *Pool) acquire(ctx context.Context, c *Call, version string, observe func(Stage)) (*instance, error) {
	t := &ticket{call: c, version: version, observe: observe, grant: make(chan grant, 1)}
	if err := p.enqueue(t); err != nil {
		return nil, err
	}
	select {
	case g := <-t.grant:
		return g.instance, g.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	removed := p.queue.remove(t)
	p.mu.Unlock()
	if !removed { // granted meanwhile
		if g := <-t.grant; g.err == nil {
			p.release(g.instance)
		}
	}
	return nil, context.Cause(ctx)
}

func (p *Pool) enqueue(t *ticket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	t.observe(Queued)
	p.queue.push(t)
	p.dispatch()
	if len(t.grant) == 0 && !t.loading && p.waiting() > max(p.cfg.Queue, 0) {
		p.queue.remove(t)
		return p.queueFull()
	}
	return nil
}

// waiting counts the calls that the queue's bound is for. p.mu is held.
func (p *Pool) waiting() int { return len(p.queue.tickets) - p.queue.loading }

func (p *Pool) release(inst *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	inst.busy--
	p.running--
	if !p.lastsLocked(inst) && inst.busy == 0 {
		p.dropLocked(inst)
	}
	p.dispatch()
	if p.closed && p.running == 0 {
		close(p.idle)
	}
}

// dispatch gives every waiting call what can be given now: a free slot, a place
// in an instance that is being loaded, or an instance of its own, for which an
// idle one of another version makes room. p.mu is held.
func (p *Pool) dispatch() {
	var (
		promised map[*instance]int  // slots of loading instances
		reserved map[*instance]bool // emptied for a call that came earlier
	)
	p.queue.serve(func(t *ticket) chance {
		if inst := p.free(t.version, reserved); inst != nil {
			inst.busy++
			p.running++
			t.grant <- grant{instance: inst}
			return served
		}
		inst := p.coming(t.version, promised)
		if inst == nil {
			inst = p.load(t.version)
		}
		if inst != nil {
			if promised == nil {
				promised = map[*instance]int{}
			}
			promised[inst]++
			if !t.loading {
				p.queue.load(t)
				t.observe(Loading)
			}
			return waits
		}
		// No room: the least busy instance takes no more calls that came later,
		// or a busy version would starve the others.
		victim := p.leastBusy(t.version, reserved)
		if victim == nil {
			return stuck
		}
		if reserved == nil {
			reserved = map[*instance]bool{}
		}
		reserved[victim] = true
		return waits
	})
}

func (p *Pool) free(version string, reserved map[*instance]bool) *instance {
	for _, inst := range p.instances {
		if inst.version == version && inst.loaded != nil && inst.busy < p.cfg.Slots && !reserved[inst] && p.lastsLocked(inst) {
			return inst
		}
	}
	return nil
}

func (p *Pool) coming(version string, promised map[*instance]int) *instance {
	for _, inst := range p.instances {
		if inst.version == version && inst.loaded == nil && promised[inst] < p.cfg.Slots {
			return inst
		}
	}
	return nil
}

func (p *Pool) leastBusy(version string, reserved map[*instance]bool) *instance {
	var least *instance
	for _, inst := range p.instances {
		if inst.version == version || inst.loaded == nil || inst.retired || reserved[inst] {
			continue
		}
		if least == nil || inst.busy < least.busy {
			least = inst
		}
	}
	return least
}

// load starts loading an instance if there is room or an idle instance of
// another version that can make room. p.mu is held.
func (p *Pool) load(version string) *instance {
	var evicted *instance
	if len(p.instances) >= p.cfg.Instances {
		i := slices.IndexFunc(p.instances, func(inst *instance) bool {
			return inst.version != version && inst.loaded != nil && !inst.retired && inst.busy == 0
		})
		if i < 0 {
			return nil
		}
		evicted = p.instances[i]
		p.instances = slices.Delete(p.instances, i, i+1)
	}
	inst := &instance{version: version}
	p.instances = append(p.instances, inst)
	p.wg.Go(func() {
		if evicted != nil { // first, so that both are never in memory
			p.closeInstance(evicted)
		}
		loaded, err := p.loadPatiently(version)
		p.loadEnded(inst, loaded, err)
	})
	return inst
}

// loadPatiently loads a version when it may be, and again if it dies over that.
func (p *Pool) loadPatiently(version string) (loaded Instance, err error) {
	for range maxStarts {
		if err := p.pause(version); err != nil {
			return nil, err
		}
		loaded, err = p.loadModel(version)
		var crash *CrashError
		if !errors.As(err, &crash) {
			break
		}
		p.mu.Lock()
		p.diesLocked(version, err)
		p.mu.Unlock()
	}
	return loaded, err
}

func (p *Pool) loadModel(version string) (loaded Instance, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Func: "load", Value: v, Stack: debug.Stack()}
		}
	}()
	return p.model.Load(p.ctx, version)
}

func (p *Pool) loadEnded(inst *instance, loaded Instance, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		inst.loaded = loaded
		p.log.Info("instance loaded", "version", inst.version)
		p.wg.Go(func() { p.watch(inst) })
		p.dispatch()
		return
	}
	p.log.Warn("instance not loaded", "version", inst.version, "err", err)
	p.instances = slices.DeleteFunc(p.instances, func(i *instance) bool { return i == inst })
	err = fmt.Errorf("load version %q: %w", inst.version, err)
	p.refuse(err, func(t *ticket) bool { return t.version == inst.version })
	p.dispatch()
}

// refuse ends the waiting calls that match. p.mu is held.
func (p *Pool) refuse(err error, match func(*ticket) bool) {
	p.queue.removeIf(func(t *ticket) bool {
		if !match(t) {
			return false
		}
		t.grant <- grant{err: err}
		return true
	})
}

// watch waits until an instance should get no more calls.
func (p *Pool) watch(inst *instance) {
	select {
	case <-inst.loaded.Done():
	case <-p.ctx.Done(): // Close does it
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastsLocked(inst)
	p.dispatch()
}

// lastsLocked says whether an instance may get calls, and retires one that is
// done, perhaps before watch has seen that. p.mu is held.
func (p *Pool) lastsLocked(inst *instance) bool {
	if inst.retired {
		return false
	}
	select {
	case <-inst.loaded.Done():
	default:
		return true
	}
	if err := inst.loaded.Err(); err != nil {
		p.diesLocked(inst.version, err)
	}
	p.retireLocked(inst)
	return false
}

// retireLocked has an instance get no more calls. p.mu is held.
func (p *Pool) retireLocked(inst *instance) {
	if inst.retired {
		return
	}
	inst.retired = true
	if inst.busy == 0 {
		p.dropLocked(inst)
	}
}

// dropLocked closes a retired instance. Its place is free when that is done, so
// that it and the next are never both in memory. p.mu is held.
func (p *Pool) dropLocked(inst *instance) {
	if inst.dropped || !slices.Contains(p.instances, inst) {
		return // or evicted
	}
	inst.dropped = true
	p.wg.Go(func() {
		p.closeInstance(inst)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.instances = slices.DeleteFunc(p.instances, func(i *instance) bool { return i == inst })
		if !p.closed {
			p.dispatch()
		}
	})
}

func (p *Pool) closeInstance(inst *instance) {
	if err := inst.loaded.Close(); err != nil {
		p.log.Warn("instance not closed cleanly", "version", inst.version, "err", err)
	}
	p.log.Info("instance released", "version", inst.version)
}

// Close refuses all waiting and new calls with ErrClosed, waits for the running
// ones until ctx ends, and releases the instances.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.closed = true
	p.refuse(ErrClosed, func(*ticket) bool { return true })
	if p.running == 0 {
		close(p.idle)
	}
	running := p.running
	p.mu.Unlock()
	p.cancel()

	if running > 0 {
		select {
		case <-p.idle:
		case <-ctx.Done():
			return fmt.Errorf("close pool: %d calls were still running: %w", running, context.Cause(ctx))
		}
	}
	p.mu.Lock()
	for _, inst := range slices.Clone(p.instances) {
		if inst.loaded != nil {
			p.retireLocked(inst)
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
	for _, inst := range p.instances { // loaded meanwhile
		p.closeInstance(inst)
	}
	p.instances = nil
	return nil
}

// ErrClosed ends calls of a pool that is closed.
var ErrClosed = errors.New("the pod is shutting down")

// A QueueFullError is a call that found the queue full.
type QueueFullError struct {
	Queue      int           // its length
	RetryAfter time.Duration // when to try again
}

func (e *QueueFullError) Error() string {
	return fmt.Sprintf("the queue is full: %d calls are waiting; try again later", e.Queue)
}

// A PanicError is a function that panicked.
type PanicError struct {
	Func  string
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("function %q panicked: %v", e.Func, e.Value)
}
