package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/aipod/aipod/internal/spool"
)

// Checked is how one check of a worker has gone.
type Checked struct {
	Name    string
	Skipped string // why, or empty
	Err     error  // what is wrong, or nil
	Took    time.Duration
}

func (c Checked) String() string {
	switch {
	case c.Skipped != "":
		return fmt.Sprintf("skip  %-12s %s", c.Name, c.Skipped)
	case c.Err != nil:
		return fmt.Sprintf("FAIL  %-12s %v", c.Name, c.Err)
	}
	return fmt.Sprintf("ok    %-12s %v", c.Name, c.Took.Round(time.Millisecond))
}

// A CheckReport counts checks.
type CheckReport struct{ Passed, Failed, Skipped int }

// Check runs a worker through the protocol, as docs/workers.md says, and tells
// each result. The error is that it can't be started at all.
func Check(ctx context.Context, cfg CommandConfig, spoolDir string, tell func(Checked)) (CheckReport, error) {
	var report CheckReport
	s, err := spool.Open(spool.Config{Dir: spoolDir})
	if err != nil {
		return report, err
	}
	begun := time.Now()
	m, err := OpenCommand(ctx, cfg)
	if err != nil {
		return report, err
	}
	c := &checker{model: m, spool: s}
	defer c.close()
	tell(Checked{Name: "handshake", Took: time.Since(begun)})
	report.Passed++
	for _, check := range checks {
		if ctx.Err() != nil {
			return report, context.Cause(ctx)
		}
		result := Checked{Name: check.name}
		if check.needs != "" {
			if _, err := m.Describe().Function(check.needs); err != nil {
				result.Skipped = fmt.Sprintf("the worker has no function %q", check.needs)
			}
		}
		if check.name == "slots" && cfg.Slots < 2 {
			result.Skipped = "it takes --slots 2 or more"
		}
		if result.Skipped == "" {
			begun := time.Now()
			result.Err = c.run(ctx, check.run)
			result.Took = time.Since(begun)
		}
		switch {
		case result.Skipped != "":
			report.Skipped++
		case result.Err != nil:
			report.Failed++
		default:
			report.Passed++
		}
		tell(result)
	}
	return report, nil
}

// checkPayload is the size in bytes of the large payload.
const checkPayload = 64 << 20

// checkLimit is how long a check may take.
const checkLimit = time.Minute

// checks are in the order in which they run. Those that end a process are last.
var checks = []struct {
	name, needs string
	run         func(*checker, context.Context) error
}{
	{"unknown", "", (*checker).unknown},
	{"echo", "echo", (*checker).echo},
	{"payload", "echo", (*checker).payload},
	{"progress", "progress", (*checker).progress},
	{"noise", "noise", (*checker).noise},
	{"slots", "sleep", (*checker).slots},
	{"cancel", "sleep", (*checker).cancel},
	{"crash", "crash", (*checker).crash},
	{"shutdown", "", (*checker).shutdown},
	{"pod gone", "", (*checker).podGone},
}

// A checker calls a worker as a pod does.
type checker struct {
	model *Command
	spool *spool.Spool
	inst  Instance // nil if none is loaded
	calls int
}

func (c *checker) close() {
	if c.inst != nil {
		_ = c.inst.Close() // the shutdown check has told it
	}
	_ = c.model.Close()
}

// run runs a check on a living instance.
func (c *checker) run(ctx context.Context, check func(*checker, context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkLimit, fmt.Errorf("it took longer than %v", checkLimit))
	defer cancel()
	if c.inst != nil {
		select {
		case <-c.inst.Done():
			_ = c.inst.Close() // it has ended
			c.inst = nil
		default:
		}
	}
	if c.inst == nil {
		inst, err := c.model.Load(ctx, "")
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		c.inst = inst
	}
	return check(c, ctx)
}

// process is the instance as the process that it is.
func (c *checker) process() *process { return c.inst.(*process) }

var errNoError = errors.New("no error")

// A checkedCall is what a call has given.
type checkedCall struct {
	value    json.RawMessage
	output   int64  // bytes, -1 for none
	sum      []byte // SHA-256 of the output
	told     []int64
	progress []int64
	lines    int
	err      error
}

// call calls a function with random input of a size.
func (c *checker) call(ctx context.Context, fn, kwargs string, size int64) (checkedCall, []byte) {
	c.calls++
	id := fmt.Sprintf("check-%d", c.calls)
	result := checkedCall{output: -1}
	w := c.spool.Create(0)
	hash := sha256.New()
	_, err := io.CopyN(io.MultiWriter(w, hash), rand.NewChaCha8([32]byte{byte(c.calls)}), size)
	if err != nil {
		result.err = errors.Join(err, w.Discard())
		return result, nil
	}
	blob, err := w.Seal()
	if err != nil {
		result.err = err
		return result, nil
	}
	defer func() { _ = blob.Remove() }() // the directory goes anyway
	var mu sync.Mutex
	var out *spool.File
	report := &checkReporter{mu: &mu, call: &result}
	call := &Call{
		JobID: id, Func: fn, Kwargs: json.RawMessage(kwargs), Input: blob, Attempt: 1, Report: report,
		Metadata: map[string]string{"x-check": "yes"},
		AdoptOutput: func(path string, _ bool) (func(int64) error, error) {
			f, err := c.spool.AdoptFile(id+".out", path, 0)
			out = f
			return func(size int64) error {
				mu.Lock()
				result.told = append(result.told, size)
				mu.Unlock()
				return f.Grow(size)
			}, err
		},
	}
	value, err := c.inst.Call(ctx, call)
	mu.Lock()
	defer mu.Unlock()
	result.value, result.err = value, err
	if out != nil {
		result.output = out.Committed()
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(out, 0, result.output)); err != nil && result.err == nil {
			result.err = err
		}
		result.sum = sum.Sum(nil)
		if err := c.spool.RemoveFile(id + ".out"); err != nil && result.err == nil {
			result.err = err
		}
	}
	return result, hash.Sum(nil)
}

type checkReporter struct {
	mu   *sync.Mutex
	call *checkedCall
}

func (r *checkReporter) Progress(done, total int64, _, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.call.progress = append(r.call.progress, done, total)
}

func (r *checkReporter) Log(slog.Level, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.call.lines++
}

func (r *checkReporter) Alive() {}

func (c *checker) unknown(ctx context.Context) error {
	var unknown *FunctionError
	if got, _ := c.call(ctx, "no-such-function", "{}", 0); !errors.As(got.err, &unknown) {
		return fmt.Errorf("a function that it doesn't have: want the error %d, got %w", codeNoFunction, cmp.Or(got.err, errNoError))
	}
	return nil
}

func (c *checker) echo(ctx context.Context) error {
	for _, kwargs := range []string{`{}`, `{"a":[1,2.5,null,true,"\u00e4\u4e16\u754c \ud83d\ude80 \"\\\n"],"b":{"c":{}}}`} {
		got, _ := c.call(ctx, "echo", kwargs, 0)
		if got.err != nil {
			return got.err
		}
		if same, err := sameValue(got.value, json.RawMessage(kwargs)); err != nil || !same {
			return fmt.Errorf("the result is %.200s, want the kwargs %s", got.value, kwargs)
		}
	}
	return nil
}

// sameValue compares JSON values.
func sameValue(a, b json.RawMessage) (bool, error) {
	var x, y any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return false, err
	}
	p, err := json.Marshal(x)
	q, qerr := json.Marshal(y)
	return string(p) == string(q), errors.Join(err, qerr)
}

func (c *checker) payload(ctx context.Context) error {
	for _, size := range []int64{1, 1000, checkPayload} {
		got, want := c.call(ctx, "echo", `{}`, size)
		switch {
		case got.err != nil:
			return fmt.Errorf("%d bytes: %w", size, got.err)
		case got.output != size:
			return fmt.Errorf("%d bytes: the output has %d", size, got.output)
		case string(got.sum) != string(want):
			return fmt.Errorf("%d bytes: the output has the SHA-256 %x, want %x", size, got.sum, want)
		case size == checkPayload && len(got.told) < 4:
			return fmt.Errorf("%d bytes: %d notifications of output, want one every 16 MiB", size, len(got.told))
		}
	}
	return nil
}

func (c *checker) progress(ctx context.Context) error {
	got, _ := c.call(ctx, "progress", `{"n":5}`, 0)
	switch {
	case got.err != nil:
		return got.err
	case string(got.value) != "5":
		return fmt.Errorf("the result is %.100s, want 5", got.value)
	case fmt.Sprint(got.progress) != "[1 5 2 5 3 5 4 5 5 5]":
		return fmt.Errorf("the progress (done, total, …) is %d, want 1 to 5 of 5", got.progress)
	}
	return nil
}

func (c *checker) noise(ctx context.Context) error {
	got, _ := c.call(ctx, "noise", `{}`, 0)
	if got.err != nil {
		return got.err
	}
	again, _ := c.call(ctx, "echo", `{}`, 0)
	var unknown *FunctionError
	if again.err != nil && !errors.As(again.err, &unknown) {
		return fmt.Errorf("the next call: %w", again.err)
	}
	return nil
}

// slots has as many calls run at once as the worker has slots.
func (c *checker) slots(ctx context.Context) error {
	n := c.model.cfg.Slots
	begun := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			call := &Call{JobID: fmt.Sprintf("slot-%d", i), Func: "sleep", Kwargs: json.RawMessage(`{"seconds":1}`)}
			_, errs[i] = c.inst.Call(ctx, call)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if took := time.Since(begun); took > time.Duration(n)*time.Second {
		return fmt.Errorf("%d calls of 1 s at once took %v: they ran one after the other", n, took)
	}
	return nil
}

func (c *checker) cancel(ctx context.Context) error {
	errGone := errors.New("gone")
	cctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	time.AfterFunc(200*time.Millisecond, func() { cancel(errGone) })
	begun := time.Now()
	got, _ := c.call(cctx, "sleep", `{"seconds":3600}`, 0)
	if !errors.Is(got.err, errGone) {
		return fmt.Errorf("it ended before it was canceled: %w, %.100s", cmp.Or(got.err, errNoError), got.value)
	}
	if took := time.Since(begun); took > c.model.cfg.CancelGrace {
		return fmt.Errorf("the call ended %v after it was begun, by a signal: the notification cancel should do", took.Round(time.Millisecond))
	}
	select {
	case <-c.inst.Done():
		return fmt.Errorf("the process has ended with its call: %w", cmp.Or(c.inst.Err(), errNoError))
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

func (c *checker) crash(ctx context.Context) error {
	got, _ := c.call(ctx, "crash", `{}`, 0)
	var crash *CrashError
	if !errors.As(got.err, &crash) {
		return fmt.Errorf("the process was to die, but the call gave %w, %.100s", cmp.Or(got.err, errNoError), got.value)
	}
	if _, err := os.Stat(c.process().dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("its work directory is still there: %w", cmp.Or(err, errNoError))
	}
	return nil
}

func (c *checker) shutdown(context.Context) error {
	p := c.process()
	c.inst = nil
	begun := time.Now()
	err := p.Close()
	if took := time.Since(begun); err == nil && took >= p.cfg.StopGrace {
		return fmt.Errorf("it did not exit within %v", p.cfg.StopGrace)
	}
	return err
}

// podGone closes the socket, as the death of the pod does.
func (c *checker) podGone(context.Context) error {
	p := c.process()
	c.inst = nil
	if err := p.conn.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if p.child.waitFor(5 * time.Second) {
		return nil
	}
	p.child.signal(syscall.SIGKILL)
	return errors.New("it has not exited 5 s after the end of its socket")
}
