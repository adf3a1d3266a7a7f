//go:build linux

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
)

// commandConfig is that of the test binary as a worker.
func commandConfig(t *testing.T, s workerSettings) CommandConfig {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return CommandConfig{
		Command: []string{exe}, Env: []string{envWorker + "=1"}, Settings: settings,
		DataDir: filepath.Join(dir, "data"), WorkDir: filepath.Join(dir, "work"),
		CancelGrace: 200 * time.Millisecond, StopGrace: 5 * time.Second, StartTimeout: 20 * time.Second,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// A rig is a worker process and what calls need.
type rig struct {
	*process
	model *Command
	spool *spool.Spool
}

func newRig(t *testing.T, change func(*CommandConfig)) *rig {
	t.Helper()
	cfg := commandConfig(t, workerSettings{})
	if change != nil {
		change(&cfg)
	}
	m, err := OpenCommand(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := m.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(spool.Config{Dir: filepath.Join(filepath.Dir(cfg.WorkDir), "spool")})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{process: inst.(*process), model: m, spool: s}
	t.Cleanup(func() {
		_ = r.Close() // it may have died
		checkGone(t, r.process)
		if left, _ := filepath.Glob(filepath.Join(cfg.WorkDir, "*")); len(left) > 0 {
			t.Errorf("left in the work directory: %v", left)
		}
		if u := s.Usage(); u != (spool.Usage{}) {
			t.Errorf("left in the spool: %+v", u)
		}
	})
	return r
}

// checkGone says that the process is no more, not even as a zombie.
func checkGone(t *testing.T, p *process) {
	t.Helper()
	pid := p.child.cmd.Process.Pid
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

// recorder is a Reporter.
type recorder struct {
	mu       sync.Mutex
	progress []string
	lines    []string
	alive    int
	logged   chan struct{} // gets a value for each line, if it has room
}

func newRecorder() *recorder { return &recorder{logged: make(chan struct{}, 1000)} }

func (r *recorder) Progress(done, total int64, unit, note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = append(r.progress, fmt.Sprint(done, " ", total, " ", unit, " ", note))
}

func (r *recorder) Log(level slog.Level, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, level.String()+" "+line)
	select {
	case r.logged <- struct{}{}:
	default:
	}
}

func (r *recorder) Alive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive++
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// call makes a call of "do".
func (r *rig) call(id string, k testKwargs) *Call {
	kwargs, err := json.Marshal(k)
	if err != nil {
		panic(err)
	}
	return &Call{JobID: id, Func: "do", Kwargs: kwargs, Report: newRecorder(), Attempt: 1}
}

func TestProcessCall(t *testing.T) {
	r := newRig(t, nil)
	if diff := cmp.Diff(r.model.Describe(), Description{
		Model:     "test",
		Functions: []Function{{Name: "do", Doc: "Does it"}, {Name: "make", Doc: "Does it", MakesVersion: true}},
		Versions:  []string{"a", "b"},
	}); diff != "" {
		t.Error(diff)
	}
	deadline := time.Now().Add(time.Hour).UTC().Round(0)
	call := &Call{
		JobID: "j", Func: "do", Version: "v", Kwargs: json.RawMessage(`{"what":"call"}`), Attempt: 2,
		Metadata: map[string]string{"x-user": "ada"}, Deadline: deadline,
	}
	value, err := r.Call(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	var got callParams
	if err := json.Unmarshal(value, &got); err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(got.WorkDir) != r.dir || got.OutputPath != filepath.Join(got.WorkDir, "output") {
		t.Errorf("work_dir %s, output_path %s", got.WorkDir, got.OutputPath)
	}
	got.WorkDir, got.OutputPath = "", ""
	if diff := cmp.Diff(got, callParams{
		JobID: "j", Func: "do", Version: "v", Kwargs: call.Kwargs, Attempt: 2, Metadata: call.Metadata, Deadline: &deadline,
	}); diff != "" {
		t.Error(diff)
	}
	// A null result, and one call after the other in the same directory.
	for range 3 {
		if value, err := r.Call(t.Context(), r.call("l", testKwargs{What: "litter"})); err != nil || string(value) != "2" {
			t.Fatalf("%s, %v: the directory was not empty", value, err)
		}
	}
	if r.made != 1 {
		t.Errorf("%d directories for one call at a time", r.made)
	}
}

func TestProcessInput(t *testing.T) {
	r := newRig(t, nil)
	w := r.spool.Create(0)
	if _, err := io.WriteString(w, "a,b\n1,2\n"); err != nil {
		t.Fatal(err)
	}
	blob, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	call := r.call("j", testKwargs{What: "input"})
	call.Input = blob
	value, err := r.Call(t.Context(), call)
	if want := `{"data":"a,b\n1,2\n","size":8}`; err != nil || string(value) != want {
		t.Errorf("%s, %v", value, err)
	}
	if err := blob.Remove(); err != nil {
		t.Error(err)
	}
}

func TestProcessOutputGrows(t *testing.T) {
	r := newRig(t, nil)
	const part = 100_000
	var file *spool.File
	var sizes []int64
	call := r.call("j", testKwargs{What: "output", Size: part})
	call.AdoptOutput = func(path string, json bool) (func(int64) error, error) {
		if json {
			t.Error("it is not JSON")
		}
		f, err := r.spool.AdoptFile("out", path, 0)
		file = f
		return func(size int64) error {
			if err := f.Grow(size); err != nil {
				return err
			}
			sizes = append(sizes, size)
			// It can be read before the worker goes on.
			last := make([]byte, 1)
			if _, err := f.ReadAt(last, size-1); err != nil || last[0] != byte('a'+(size-1)/part) {
				t.Errorf("the last of %d bytes is %q: %v", size, last, err)
			}
			_ = os.WriteFile(filepath.Join(filepath.Dir(path), fmt.Sprint("go", len(sizes)-1)), nil, 0o600)
			return nil
		}, err
	}
	value, err := r.Call(t.Context(), call)
	if err != nil || value != nil {
		t.Fatalf("%s, %v", value, err)
	}
	if want := []int64{part, 2 * part, 3 * part, 4 * part, 4 * part}; !slices.Equal(sizes, want) {
		t.Errorf("it grew to %v, want %v", sizes, want)
	}
	// It is there though the call's directory is empty again.
	got, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<30))
	if err != nil || len(got) != 4*part || !bytes.HasSuffix(got, []byte("ddd")) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	if err := r.spool.RemoveFile("out"); err != nil {
		t.Error(err)
	}
}

func TestProcessOutputTooLarge(t *testing.T) {
	r := newRig(t, nil)
	call := r.call("j", testKwargs{What: "output", Size: 1000})
	call.AdoptOutput = func(path string, json bool) (func(int64) error, error) {
		f, err := r.spool.AdoptFile("out", path, 2500)
		return func(size int64) error {
			_ = os.WriteFile(filepath.Join(filepath.Dir(path), fmt.Sprint("go", size/1000-1)), nil, 0o600)
			return f.Grow(size)
		}, err
	}
	_, err := r.Call(t.Context(), call)
	var limit *spool.LimitError
	if !errors.As(err, &limit) {
		t.Errorf("got %v", err)
	}
	if err := r.spool.RemoveFile("out"); err != nil {
		t.Error(err)
	}
}

func TestProcessJSONOutput(t *testing.T) {
	r := newRig(t, nil)
	call := r.call("j", testKwargs{What: "output", Text: `[1,2,3]`})
	var told int64
	call.AdoptOutput = func(path string, json bool) (func(int64) error, error) {
		if !json {
			t.Error("it is JSON")
		}
		return func(size int64) error { told = size; return nil }, nil
	}
	if value, err := r.Call(t.Context(), call); err != nil || value != nil || told != 7 {
		t.Errorf("%s, %d bytes, %v", value, told, err)
	}
}

func TestProcessRefusals(t *testing.T) {
	r := newRig(t, nil)
	for code, want := range map[int]error{
		codeNoFunction:  &FunctionError{Model: "test", Func: "do"},
		codeInvalid:     &InputError{Reason: "refused"},
		codeNoVersion:   &VersionError{Version: "v", Have: []string{"x"}},
		codeNoResources: &ResourceError{Reason: "refused"},
		codeCanceled:    &FailedError{Func: "do", Reason: "the worker has canceled it: refused"},
		-32000:          &FailedError{Func: "do", Reason: "refused"},
		12345:           &FailedError{Func: "do", Reason: "refused"},
	} {
		call := r.call("j", testKwargs{What: "refuse", Code: code})
		call.Version = "v"
		_, err := r.Call(t.Context(), call)
		if diff := cmp.Diff(want, err); diff != "" {
			t.Errorf("code %d: %s", code, diff)
		}
		if got := call.Report.(*recorder).text(); got != "ERROR a\nERROR b" {
			t.Errorf("code %d: logged %q", code, got)
		}
	}
}

func TestProcessTells(t *testing.T) {
	r := newRig(t, nil)
	call := r.call("j", testKwargs{What: "tell"})
	if value, err := r.Call(t.Context(), call); err != nil || string(value) != `"told"` {
		t.Fatalf("%s, %v", value, err)
	}
	rec := call.Report.(*recorder)
	if want := []string{"1 3 steps so far", "2 3 steps so far", "3 3 steps so far"}; !slices.Equal(rec.progress, want) {
		t.Errorf("progress %q", rec.progress)
	}
	if want := []string{"WARN line 1\uFFFD[31m", "WARN line 2\uFFFD[31m", "WARN line 3\uFFFD[31m"}; !slices.Equal(rec.lines, want) {
		t.Errorf("lines %q", rec.lines)
	}
	if rec.alive != 1 {
		t.Errorf("%d beats", rec.alive)
	}
	if got := r.model.Describe().Versions; !slices.Equal(got, []string{"new"}) {
		t.Errorf("versions %v", got)
	}
}

func TestProcessEnvironment(t *testing.T) {
	t.Setenv("AIPOD_LISTEN", "secret")
	t.Setenv("TEST_INHERITED", "yes")
	leak, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leak.Close() }()
	r := newRig(t, func(c *CommandConfig) { c.Env = append(c.Env, "TEST_EXTRA=a=b") })
	value, err := r.Call(t.Context(), r.call("j", testKwargs{What: "environment"}))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Env, Fds []string }
	if err := json.Unmarshal(value, &got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"AIPOD_FD=3", "TEST_EXTRA=a=b", "TEST_INHERITED=yes"} {
		if !slices.Contains(got.Env, want) {
			t.Errorf("%s is not in the environment", want)
		}
	}
	for _, v := range got.Env {
		if strings.HasPrefix(v, "AIPOD_") && v != "AIPOD_FD=3" {
			t.Errorf("%s is inherited", v)
		}
	}
	for _, fd := range got.Fds {
		number, target, _ := strings.Cut(fd, " ")
		// Go's own epoll and cgroup, and the directory that is being read.
		if number > "3" && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/fs/cgroup/") {
			t.Errorf("descriptor %s is inherited", fd)
		}
	}
}

func TestProcessDies(t *testing.T) {
	for name, c := range map[string]struct {
		kwargs testKwargs
		how    string
		tail   string
	}{
		"killed":     {testKwargs{What: "signal", Code: 9}, "signal 9 (killed)", ""},
		"terminated": {testKwargs{What: "signal", Code: 15}, "signal 15 (terminated)", ""},
		"exit 3":     {testKwargs{What: "exit", Code: 3}, "exit status 3", "Traceback: it went wrong"},
		"exit 0":     {testKwargs{What: "exit", Code: 0}, "exit status 0, though calls were running", "Traceback: it went wrong"},
		"nonsense":   {testKwargs{What: "raw", Text: "print of a library"}, "killed, for it wrote a line to its socket that is not of the protocol: invalid character 'p' looking for beginning of value: \"print of a library\\n\"", ""},
		"long line":  {testKwargs{What: "long line", Size: maxMessage + 1}, "killed, for it wrote a line to its socket that is not of the protocol: it is longer than 16 MiB, large results go to output_path", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			_, err := r.Call(t.Context(), r.call("j", c.kwargs))
			var crash *CrashError
			if !errors.As(err, &crash) || crash.What != "the worker" || crash.How != c.how || !strings.HasPrefix(crash.Tail, c.tail) || crash.OutOfMemory {
				t.Errorf("got %v, want how %q and tail %q", err, c.how, c.tail)
			}
			<-r.Done()
			if r.Err() == nil {
				t.Error("no reason for its end")
			}
			checkGone(t, r.process)
		})
	}
}

func TestProcessUnknownAnswer(t *testing.T) {
	r := newRig(t, nil)
	value, err := r.Call(t.Context(), r.call("j", testKwargs{What: "raw", Text: `{"jsonrpc":"2.0","id":4711,"result":{"value":1}}`}))
	if err != nil || string(value) != `"after all"` {
		t.Errorf("%s, %v", value, err)
	}
}

func TestProcessAnswersWrong(t *testing.T) {
	r := newRig(t, nil)
	// Ids count from 1: initialize has the first.
	for id, text := range []string{2: `"result":[1]`, 3: `"result":{"value":1,"output_size":"x"}`} {
		if text == "" {
			continue
		}
		call := r.call("j", testKwargs{What: "raw", Text: fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,%s}`, id, text)})
		_, err := r.Call(t.Context(), call)
		var failure *FailedError
		if !errors.As(err, &failure) || !strings.Contains(failure.Reason, "not of the protocol") {
			t.Errorf("%s: got %v", text, err)
		}
	}
	if value, err := r.Call(t.Context(), r.call("k", testKwargs{What: "fine"})); err != nil || string(value) != `"fine"` {
		t.Errorf("the next call: %s, %v", value, err)
	}
}

func TestProcessPrints(t *testing.T) {
	r := newRig(t, nil)
	call := r.call("j", testKwargs{What: "print", Size: 100 << 20})
	if _, err := r.Call(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	rec := call.Report.(*recorder)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	slices.Sort(rec.lines)
	if len(rec.lines) != 3 || rec.lines[0] != "INFO [stderr] err" || rec.lines[1] != "INFO [stdout] out" {
		t.Fatalf("%d lines, %.200q", len(rec.lines), rec.lines)
	}
	if line := rec.lines[2]; !strings.HasSuffix(line, " … 104849408 bytes more") || !strings.HasPrefix(line, "INFO [stdout] x\uFFFD\uFFFDyx") {
		t.Errorf("the long line is %.60q…%q", line, line[len(line)-60:])
	}
}

func TestProcessStarts(t *testing.T) {
	for start, want := range map[string]string{
		"hang":       "open worker: the worker died: killed, for it did not answer initialize within 300ms",
		"exit":       "open worker: the worker died: exit status 3; the end of its standard error:\nno module named torch",
		"refuse":     "open worker: load: the weights are not there",
		"no version": `open worker: version "" does not exist: choose one of a, b`,
		"wrong":      "open worker: the worker can't be used: its answer to initialize: json: cannot unmarshal array into Go value of type worker.initializeResult",
		"nonsense":   "open worker: the worker died: killed, for it wrote a line to its socket that is not of the protocol: invalid character 'l' looking for beginning of value: \"loading...\\n\"",
	} {
		t.Run(start, func(t *testing.T) {
			t.Parallel()
			cfg := commandConfig(t, workerSettings{Start: start})
			cfg.StartTimeout = 300 * time.Millisecond
			if start != "hang" {
				cfg.StartTimeout = time.Minute
			}
			_, err := OpenCommand(t.Context(), cfg)
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if left, _ := filepath.Glob(filepath.Join(cfg.WorkDir, "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		cfg := commandConfig(t, workerSettings{})
		cfg.Command = []string{"no-such-program"}
		if _, err := OpenCommand(t.Context(), cfg); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wrong configuration", func(t *testing.T) {
		for _, change := range []func(*CommandConfig){
			func(c *CommandConfig) { c.Command = nil },
			func(c *CommandConfig) { c.Settings = json.RawMessage(`[1]`) },
			func(c *CommandConfig) { c.Env = []string{"X"} },
			func(c *CommandConfig) { c.WorkDir = "" },
		} {
			cfg := commandConfig(t, workerSettings{})
			change(&cfg)
			if _, err := OpenCommand(t.Context(), cfg); err == nil {
				t.Errorf("taken: %+v", cfg)
			}
		}
	})
}

// TestProcessCancel cancels calls that ignore more and more of it.
func TestProcessCancel(t *testing.T) {
	const grace = 300 * time.Millisecond
	for ignore, name := range []string{"notification", "SIGINT", "SIGTERM", "SIGKILL"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *CommandConfig) { c.CancelGrace = grace })
			call := r.call("j", testKwargs{What: "sleep", Millis: 60_000, Ignore: ignore})
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := r.Call(ctx, call)
				ended <- err
			}()
			<-call.Report.(*recorder).logged // it sleeps
			cause := errors.New("nobody wants it")
			begun := time.Now()
			cancel(cause)
			if err := <-ended; !errors.Is(err, cause) {
				t.Errorf("got %v", err)
			}
			took := time.Since(begun)
			if most := time.Duration(ignore)*grace*3/2 + time.Second; took > most || took < time.Duration(ignore)*grace {
				t.Errorf("it took %v, want %d graces of %v", took, ignore, grace)
			}
			if ignore > 0 {
				<-r.Done()
				if err := r.Err(); err != nil {
					t.Errorf("its end counts as a death: %v", err)
				}
				checkGone(t, r.process)
				return
			}
			if value, err := r.Call(t.Context(), r.call("k", testKwargs{What: "still here"})); err != nil {
				t.Errorf("the next call: %s, %v", value, err)
			}
		})
	}
}

// TestProcessCancelSpares lets the neighbours of a canceled call end before the
// process is signaled.
func TestProcessCancelSpares(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *CommandConfig) { c.Slots = 2; c.CancelGrace = 100 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	canceled, neighbour := make(chan error, 1), make(chan error, 1)
	call := r.call("canceled", testKwargs{What: "sleep", Millis: 60_000, Ignore: 1})
	go func() {
		_, err := r.Call(ctx, call)
		canceled <- err
	}()
	<-call.Report.(*recorder).logged
	go func() {
		value, err := r.Call(t.Context(), r.call("neighbour", testKwargs{What: "sleep", Millis: 1500}))
		if err == nil && string(value) != `"slept"` {
			err = fmt.Errorf("got %s", value)
		}
		neighbour <- err
	}()
	cancel()
	<-r.Done() // no more calls
	if err := <-neighbour; err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	if err := <-canceled; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestProcessCallTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *CommandConfig) { c.CallTimeout = 300 * time.Millisecond })
	_, err := r.Call(t.Context(), r.call("j", testKwargs{What: "sleep", Millis: 60_000}))
	var timeout *TimeoutError
	if !errors.As(err, &timeout) {
		t.Errorf("got %v", err)
	}
}

func TestProcessStalls(t *testing.T) {
	t.Run("warns", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *CommandConfig) { c.StallTimeout = 100 * time.Millisecond })
		call := r.call("j", testKwargs{What: "sleep", Millis: 600})
		if value, err := r.Call(t.Context(), call); err != nil || string(value) != `"slept"` {
			t.Errorf("%s, %v", value, err)
		}
		if want := "INFO sleeping\nWARN no sign of life for 100ms"; call.Report.(*recorder).text() != want {
			t.Errorf("logged %q", call.Report.(*recorder).text())
		}
	})
	t.Run("kills", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *CommandConfig) { c.StallTimeout, c.StallKill = 100*time.Millisecond, true })
		_, err := r.Call(t.Context(), r.call("j", testKwargs{What: "sleep", Millis: 60_000}))
		if err == nil || err.Error() != "the worker died: killed, for it showed no life for 100ms" {
			t.Errorf("got %v", err)
		}
	})
}

func TestProcessIsReplaced(t *testing.T) {
	for name, change := range map[string]func(*CommandConfig){
		"calls":  func(c *CommandConfig) { c.MaxCalls = 2 },
		"age":    func(c *CommandConfig) { c.MaxAge = time.Nanosecond },
		"memory": func(c *CommandConfig) { c.MaxRSS = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			for n := 1; ; n++ {
				if _, err := r.Call(t.Context(), r.call("j", testKwargs{What: "fine"})); err != nil {
					t.Fatal(err)
				}
				select {
				case <-r.Done():
					if err := r.Err(); err != nil {
						t.Error(err)
					}
					if name == "calls" && n != 2 {
						t.Errorf("after %d calls", n)
					}
					return
				default:
					if n == 5 {
						t.Fatal("it is not replaced")
					}
				}
			}
		})
	}
}

// TestProcessGroupEnds kills a worker that has children of its own.
func TestProcessGroupEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	value, err := r.Call(t.Context(), r.call("j", testKwargs{What: "orphan"}))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(value))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the child does not run: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	// Whoever has adopted it may leave it a zombie for a moment.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + string(value) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker's child lives on: %s", stat)
		}
	}
}

// envTestPod makes the test binary a process that has a worker, to be killed.
const envTestPod = "TEST_POD_DIR"

func testPodMain(dir string) int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	m, err := OpenCommand(context.Background(), CommandConfig{
		Command: []string{exe}, Env: []string{envWorker + "=1", envTestPod + "="},
		DataDir: filepath.Join(dir, "data"), WorkDir: filepath.Join(dir, "work"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(m.first.(*process).child.cmd.Process.Pid)
	select {}
}

// TestPodKilled kills the process that has the worker.
func TestPodKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envTestPod+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker lives on: %s", stat)
		}
	}
}
