//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is a child that runs beside a test. It leads a process group of its
// own, which the test's cleanup kills.
type process struct {
	name string
	cmd  *exec.Cmd

	done   chan struct{} // closed when it has ended and all output is there
	ended  time.Time     // once done
	output lines         // standard output and standard error
}

// start starts cmd and shows its last output when the test fails.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	p.output.more = make(chan struct{})
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	// The death signal is for tests that can't clean up, because of their time
	// limit or a panic.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	pid := cmd.Process.Pid
	groups.add(pid)
	go func() {
		_ = cmd.Wait()   // ProcessState says it
		groups.kill(pid) // what it left behind
		p.ended = time.Now()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the last output of %s:\n%s", name, strings.Join(p.output.tail(40), "\n"))
		}
	})
	return p
}

// kill ends the process and all its children, and waits for them.
func (p *process) kill() {
	groups.kill(p.cmd.Process.Pid)
	<-p.done
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("send %v to %s: %v", s, p.name, err)
	}
}

// running says whether the process has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// wait waits until the process has ended and returns its exit code; -1 means a
// signal.
func (p *process) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%s is still running after %v", p.name, limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// waitLine waits for a line of output that match accepts, looking at all of
// them from the first on.
func (p *process) waitLine(limit time.Duration, match func(string) bool) (string, error) {
	timeout := time.After(limit)
	for from := 0; ; {
		all, more := p.output.from(from)
		for _, line := range all {
			if match(line) {
				return line, nil
			}
		}
		from += len(all)
		select {
		case <-more:
		case <-p.done:
			if all, _ := p.output.from(from); len(all) == 0 {
				return "", fmt.Errorf("%s has ended: %v", p.name, p.cmd.ProcessState)
			}
		case <-timeout:
			return "", fmt.Errorf("%s did not say it within %v", p.name, limit)
		}
	}
}

// lines is an io.Writer that keeps what is written, by line.
type lines struct {
	mu   sync.Mutex
	all  []string
	rest []byte        // of a line that is not complete
	more chan struct{} // closed when there are more
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			break
		}
		l.all = append(l.all, string(line))
		l.rest = rest
	}
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// from returns the lines from an index on.
func (l *lines) from(i int) ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all[i:]...), l.more
}

func (l *lines) tail(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all[max(0, len(l.all)-n):]...)
}
