package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ExecConfig is a model that is a program: one process a call. Command and
// WorkDir are required.
type ExecConfig struct {
	// Command is a program and its arguments. "{key}" in an argument is the kwarg of
	// that name.
	Command []string
	// Functions are the names it is called by, default "run".
	Functions []string
	// Env is added to the pod's own environment, "KEY=VALUE".
	Env []string
	// WorkDir is for what calls need while they run. It belongs to this model, and
	// is emptied.
	WorkDir string
	// CancelGrace is the time between two signals of a cancellation, default 2s.
	CancelGrace time.Duration
}

// An Exec is a model that is a program.
type Exec struct {
	cfg ExecConfig

	mu   sync.Mutex
	live map[*child]bool
}

var _ Model = (*Exec)(nil)

// OpenExec checks that the program is there.
func OpenExec(cfg ExecConfig) (*Exec, error) {
	cfg.CancelGrace = cmp.Or(cfg.CancelGrace, 2*time.Second)
	if len(cfg.Functions) == 0 {
		cfg.Functions = []string{"run"}
	}
	if len(cfg.Command) == 0 || cfg.Command[0] == "" {
		return nil, errors.New("no command given: put it after --")
	}
	if _, err := exec.LookPath(cfg.Command[0]); err != nil {
		return nil, fmt.Errorf("open command: %w", err)
	}
	if err := checkFunctions(cfg.Functions); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(cfg.WorkDir); err != nil { // what a crash left
		return nil, fmt.Errorf("open command: %w", err)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o700); err != nil {
		return nil, fmt.Errorf("open command: %w", err)
	}
	return &Exec{cfg: cfg, live: map[*child]bool{}}, nil
}

// Close kills what still runs, with all its children.
func (m *Exec) Close() error {
	m.mu.Lock()
	live := slices.Collect(maps.Keys(m.live))
	m.mu.Unlock()
	for _, c := range live {
		c.stop(0, syscall.SIGKILL)
	}
	return nil
}

// lives notes that a process runs, and returns what notes its end.
func (m *Exec) lives(c *child) (ends func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live[c] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.live, c)
	}
}

// checkFunctions checks names that somebody has chosen.
func checkFunctions(names []string) error {
	for i, name := range names {
		if !validFunction.MatchString(name) {
			return fmt.Errorf("%.80q can't be the name of a function: it has 1 to 64 of A-Z, a-z, 0-9, _, . and -", name)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("the function %q is given twice", name)
		}
	}
	return nil
}

// describeAll describes functions that are all the same.
func describeAll(model, doc string, names []string) Description {
	d := Description{Model: model}
	for _, name := range slices.Sorted(slices.Values(names)) {
		d.Functions = append(d.Functions, Function{Name: name, Doc: doc})
	}
	return d
}

// Describe implements [Model].
func (m *Exec) Describe() Description {
	return describeAll(filepath.Base(m.cfg.Command[0]),
		"Runs "+strings.Join(m.cfg.Command, " ")+": the payload is its input, its output the result", m.cfg.Functions)
}

// Load implements [Model].
func (m *Exec) Load(_ context.Context, version string) (Instance, error) {
	return execInstance{model: m}, nil
}

type execInstance struct {
	Lasting
	model *Exec
}

// Close implements [Instance].
func (execInstance) Close() error { return nil }

// Call implements [Instance].
func (i execInstance) Call(ctx context.Context, c *Call) (json.RawMessage, error) {
	command, err := fill(i.model.cfg.Command, c)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(i.model.cfg.WorkDir, "call-")
	if err != nil {
		return nil, fmt.Errorf("make work directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	metadata, err := json.Marshal(c.Metadata)
	if err != nil {
		return nil, err
	}
	var stdin io.Reader
	if c.Input != nil && c.Input.Size() > 0 {
		r, err := c.Input.Open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		stdin = r
	}
	out := &execOutput{call: c}
	p, err := startChild(childConfig{
		what: "the command " + filepath.Base(command[0]), command: command, stdin: stdin, stdout: out,
		line: func(_, line string) { c.Log(slog.LevelInfo, line) },
		env: environment(append([]string{
			"AIPOD_FUNC=" + c.Func, "AIPOD_VERSION=" + c.Version, "AIPOD_KWARGS=" + string(c.Kwargs),
			"AIPOD_JOB_ID=" + c.JobID, "AIPOD_ATTEMPT=" + strconv.Itoa(c.Attempt), "AIPOD_METADATA=" + string(metadata),
			"AIPOD_WORK_DIR=" + dir,
		}, i.model.cfg.Env...)...),
	})
	if errors.Is(err, syscall.E2BIG) {
		return nil, Invalidf("the kwargs are too large for a command: send them as the payload")
	}
	if err != nil {
		return nil, err
	}
	defer i.model.lives(p)()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop(i.model.cfg.CancelGrace, ladder...)
		return nil, context.Cause(ctx)
	}
	err = p.exit()
	var crash *CrashError
	switch {
	case out.err != nil: // which is what has ended the process, too
		return nil, out.err
	case errors.As(err, &crash) && strings.HasPrefix(crash.How, "exit status"):
		reason := crash.How
		if crash.Tail != "" {
			reason += "; the end of its standard error:\n" + crash.Tail
		}
		return nil, &FailedError{Func: c.Func, Reason: reason}
	case err != nil:
		return nil, err
	case out.w == nil:
		return json.RawMessage("null"), nil
	}
	return nil, nil
}

var placeholder = regexp.MustCompile(`\{[A-Za-z_][A-Za-z0-9_]*\}`)

// fill puts the kwargs into a command's arguments.
func fill(command []string, c *Call) ([]string, error) {
	var kwargs map[string]json.RawMessage
	if len(c.Kwargs) > 0 {
		if err := json.Unmarshal(c.Kwargs, &kwargs); err != nil {
			return nil, Invalidf("kwargs of %q: %s", c.Func, err)
		}
	}
	filled := slices.Clone(command)
	for n, arg := range command[1:] {
		var wrong error
		filled[n+1] = placeholder.ReplaceAllStringFunc(arg, func(name string) string {
			key := name[1 : len(name)-1]
			raw, ok := kwargs[key]
			if !ok {
				wrong = Invalidf("the kwarg %q is missing, the command needs it", key)
				return ""
			}
			var text string
			if json.Unmarshal(raw, &text) != nil {
				return string(raw)
			}
			switch {
			case strings.HasPrefix(arg, name) && strings.HasPrefix(text, "-"):
				wrong = Invalidf("the kwarg %q is %.80q: the command would take it for an option", key, text)
			case strings.ContainsRune(text, 0):
				wrong = Invalidf("the kwarg %q has a NUL character", key)
			}
			return text
		})
		if wrong != nil {
			return nil, wrong
		}
	}
	return filled, nil
}

// An execOutput makes the call's output of what the process prints, if it prints
// anything. It belongs to the goroutine that copies.
type execOutput struct {
	call *Call
	w    io.Writer
	err  error
}

func (o *execOutput) Write(p []byte) (n int, err error) {
	if o.w == nil {
		if o.w, o.err = o.call.OpenOutput(); o.err != nil {
			return 0, o.err
		}
	}
	n, o.err = o.w.Write(p)
	return n, o.err
}
