//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What TestMain makes for all tests.
var (
	serverBinary string // the pod
	workDir      string // temporary, for all tests
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(envPod); addr != "" {
		os.Exit(countingPodMain(addr))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "aipod-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		workDir = dir
		// Cleanups don't run when somebody interrupts the tests.
		interrupts := make(chan os.Signal, 1)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			<-interrupts
			groups.killAll()
			_ = os.RemoveAll(dir)
			os.Exit(130)
		}()
		defer groups.killAll()
		serverBinary = filepath.Join(dir, "server")
		args := []string{"build", "-o", serverBinary}
		if os.Getenv("AIPOD_E2E_RACE") != "" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "../cmd/server")...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: build the server:", err)
			return 1
		}
		// Most of the tests' time is waiting.
		flag.Parse()
		if given := flag.Lookup("test.parallel"); given.Value.String() == given.DefValue {
			_ = given.Value.Set("8")
		}
		return m.Run()
	}())
}

// groups are the process groups that are alive.
var groups processGroups

type processGroups struct {
	mu   sync.Mutex
	live map[int]bool // by leader's pid
}

func (g *processGroups) add(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live == nil {
		g.live = map[int]bool{}
	}
	g.live[pid] = true
}

// kill ends a group, once: later the number may be another's.
func (g *processGroups) kill(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live[pid] {
		delete(g.live, pid)
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

func (g *processGroups) killAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for pid := range g.live {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	clear(g.live)
}

// tool finds a program that install.sh or the Makefile puts there.
func tool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	// Debian's nginx is only on root's PATH.
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path := filepath.Join(dir, name); isExecutable(path) {
			return path
		}
	}
	t.Fatalf("%s is not installed: run e2e/install.sh; grpcurl comes with make tools", name)
	return ""
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// repoFile is a file of the repository, by its path from the root.
func repoFile(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// run runs a program that ends by itself and returns its standard output.
func run(t *testing.T, limit time.Duration, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(name), err, exit.Stderr)
	}
	return string(out), err
}

// mustRun is run for what has to succeed.
func mustRun(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := run(t, limit, name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}
