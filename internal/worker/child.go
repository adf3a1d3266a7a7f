package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A childConfig is what to start.
type childConfig struct {
	what    string   // in errors: "the worker of version a"
	command []string // program and arguments
	env     []string
	dir     string    // working directory; empty is the pod's
	stdin   io.Reader // nil is empty
	stdout  io.Writer // nil makes lines of it
	files   []*os.File
	// line takes what the process prints: stream is "stdout" or "stderr". It is
	// called from two goroutines.
	line func(stream, line string)
}

// A child is an operating system's process, the leader of a process group that
// ends with it. One goroutine waits for it.
type child struct {
	what   string
	cmd    *exec.Cmd
	stderr *lineWriter
	done   chan struct{} // closed when the group has ended and all output is there
	begun  time.Time
	ooms   int64 // that the kernel had killed for memory before

	mu     sync.Mutex
	ended  bool
	killed bool  // by this package
	err    error // once done: nil after exit status 0, else a *CrashError
}

// drainPipes is how long output may be open after a process has ended, because
// its own children have it.
const drainPipes = 500 * time.Millisecond

// startChild starts a process. An error says what is wrong with the command.
func startChild(cfg childConfig) (*child, error) {
	c := &child{
		what:   cfg.what,
		cmd:    exec.CommandContext(context.Background(), cfg.command[0], cfg.command[1:]...),
		stderr: newLineWriter(func(line string) { cfg.line("stderr", line) }),
		done:   make(chan struct{}),
		begun:  time.Now(),
		ooms:   outOfMemoryKills(),
	}
	cmd := c.cmd
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.ExtraFiles = cfg.env, cfg.dir, cfg.stdin, cfg.files
	cmd.Stderr, cmd.Stdout = c.stderr, cfg.stdout
	stdout := (*lineWriter)(nil)
	if cfg.stdout == nil {
		stdout = newLineWriter(func(line string) { cfg.line("stdout", line) })
		cmd.Stdout = stdout
	}
	cmd.WaitDelay = drainPipes
	if err := isolate(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.what, err)
	}
	exposeToOutOfMemory(cmd.Process.Pid)
	go func() {
		err := cmd.Wait()
		c.mu.Lock()
		c.ended = true
		_ = signalGroup(cmd.Process.Pid, syscall.SIGKILL) // what it left behind
		c.mu.Unlock()
		c.stderr.close()
		if stdout != nil {
			stdout.close()
		}
		c.mu.Lock()
		c.err = c.crash(err)
		c.mu.Unlock()
		close(c.done)
	}()
	return c, nil
}

// crash describes how the process has ended; nil is well.
func (c *child) crash(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case !errors.As(err, &exit):
		return &CrashError{What: c.what, How: err.Error(), Tail: c.stderr.tail()}
	}
	crash := &CrashError{What: c.what, How: exit.Error(), Tail: c.stderr.tail()}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		crash.How = fmt.Sprintf("signal %d (%s)", int(status.Signal()), status.Signal())
		if status.CoreDump() {
			crash.How += ", core dumped"
		}
		crash.OutOfMemory = status.Signal() == syscall.SIGKILL && !c.killed && outOfMemoryKills() > c.ooms
	}
	return crash
}

// exit is how the process has ended; call it after done. Nil is exit status 0.
func (c *child) exit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// signal sends a signal to the process, and SIGKILL to all of its group.
func (c *child) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
	case s == syscall.SIGKILL:
		c.killed = true
		_ = signalGroup(c.cmd.Process.Pid, s)
	default:
		_ = c.cmd.Process.Signal(s)
	}
}

// waitFor waits for the end of the process, and says whether it has come.
func (c *child) waitFor(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
		return false
	}
}

// stop ends the process: it gets the signals in turn, each with so much time.
func (c *child) stop(grace time.Duration, signals ...syscall.Signal) {
	for _, s := range signals {
		c.signal(s)
		if s != syscall.SIGKILL && c.waitFor(grace) {
			return
		}
	}
	<-c.done
}

// ownPrefix begins the names of the pod's own environment.
const ownPrefix = "AIPOD_"

// environment is the pod's own without what configures the pod, and more.
func environment(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, ownPrefix) {
			env = append(env, v)
		}
	}
	return append(env, more...)
}
