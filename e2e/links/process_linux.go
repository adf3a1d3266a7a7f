package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A process runs in a network namespace, in a process group of its own, so that an
// interrupt ends it only when the lab says so.
type process struct {
	cmd  *exec.Cmd
	done chan error // of Wait, once
}

// start starts a program in a namespace.
func (l *lab) start(namespace string, stdin io.Reader, stdout io.Writer, args ...string) (*process, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, l.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan error, 1)}
	go func() { p.done <- cmd.Wait() }()
	return p, nil
}

// stop ends it as SIGTERM does, or as SIGKILL does if that is not enough.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case err := <-p.done:
		return err
	case <-time.After(tidying):
		_ = p.cmd.Process.Kill() // the same
		return errors.Join(fmt.Errorf("%s: did not end within %v", p.cmd, tidying), <-p.done)
	}
}

// output runs a program and returns what it prints; what it says goes into the error.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}
