//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
)

// A terminal is a real one, a pseudo-terminal with a program in front.
type terminal struct {
	name string
	cmd  *exec.Cmd
	pty  *os.File
	cols int
	done chan struct{} // closed when the program has ended and all output is there

	mu   sync.Mutex
	text bytes.Buffer // what was written to it
}

// typed starts a line of shell in a terminal with so many columns, as somebody
// would type it who has client on his PATH.
func typed(t *testing.T, cols int, env []string, line string) *terminal {
	t.Helper()
	return open(t, line, cols, env, exec.Command("bash", "-c", line))
}

// open starts a program in a terminal.
func open(t *testing.T, name string, cols int, env []string, cmd *exec.Cmd) *terminal {
	t.Helper()
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{name: name, cmd: cmd, cols: cols, done: make(chan struct{})}
	x.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AIPOD_") || strings.HasPrefix(v, "NO_COLOR=")
	})
	x.cmd.Env = append(x.cmd.Env, "TERM=xterm-256color", "PATH="+filepath.Dir(client)+":"+os.Getenv("PATH"))
	x.cmd.Env = append(x.cmd.Env, env...)
	x.pty, err = pty.StartWithSize(x.cmd, &pty.Winsize{Rows: 24, Cols: uint16(cols)})
	if err != nil {
		t.Fatal(err)
	}
	pid := x.cmd.Process.Pid // leads a session, and so a group
	groups.add(pid)
	go func() {
		defer close(x.done)
		buf := make([]byte, 4096)
		for {
			n, err := x.pty.Read(buf)
			x.mu.Lock()
			x.text.Write(buf[:n])
			x.mu.Unlock()
			if err != nil { // EIO, when nobody has the other end open
				break
			}
		}
		_ = x.cmd.Wait() // ProcessState says it
		groups.kill(pid)
	}()
	t.Cleanup(func() {
		groups.kill(pid)
		<-x.done
		_ = x.pty.Close()
		if t.Failed() {
			t.Logf("%s\nshows\n%s\nof\n%.3000q", name, x.shows(t), x.String())
		}
	})
	return x
}

// String is all that was written to the terminal.
func (x *terminal) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.text.String()
}

// shows is what is to be seen now.
func (x *terminal) shows(t *testing.T) string {
	t.Helper()
	s := &screen{width: x.cols}
	if err := s.write(x.String()); err != nil {
		t.Errorf("%s writes %v", x.name, err)
	}
	return s.String()
}

// await waits until the terminal has got something.
func (x *terminal) await(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, 20*time.Second, fmt.Sprintf("%q", pattern), func() error {
		if !re.MatchString(x.String()) {
			return errors.New("it is not there")
		}
		return nil
	})
}

// press is a key, such as Ctrl-C.
func (x *terminal) press(t *testing.T, key string) {
	t.Helper()
	if _, err := io.WriteString(x.pty, key); err != nil {
		t.Fatal(err)
	}
}

const ctrlC = "\x03"

// expectExit waits for the end.
func (x *terminal) expectExit(t *testing.T, want int) {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", x.name)
	}
	if got := x.cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("%s: exit %d, want %d", x.name, got, want)
	}
}

// colours are the sequences that colour.
var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// An upload moves a bar, which stays, and the result comes after it. However
// narrow the terminal is, no line is left over.
func TestTerminalBar(t *testing.T) {
	t.Parallel()
	const size = 9 << 20
	data := randomBytes(size)
	path := writeFile(t, "random", data)
	p := startPod(t)
	for _, cols := range []int{100, 40} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			proxy := startToxiproxy(t, p.addr)
			if err := proxy.add(toxic{"bandwidth", map[string]any{"rate": 3 << 10}}); err != nil {
				t.Fatal(err)
			}
			x := typed(t, cols, nil, "client call sha256 -f "+path+" --addr "+proxy.addr)
			x.expectExit(t, 0)
			var amounts []float64
			for _, m := range regexp.MustCompile(`upload ([0-9.]+) MiB`).FindAllStringSubmatch(x.String(), -1) {
				amount, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				amounts = append(amounts, amount)
			}
			if distinct := slices.Compact(slices.Clone(amounts)); !slices.IsSorted(amounts) || len(distinct) < 5 {
				t.Errorf("the bar went through %v, want at least 5 amounts that grow", distinct)
			}
			bar, result, _ := strings.Cut(x.shows(t), "\n")
			if !strings.Contains(bar, "upload 9.0 MiB of 9.0 MiB") || cols == 100 && !regexp.MustCompile(`\[=+\] [0-9.]+ [KM]iB/s$`).MatchString(bar) {
				t.Errorf("what stays of the bar is %q", bar)
			}
			if cols == 40 { // the digest takes two lines there
				result = regexp.MustCompile(`(\w)\n(\w)`).ReplaceAllString(result, "$1$2")
			}
			expectDigest(t, []byte(result), digestOf(data))
		})
	}
}

// Ctrl-C leaves a job with an id alone; the command that is shown then comes back
// to it on the way that the call had, and a second Ctrl-C cancels.
func TestTerminalInterruptsNamedJob(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	t.Run("once", func(t *testing.T) {
		t.Parallel()
		x := typed(t, 200, nil, "client call sleep -k seconds=6 --job-id nap --protocol connect -H \"x-why: it's\" --addr "+p.addr)
		x.await(t, `running [1-9]`)
		x.press(t, ctrlC)
		x.await(t, `client: Ctrl-C again within 3 s cancels it\r\n`)
		x.expectExit(t, 130)
		m := regexp.MustCompile(`(?m)goes on: (client jobs attach .*)$`).FindStringSubmatch(x.shows(t))
		if m == nil {
			t.Fatal("it is not said how to come back")
		}
		if want := `client jobs attach nap --addr ` + p.addr + ` --protocol connect -H 'x-why: it'\''s'`; m[1] != want {
			t.Errorf("to come back, type\n%s, want\n%s", m[1], want)
		}
		back := typed(t, 100, nil, m[1])
		back.expectExit(t, 0)
		if got := back.shows(t); got != "{\n  \"slept\": 6\n}" {
			t.Errorf("it comes back with %q", got)
		}
	})
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		x := typed(t, 100, nil, "client call sleep -k seconds=60 --job-id long --addr "+p.addr)
		x.await(t, `running [0-9]`)
		x.press(t, ctrlC)
		x.await(t, `Ctrl-C again`)
		x.press(t, ctrlC)
		x.expectExit(t, 130)
		if got := x.shows(t); !regexp.MustCompile(`\nclient: the job long is (being )?canceled$`).MatchString(got) {
			t.Errorf("in the end it shows\n%s", got)
		}
		p.mustRecord(t, 10*time.Second, "job ended", map[string]string{"job": "long", "state": "CANCELED"})
	})
}

// Ctrl-C ends a job that has no id, and leaves nothing on the screen but that.
func TestTerminalInterruptsUnnamedJob(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	x := typed(t, 100, nil, "client call sleep -k seconds=60 --addr "+p.addr)
	x.await(t, `running [0-9]`)
	x.press(t, ctrlC)
	x.expectExit(t, 130)
	if got := x.shows(t); !regexp.MustCompile(`^client: interrupted$`).MatchString(got) {
		t.Errorf("it shows %q", got)
	}
	p.mustRecord(t, 10*time.Second, "job removed", map[string]string{"func": "sleep"})
}

// A pod that says nothing is a warning in colour, unless somebody wants none; a
// terminal that can't move its cursor, a pipe and a file get no sequences at all.
func TestTerminalKinds(t *testing.T) {
	t.Parallel()
	const shown, prose = "last sign of life", `client: running [0-9.]+s, .*last sign of life`
	for name, tc := range map[string]struct {
		env     []string
		pipe    bool
		wants   string
		colours bool
		escapes bool
	}{
		"colours":         {nil, false, shown, true, true},
		"NO_COLOR":        {[]string{"NO_COLOR=1"}, false, shown, false, true},
		"NO_COLOR, empty": {[]string{"NO_COLOR="}, false, shown, true, true},
		"dumb":            {[]string{"TERM=dumb"}, false, prose, false, false},
		"pipe":            {nil, true, `client: the pod runs sleep as job `, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPod(t)
			line := "client call sleep -k seconds=6 --heartbeat 200ms --addr " + p.addr
			if tc.pipe {
				line = "set -o pipefail; " + line + " -v 2>&1 | cat"
			}
			x := typed(t, 120, tc.env, line)
			p.mustRecord(t, 20*time.Second, "job created", nil)
			time.Sleep(time.Second)
			p.signal(t, syscall.SIGSTOP)
			time.Sleep(2 * time.Second)
			p.signal(t, syscall.SIGCONT)
			x.expectExit(t, 0)
			text := x.String()
			if !regexp.MustCompile(tc.wants).MatchString(text) {
				t.Errorf("%q was never shown", tc.wants)
			}
			if got := colours.MatchString(text); got != tc.colours {
				t.Errorf("colours: %v, want %v", got, tc.colours)
			}
			if got := strings.Contains(text, "\x1b"); got != tc.escapes {
				t.Errorf("escape sequences: %v, want %v", got, tc.escapes)
			}
			want := "{\n  \"slept\": 6\n}"
			if tc.pipe {
				want = "{\"slept\":6}"
			}
			if got := x.shows(t); !strings.HasSuffix(got, want) || tc.escapes && got != want {
				t.Errorf("in the end it shows %q, want %q", got, want)
			}
		})
	}
}

// What functions do is told in as many columns as there are.
func TestTerminalTable(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	const cols = 60
	x := typed(t, cols, nil, "client functions --addr "+p.addr)
	x.expectExit(t, 0)
	text := strings.ReplaceAll(x.String(), "\r\n", "\n")
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > cols {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if !regexp.MustCompile(`(?m)^chaos     Echo: .*\n          [a-z]`).MatchString(text) {
		t.Errorf("it is not wrapped:\n%s", text)
	}
}

// The exit codes of the command, each as a script meets it.
func TestClientExitCodes(t *testing.T) {
	t.Parallel()
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := startPod(t)
	for _, tc := range []struct {
		args string
		code int
		err  string
	}{
		{"call hello --addr " + p.addr, 0, ""},
		{"health --addr " + p.addr, 0, ""},
		{"call sleep -k seconds=-1 --addr " + p.addr, 1, `client: invalid_argument: `},
		{"call nope --addr " + p.addr, 1, `client: unimplemented: `},
		{"jobs get nobody --addr " + p.addr, 1, `client: not_found: `},
		{"call", 2, `client: FUNC is missing: see client call --help`},
		{"call hello --nope", 2, `client: unknown flag: --nope; see: client --help`},
		{"health --addr 127.0.0.1:1", 3, `client: no pod answers at http://127.0.0.1:1`},
		{"call hello --addr 127.0.0.1:1", 3, `client: no pod answers at http://127.0.0.1:1`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), client, strings.Fields(tc.args)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			_ = cmd.Run() // ProcessState says it
			if got := cmd.ProcessState.ExitCode(); got != tc.code || !strings.Contains(stderr.String(), tc.err) || tc.err == "" && stderr.Len() > 0 {
				t.Errorf("exit %d with %q, want %d with %q", got, &stderr, tc.code, tc.err)
			}
		})
	}
	// As a supervisor ends it.
	t.Run("SIGTERM", func(t *testing.T) {
		t.Parallel()
		c := start(t, "the client", exec.Command(client, "call", "sleep", "-k", "seconds=60", "--json", "--addr", p.addr))
		if _, err := c.waitLine(10*time.Second, func(line string) bool { return strings.Contains(line, `"running"`) }); err != nil {
			t.Fatal(err)
		}
		c.signal(t, syscall.SIGTERM)
		if got := c.wait(t, 10*time.Second); got != 130 {
			t.Errorf("exit %d, want 130", got)
		}
	})
}
