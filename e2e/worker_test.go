//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/client"
)

// startModel starts a pod whose model is e2e/python/model.py.
func startModel(t *testing.T, flags ...string) *pod {
	t.Helper()
	return startPod(t, append(flags, "--", python, "python/model.py")...)
}

// callResult runs a function without a payload through the package client.
func callResult(ctx context.Context, t *testing.T, p *pod, call client.Call) (*client.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if call.Heartbeat == 0 {
		call.Heartbeat = 200 * time.Millisecond
	}
	return newClient(t, client.Config{Addr: "http://" + p.addr}).Run(ctx, call)
}

// workers are the pids of the pod's worker processes.
func (p *pod) workers(t *testing.T) []int {
	t.Helper()
	var pids []int
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// groupMembers are the processes of a process group, zombies included, unless
// their parent has died: then they are left to process 1.
func groupMembers(t *testing.T, pgid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var members []string
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// PID (COMMAND) STATE PPID PGRP …; the command may have spaces.
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 2 && fields[2] == strconv.Itoa(pgid) && (fields[0] != "Z" || fields[1] != "1") {
			members = append(members, string(text))
		}
	}
	return members
}

// codeOf is why a job has failed.
func codeOf(err error) connect.Code {
	var failed *client.JobError
	if errors.As(err, &failed) {
		return failed.Code
	}
	return connect.CodeOf(err)
}

// TestWorkerKilled kills a Python worker under its call.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	p := startModel(t)
	t.Run("by itself, once", func(t *testing.T) {
		for _, id := range []string{"named", ""} {
			var lines []string
			res, err := callResult(t.Context(), t, p, client.Call{
				Func: "die", Kwargs: json.RawMessage(`{"attempts":1}`), JobID: id,
				Watch: func(e client.Event) {
					if l, ok := e.(client.Log); ok {
						lines = append(lines, l.Line)
					}
				},
			})
			if err != nil || string(res.JSON) != "2" {
				t.Errorf("job %q: %v, %v; want the result of attempt 2", id, res, err)
			}
			if text := strings.Join(lines, "\n"); !strings.Contains(text, "attempt 1 is lost and begun again: the worker died: signal 9 (killed)") {
				t.Errorf("job %q: the log does not say so: %s", id, text)
			}
		}
	})
	t.Run("from outside", func(t *testing.T) {
		killed := 0
		res, err := callResult(t.Context(), t, p, client.Call{
			Func: "nap", Kwargs: json.RawMessage(`{"seconds":1.5}`), JobID: "outside",
			Watch: func(e client.Event) {
				if l, ok := e.(client.Log); ok && l.Line == "napping" && killed == 0 {
					killed++
					for _, pid := range p.workers(t) {
						if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
							t.Error(err)
						}
					}
				}
			},
		})
		if err != nil || string(res.JSON) != "null" || killed != 1 {
			t.Errorf("%v, %v after %d kills", res, err, killed)
		}
	})
	t.Run("each time", func(t *testing.T) {
		for _, tt := range []struct {
			signal int
			name   string
		}{{9, "signal 9 (killed)"}, {11, "signal 11 (segmentation fault)"}} {
			_, err := callResult(t.Context(), t, p, client.Call{
				Func: "die", Kwargs: fmt.Appendf(nil, `{"signo":%d}`, tt.signal), JobID: "each-" + strconv.Itoa(tt.signal),
			})
			if codeOf(err) != connect.CodeAborted || !strings.Contains(err.Error(), tt.name) || !strings.Contains(err.Error(), "about to die") {
				t.Errorf("got %v, want ABORTED with %q and the end of standard error", err, tt.name)
			}
		}
	})
}

// TestVersionThatDies has a version die at each call, while another serves.
func TestVersionThatDies(t *testing.T) {
	t.Parallel()
	p := startModel(t)
	const service = "aipod.version/bad"
	for n := range 2 {
		_, err := callResult(t.Context(), t, p, client.Call{Func: "die", Version: "bad"})
		if codeOf(err) != connect.CodeAborted {
			t.Errorf("call %d: %v", n, err)
		}
		if res, err := callResult(t.Context(), t, p, client.Call{Func: "which", Version: "good"}); err != nil {
			t.Errorf("the other version: %v, %v", res, err)
		}
	}
	if status, err := health(t.Context(), p.addr, service); err != nil || status != "NOT_SERVING" {
		t.Errorf("health of the version: %s, %v", status, err)
	}
	for _, service := range []string{"", "ai.AI", "aipod.v1.JobService"} {
		if status, err := health(t.Context(), p.addr, service); err != nil || status != "SERVING" {
			t.Errorf("health of %q: %s, %v", service, status, err)
		}
	}
	var last time.Duration
	deaths := p.records("instance died", map[string]string{"version": "bad"})
	for n, r := range deaths {
		pause, err := time.ParseDuration(fmt.Sprint(r["pause"]))
		if full := 100 * time.Millisecond << n; err != nil || pause < full/2 || pause > full {
			t.Errorf("the pause after death %d is %v, want half of %v to all of it", n+1, r["pause"], full)
		}
		last = pause
	}
	if len(deaths) < 4 || last < 400*time.Millisecond {
		t.Errorf("%d deaths, the last pause was %v", len(deaths), last)
	}
	if _, err := callResult(t.Context(), t, p, client.Call{Func: "which", Version: "bad"}); err != nil {
		t.Errorf("a call that works: %v", err)
	}
	if status, err := health(t.Context(), p.addr, service); err != nil || status != "SERVING" {
		t.Errorf("health of the version after that: %s, %v", status, err)
	}
}

// TestVersionsThatDoNotLoad calls versions that never come up.
func TestVersionsThatDoNotLoad(t *testing.T) {
	t.Parallel()
	p := startModel(t, "--worker-start-timeout", "3s")
	for version, want := range map[string]struct {
		code connect.Code
		text string
	}{
		"missing": {connect.CodeNotFound, `version "missing" does not exist: choose one of a, b`},
		"broken":  {connect.CodeUnknown, "ValueError: the weights are not there"},
		"stuck":   {connect.CodeAborted, "it did not answer initialize within 3s"},
	} {
		t.Run(version, func(t *testing.T) {
			_, err := callResult(t.Context(), t, p, client.Call{Func: "which", Version: version})
			if codeOf(err) != want.code || !strings.Contains(err.Error(), want.text) {
				t.Errorf("got %v, want %v: %s", err, want.code, want.text)
			}
		})
	}
	if _, err := callResult(t.Context(), t, p, client.Call{Func: "which"}); err != nil {
		t.Errorf("the default version: %v", err)
	}
}

// TestCancelReachesWorker cancels functions that are in all kinds of places, in
// all ways that a job can be canceled.
func TestCancelReachesWorker(t *testing.T) {
	t.Parallel()
	const grace = time.Second
	for _, way := range []string{"client gone", "deadline", "jobs cancel", "pod drained"} {
		for _, fn := range []string{"nap", "doze", "spin", "hold", "defy"} {
			t.Run(way+"/"+fn, func(t *testing.T) {
				t.Parallel()
				p := startModel(t, "--worker-cancel-grace", grace.String(), "--drain-timeout", "1s", "--instances", "1")
				before := p.workers(t)
				if len(before) != 1 {
					t.Fatalf("the pod has the workers %v", before)
				}
				call := client.Call{Func: fn, Heartbeat: 200 * time.Millisecond, Ephemeral: way != "jobs cancel"}
				if way == "jobs cancel" {
					call.JobID = "job"
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if way == "deadline" {
					ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
				}
				c := newClient(t, client.Config{Addr: "http://" + p.addr})
				napping := make(chan struct{})
				call.Watch = func(e client.Event) {
					if l, ok := e.(client.Log); ok && l.Line == "napping" {
						close(napping)
					}
				}
				ended := make(chan error, 1)
				go func() {
					_, err := c.Run(ctx, call)
					ended <- err
				}()
				select {
				case <-napping:
				case err := <-ended:
					t.Fatalf("it ended with %v", err)
				case <-time.After(20 * time.Second):
					t.Fatal("it never began")
				}
				begun := time.Now()
				switch way {
				case "client gone":
					cancel()
				case "deadline":
					begun = begun.Add(2 * time.Second) // at the latest
				case "jobs cancel":
					if _, err := c.Cancel(t.Context(), "job"); err != nil {
						t.Fatal(err)
					}
				case "pod drained":
					begun = begun.Add(time.Second)
					p.signal(t, syscall.SIGTERM)
				}
				if err := <-ended; err == nil {
					t.Error("it has ended well")
				}
				// Three steps, a grace apart; the last ends everything.
				limit := time.Until(begun) + 3*grace + 2*time.Second
				eventually(t, limit, "the worker to be free or gone", func() error {
					members := groupMembers(t, before[0])
					switch {
					case way == "pod drained" || fn == "hold" || fn == "defy":
						if len(members) > 0 {
							return fmt.Errorf("still there: %v", members)
						}
					case len(members) > 1:
						return fmt.Errorf("there are %v", members)
					}
					return nil
				})
				if way == "pod drained" {
					expectExit(t, p, 0, begun, 3*time.Second)
					return
				}
				res, err := callResult(t.Context(), t, p, client.Call{Func: "which"})
				if err != nil {
					t.Fatalf("the next call: %v", err)
				}
				t.Logf("%s after %v", res.JSON, time.Since(begun).Round(10*time.Millisecond))
				if after := p.workers(t); len(after) != 1 {
					t.Errorf("the pod has the workers %v", after)
				}
			})
		}
	}
}

// TestWorkerMisbehaves has a worker print, forge and babble.
func TestWorkerMisbehaves(t *testing.T) {
	t.Parallel()
	p := startModel(t)
	for _, tt := range []struct {
		fn     string
		result string
		code   connect.Code
		text   string
	}{
		{fn: "chatter", result: `"done"`},
		{fn: "forge", result: `"genuine"`},
		{fn: "babble", code: connect.CodeAborted, text: "it wrote a line to its socket that is not of the protocol"},
		{fn: "unspeakable", code: connect.CodeUnknown, text: "JSON"},
		{fn: "which --no-such", code: connect.CodeUnimplemented, text: "not implemented yet"},
	} {
		t.Run(tt.fn, func(t *testing.T) {
			var lines []string
			res, err := callResult(t.Context(), t, p, client.Call{Func: tt.fn, Watch: func(e client.Event) {
				if l, ok := e.(client.Log); ok {
					lines = append(lines, l.Line)
				}
			}})
			switch {
			case tt.result != "" && (err != nil || string(res.JSON) != tt.result):
				t.Errorf("%v, %v; want %s", res, err, tt.result)
			case tt.result == "" && (codeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text)):
				t.Errorf("got %v, want %v: %s", err, tt.code, tt.text)
			}
			if tt.fn != "chatter" {
				return
			}
			text := strings.Join(lines, "\n")
			if !strings.Contains(text, "[stdout] a stray print") || !strings.Contains(text, "bytes more") || len(text) > 100_000 {
				t.Errorf("the log has %d bytes: %.500s", len(text), text)
			}
		})
	}
	if rss := p.peakRSS(t); rss > 96*mib {
		t.Errorf("the pod took %d MiB", rss/mib)
	}
	if res, err := callResult(t.Context(), t, p, client.Call{Func: "which"}); err != nil {
		t.Errorf("after all that: %v, %v", res, err)
	}
}

// TestWorkerMemory moves a GiB into a Python worker and out of it again.
func TestWorkerMemory(t *testing.T) {
	const size, limit = 1 << 30, 96 * mib
	p := startModel(t)
	needDisk(t, p.dir, 3*size)
	clientPath, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range []string{"sha256", "echo"} {
		out := filepath.Join(t.TempDir(), "out")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		cmd := exec.CommandContext(ctx, clientPath, "call", fn, "--addr", p.addr, "--generate", "1GiB", "-o", out)
		begun := time.Now()
		_, used, err := outputAndPeak(cmd)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(out)
		if err != nil || fn == "echo" && info.Size() != size {
			t.Errorf("%s: %v, %v", fn, info, err)
		}
		t.Logf("%s: %v, peak RSS: pod %d MiB, client %d MiB", fn, time.Since(begun).Round(time.Second), p.peakRSS(t)/mib, used/mib)
		if rss := p.peakRSS(t); rss > limit {
			t.Errorf("%s: the pod took %d MiB, want at most %d", fn, rss/mib, limit/mib)
		}
		_ = os.Remove(out)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, "work", "*", "*", "*")); len(left) > 0 {
		t.Errorf("left in the work directory: %v", left)
	}
}

// TestWorkerOutputStreams reads the first byte of an output before the function
// writes the last one.
func TestWorkerOutputStreams(t *testing.T) {
	t.Parallel()
	p := startModel(t)
	gate := filepath.Join(t.TempDir(), "gate")
	kwargs, err := json.Marshal(map[string]string{"gate": gate})
	if err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	first := make([]byte, 1)
	go func() {
		if _, err := io.ReadFull(pr, first); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, pr) // until Run has ended
	}()
	_, err = callResult(t.Context(), t, p, client.Call{Func: "trickle", Kwargs: kwargs, Output: pw})
	_ = pw.Close()
	if err != nil || string(first) != "a" {
		t.Errorf("%q, %v", first, err)
	}
}

// memoryGroup makes a control group with so many bytes of memory.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		root, file := "/sys/fs/cgroup", "memory.max"
		switch {
		case len(fields) != 3:
			continue
		case fields[1] == "memory":
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case fields[1] != "":
			continue
		}
		dir := filepath.Join(root, fields[2], fmt.Sprint("aipod-e2e-", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, 5*time.Second, "the control group to be empty", func() error { return os.Remove(dir) })
		})
		if os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(limit, 10)), 0o600) == nil {
			return dir
		}
	}
	t.Skip("no control group for memory can be made here: that takes root, and a machine that lets it")
	return ""
}

// TestWorkerOutOfMemory has the kernel kill a worker that takes all memory, and
// not the pod.
func TestWorkerOutOfMemory(t *testing.T) {
	group := memoryGroup(t, 256*mib)
	dir := t.TempDir()
	args := append([]string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group, serverBinary},
		podArgs("127.0.0.1:0", dir, []string{"--", python, "python/model.py"})...)
	p, err := podOf(t, dir, exec.Command("sh", args...))
	if err != nil {
		t.Fatal(err)
	}
	_, err = callResult(t.Context(), t, p, client.Call{Func: "exhaust"})
	if codeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "signal 9 (killed), killed by the kernel because memory ran out") {
		t.Errorf("got %v", err)
	}
	if res, err := callResult(t.Context(), t, p, client.Call{Func: "which"}); err != nil {
		t.Errorf("after that: %v, %v", res, err)
	}
	p.kill()
}
