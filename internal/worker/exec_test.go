//go:build linux

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/spool"
)

// execCall calls a command; input and result are text.
func execCall(t *testing.T, ctx context.Context, c *Call, input string, command ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	m, err := OpenExec(ExecConfig{
		Command: command, WorkDir: filepath.Join(dir, "work"), CancelGrace: 200 * time.Millisecond, Env: []string{"TEST_EXTRA=a=b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Inline: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(0)
	if _, err := io.WriteString(w, input); err != nil {
		t.Fatal(err)
	}
	blob, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blob.Remove() }()
	c.Func, c.Input = "run", blob
	if c.Report == nil {
		c.Report = newRecorder()
	}
	var out syncBuffer
	opened := false
	if c.OpenOutput == nil {
		c.OpenOutput = func() (io.Writer, error) { opened = true; return &out, nil }
	}
	inst, err := m.Load(ctx, c.Version)
	if err != nil {
		t.Fatal(err)
	}
	value, err := inst.Call(ctx, c)
	if left, _ := filepath.Glob(filepath.Join(dir, "work", "*")); len(left) > 0 {
		t.Errorf("left in the work directory: %v", left)
	}
	if opened {
		if value != nil {
			t.Errorf("both an output and the result %s", value)
		}
		return out.String(), err
	}
	return string(value), err
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestExec(t *testing.T) {
	for name, tt := range map[string]struct {
		kwargs  string
		input   string
		command []string
		want    string
	}{
		"payload to result":  {`{}`, "hello", []string{"tr", "a-z", "A-Z"}, "HELLO"},
		"no output":          {`{}`, "hello", []string{"true"}, "null"},
		"no input":           {`{}`, "", []string{"wc", "-c"}, "0\n"},
		"input is not read":  {`{}`, strings.Repeat("x", 1<<20), []string{"echo", "done"}, "done\n"},
		"kwargs":             {`{"a":"x y","n":-1.50,"o":{"k":[1]},"b":true}`, "", []string{"printf", "%s|", "{a}", "n={n}", "{o}", "{b}{n}"}, `x y|n=-1.50|{"k":[1]}|true-1.50|`},
		"not a placeholder":  {`{}`, "", []string{"printf", "%s", "{}{1}{ a }"}, "{}{1}{ a }"},
		"environment":        {`{"k":1}`, "", []string{"sh", "-c", `echo "$AIPOD_FUNC $AIPOD_VERSION $AIPOD_KWARGS $AIPOD_JOB_ID $AIPOD_ATTEMPT $AIPOD_METADATA $TEST_EXTRA $AIPOD_LISTEN$(ls $AIPOD_WORK_DIR)"`}, `run v {"k":1} j 2 {"x-user":"ada"} a=b` + " \n"},
		"quotes stay quotes": {`{"a":"'; rm -rf $HOME; \""}`, "", []string{"printf", "%s", "{a}"}, `'; rm -rf $HOME; "`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AIPOD_LISTEN", "secret")
			c := &Call{Version: "v", Kwargs: json.RawMessage(tt.kwargs), JobID: "j", Attempt: 2, Metadata: map[string]string{"x-user": "ada"}}
			got, err := execCall(t, t.Context(), c, tt.input, tt.command...)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestExecRefusesKwargs(t *testing.T) {
	for kwargs, want := range map[string]string{
		`{}`:                   `the kwarg "size" is missing, the command needs it`,
		`{"size":"-write /x"}`: `the kwarg "size" is "-write /x": the command would take it for an option`,
		`{"size":"a\u0000b"}`:  `the kwarg "size" has a NUL character`,
	} {
		_, err := execCall(t, t.Context(), &Call{Kwargs: json.RawMessage(kwargs)}, "", "echo", "{size}")
		var input *InputError
		if !errors.As(err, &input) || input.Reason != want {
			t.Errorf("%s: got %v", kwargs, err)
		}
	}
	large := json.RawMessage(`{"size":"` + strings.Repeat("x", 1<<20) + `"}`)
	var input *InputError
	if _, err := execCall(t, t.Context(), &Call{Kwargs: large}, "", "echo", "{size}"); !errors.As(err, &input) {
		t.Errorf("kwargs of 1 MiB: %v", err)
	}
}

func TestExecFails(t *testing.T) {
	c := &Call{Kwargs: json.RawMessage(`{}`)}
	_, err := execCall(t, t.Context(), c, "", "sh", "-c", "echo half; echo 'bad luck' >&2; exit 7")
	var failure *FailedError
	if !errors.As(err, &failure) || failure.Reason != "exit status 7; the end of its standard error:\nbad luck" {
		t.Errorf("got %v", err)
	}
	if got := c.Report.(*recorder).text(); got != "INFO bad luck" {
		t.Errorf("logged %q", got)
	}
	_, err = execCall(t, t.Context(), &Call{Kwargs: json.RawMessage(`{}`)}, "", "sh", "-c", "kill -9 $$")
	var crash *CrashError
	if !errors.As(err, &crash) || crash.How != "signal 9 (killed)" {
		t.Errorf("got %v", err)
	}
	full := errors.New("no room")
	c = &Call{Kwargs: json.RawMessage(`{}`), OpenOutput: func() (io.Writer, error) { return nil, full }}
	if _, err = execCall(t, t.Context(), c, "", "yes"); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestExecCancel(t *testing.T) {
	for name, script := range map[string]string{
		"listens": `echo $$ >&2; exec sleep 1000`,
		"ignores": `trap '' INT TERM; echo $$ >&2; while :; do sleep 0.05; done`,
		"forks":   `echo $$ >&2; sleep 1000; true`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("nobody wants it")
			rec := newRecorder()
			go func() {
				<-rec.logged
				cancel(cause)
			}()
			begun := time.Now()
			_, err := execCall(t, ctx, &Call{Kwargs: json.RawMessage(`{}`), Report: rec}, "", "sh", "-c", script)
			if !errors.Is(err, cause) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			pid, err := strconv.Atoi(strings.TrimPrefix(rec.text(), "INFO "))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the process is still there: %v", err)
			}
		})
	}
}

// TestExecStreams reads the first of the result before the command has ended.
func TestExecStreams(t *testing.T) {
	dir := t.TempDir()
	first := make(chan struct{})
	var once sync.Once
	var out syncBuffer
	c := &Call{Kwargs: json.RawMessage(`{}`), OpenOutput: func() (io.Writer, error) {
		return writerFunc(func(p []byte) (int, error) {
			once.Do(func() { close(first) })
			return out.Write(p)
		}), nil
	}}
	go func() {
		<-first
		_ = os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)
	}()
	_, err := execCall(t, t.Context(), c, "", "sh", "-c", `echo first; while [ ! -e "`+dir+`/go" ]; do sleep 0.01; done; echo last`)
	if err != nil || out.String() != "first\nlast\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestOpenExec(t *testing.T) {
	for name, cfg := range map[string]ExecConfig{
		"no command":     {},
		"no program":     {Command: []string{"no-such-program"}},
		"bad function":   {Command: []string{"true"}, Functions: []string{"a b"}},
		"function twice": {Command: []string{"true"}, Functions: []string{"a", "a"}},
	} {
		cfg.WorkDir = filepath.Join(t.TempDir(), "work")
		if _, err := OpenExec(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	m, err := OpenExec(ExecConfig{Command: []string{"cat", "-u"}, Functions: []string{"b", "a"}, WorkDir: filepath.Join(t.TempDir(), "work")})
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Describe(); d.Model != "cat" || len(d.Functions) != 2 || d.Functions[0].Name != "a" {
		t.Errorf("%+v", d)
	}
}
