package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aipod/aipod/bench/peers/peer"
)

const (
	startup = 20 * time.Second // a server's, until it listens
	ending  = 20 * time.Second // a client's, when it has been told
)

// A process is a server or a client that runs.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	stderr *tail
}

// start starts a program. It is killed when ctx ends.
func start(ctx context.Context, args []string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, args[0], args[1:]...), stderr: &tail{}}
	// A proxy of the machine's is not what is measured.
	p.cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1", "PYTHONDONTWRITEBYTECODE=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

// failure adds what the process has said to an error.
func (p *process) failure(err error) error {
	return fmt.Errorf("%s: %w: %s", strings.Join(p.cmd.Args, " "), err, p.stderr)
}

// kill ends the process.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()         // says that it was killed
}

// address waits until a server says where it listens.
func (p *process) address() (string, error) {
	found := make(chan string, 1)
	timeout := time.AfterFunc(startup, func() { _ = p.cmd.Process.Kill() })
	defer timeout.Stop()
	go func() {
		lines := bufio.NewScanner(p.stdout)
		for lines.Scan() {
			if addr, ok := strings.CutPrefix(lines.Text(), peer.Listening); ok {
				found <- addr
			}
		}
		close(found)
	}()
	select {
	case addr, ok := <-found:
		if ok {
			return addr, nil
		}
	case addr := <-p.stderr.listening():
		return addr, nil
	}
	return "", p.failure(errors.New("does not listen"))
}

// result waits for a client's result. The client then waits for finish.
func (p *process) result() (peer.Result, error) {
	r, err := peer.ReadResult(p.stdout)
	if err != nil {
		p.kill() // so that it has said all
		return r, p.failure(err)
	}
	return r, nil
}

// finish lets a client end.
func (p *process) finish() error {
	_ = p.stdin.Close() // it notices
	timeout := time.AfterFunc(ending, func() { _ = p.cmd.Process.Kill() })
	defer timeout.Stop()
	if err := p.cmd.Wait(); err != nil {
		return p.failure(err)
	}
	return nil
}

// A tail keeps the end of what a process prints, and finds the line of aipod's log
// that says where it listens. Its methods are for any goroutine.
type tail struct {
	mu    sync.Mutex
	buf   []byte
	addr  chan string // made by listening
	found string
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf = append(t.buf, p...); len(t.buf) > tailSize {
		t.buf = t.buf[len(t.buf)-tailSize:]
	}
	if t.found == "" {
		for line := range strings.Lines(string(t.buf)) {
			var record struct{ Msg, Addr string }
			if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "listening" {
				t.found = record.Addr
				t.tell()
			}
		}
	}
	return len(p), nil
}

// listening gives the address once it is known.
func (t *tail) listening() <-chan string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addr = make(chan string, 1)
	t.tell()
	return t.addr
}

// tell is called with mu held.
func (t *tail) tell() {
	if t.addr != nil && t.found != "" {
		select {
		case t.addr <- t.found:
		default:
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
