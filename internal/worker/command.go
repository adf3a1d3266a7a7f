package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// CommandConfig is a model whose instances are processes of a command, which
// speak the protocol of docs/workers.md. Command, DataDir and WorkDir are
// required.
type CommandConfig struct {
	// Command is a program and its arguments.
	Command []string
	// Env is added to the pod's own environment, "KEY=VALUE".
	Env []string
	// Settings is a JSON object for initialize, default {}.
	Settings json.RawMessage
	// DataDir is for versions that functions make; it outlives the pod.
	DataDir string
	// WorkDir is for what calls need while they run. It is on the file system of
	// the spool, belongs to this model, and is emptied.
	WorkDir string
	// Slots is how many calls run in one process at once, default 1.
	Slots int

	// StartTimeout is how long a process may take to load its version, default 5m.
	StartTimeout time.Duration
	// CallTimeout is how long a call may take, default forever.
	CallTimeout time.Duration
	// StallTimeout is how long a call may show no life, before that is told in its
	// log, default 1m, negative for never.
	StallTimeout time.Duration
	// StallKill ends the process then.
	StallKill bool
	// CancelGrace is the time between two steps of a cancellation, default 2s.
	CancelGrace time.Duration
	// StopGrace is how long a process may take to exit when no call runs, default
	// 10s.
	StopGrace time.Duration

	// MaxCalls, MaxAge and MaxRSS, in bytes, are after how much a process is
	// replaced, when no call runs in it; default never.
	MaxCalls int
	MaxAge   time.Duration
	MaxRSS   int64

	// Logger takes what has no job to be told to, default slog.Default().
	Logger *slog.Logger
}

func (c CommandConfig) withDefaults() (CommandConfig, error) {
	c.Slots = max(c.Slots, 1)
	c.StartTimeout = cmp.Or(c.StartTimeout, 5*time.Minute)
	c.StallTimeout = cmp.Or(c.StallTimeout, time.Minute)
	c.CancelGrace = cmp.Or(c.CancelGrace, 2*time.Second)
	c.StopGrace = cmp.Or(c.StopGrace, 10*time.Second)
	if len(c.Settings) == 0 {
		c.Settings = json.RawMessage("{}")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case len(c.Command) == 0 || c.Command[0] == "":
		return c, errors.New("no worker command given: put it after --")
	case !isObject(c.Settings):
		return c, fmt.Errorf("the worker's configuration is not a JSON object: %.80s", c.Settings)
	}
	for _, v := range c.Env {
		if key, _, ok := strings.Cut(v, "="); !ok || key == "" {
			return c, fmt.Errorf("the worker's environment has %q: give KEY=VALUE", v)
		}
	}
	for _, dir := range []*string{&c.DataDir, &c.WorkDir} {
		if *dir == "" {
			return c, errors.New("no directory given")
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return c, err
		}
		*dir = abs
	}
	return c, nil
}

// A Command is a model whose instances are processes.
type Command struct {
	cfg CommandConfig

	mu          sync.Mutex
	description Description
	first       Instance // of the default version, until somebody loads it
	serial      int      // of processes
	live        map[*process]bool
}

var (
	_ Model    = (*Command)(nil)
	_ Instance = (*process)(nil)
)

// OpenCommand starts a process of the default version, to learn what the model
// can do. It takes as long as the process does.
func OpenCommand(ctx context.Context, cfg CommandConfig) (*Command, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open worker: %w", err)
	}
	if err := os.RemoveAll(cfg.WorkDir); err != nil { // what a crash left
		return nil, fmt.Errorf("open worker: %w", err)
	}
	for _, dir := range []string{cfg.WorkDir, cfg.DataDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open worker: %w", err)
		}
	}
	m := &Command{cfg: cfg, live: map[*process]bool{}}
	if m.first, err = m.start(ctx, ""); err != nil {
		return nil, fmt.Errorf("open worker: %w", err)
	}
	return m, nil
}

// Close ends the process that nobody has loaded, and kills those in which calls
// still run, with all their children.
func (m *Command) Close() error {
	var err error
	if first := m.takeFirst(); first != nil {
		err = first.Close()
	}
	m.mu.Lock()
	live := slices.Collect(maps.Keys(m.live))
	m.mu.Unlock()
	for _, p := range live {
		p.kill("the pod shuts down")
		<-p.gone
	}
	return err
}

func (m *Command) takeFirst() Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.first
	m.first = nil
	return first
}

// Describe implements [Model].
func (m *Command) Describe() Description {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.description
	d.Functions, d.Versions = slices.Clone(d.Functions), slices.Clone(d.Versions)
	return d
}

// Load implements [Model].
func (m *Command) Load(ctx context.Context, version string) (Instance, error) {
	if version == "" {
		if first := m.takeFirst(); first != nil {
			select {
			case <-first.Done():
				if err := first.Close(); err != nil {
					m.cfg.Logger.Warn("worker not closed cleanly", "err", err)
				}
			default:
				return first, nil
			}
		}
	}
	return m.start(ctx, version)
}

// setVersions is told by a process which versions there are now.
func (m *Command) setVersions(versions []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.description.Versions = slices.Compact(slices.Sorted(slices.Values(versions)))
}

var validFunction = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// isObject is for JSON, or nothing.
func isObject(text json.RawMessage) bool {
	var object map[string]json.RawMessage
	return len(text) == 0 || json.Unmarshal(text, &object) == nil
}

// describe takes what a process has answered to initialize. What the pod shows is
// what the default version can do.
func (m *Command) describe(version string, r initializeResult) error {
	d := Description{Model: cmp.Or(r.Model, filepath.Base(m.cfg.Command[0]))}
	for _, f := range r.Functions {
		if !validFunction.MatchString(f.Name) {
			return fmt.Errorf("it has a function named %.80q: a name has 1 to 64 of A-Z, a-z, 0-9, _, . and -", f.Name)
		}
		doc, _, _ := strings.Cut(f.Doc, "\n")
		if !isObject(f.Kwargs) {
			return fmt.Errorf("the kwargs of its function %s are not a JSON Schema, which is an object: %.80s", f.Name, f.Kwargs)
		}
		d.Functions = append(d.Functions, Function{Name: f.Name, Doc: doc, MakesVersion: f.MakesVersion, Kwargs: f.Kwargs, Payload: f.Payload})
	}
	slices.SortFunc(d.Functions, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(d.Functions); i++ {
		if d.Functions[i].Name == d.Functions[i-1].Name {
			return fmt.Errorf("it has two functions named %q", d.Functions[i].Name)
		}
	}
	if len(d.Functions) == 0 {
		return errors.New("it has no functions")
	}
	if r.Versions != nil {
		m.setVersions(r.Versions)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if version == "" {
		d.Versions = m.description.Versions
		m.description = d
	}
	return nil
}
