//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A recipe is a block of shell and what it has to print, which may be nothing.
type recipe struct {
	line int // of the file
	code string
	want []string
}

// recipes are the blocks of a file. A block of text or JSON belongs to the block
// of shell before it. first is the one that starts the pod.
func recipes(t *testing.T, file string) (first string, list []recipe) {
	t.Helper()
	text, err := os.ReadFile(repoFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```([a-z ]+)\n(.*?)^```$")
	for _, m := range block.FindAllSubmatchIndex(text, -1) {
		kind, code := string(text[m[2]:m[3]]), string(text[m[4]:m[5]])
		line := 1 + strings.Count(string(text[:m[0]]), "\n")
		switch {
		case kind == "sh pod":
			first += code
		case kind == "sh":
			list = append(list, recipe{line: line, code: code})
		case (kind == "text" || kind == "json") && len(list) > 0 && list[len(list)-1].want == nil:
			list[len(list)-1].want = strings.Split(strings.TrimSuffix(code, "\n"), "\n")
		default:
			t.Errorf("%s:%d: a block of %q that belongs to nothing", file, line, kind)
		}
	}
	return first, list
}

// missing is the first of the wanted lines that the output lacks. They have to be
// there in their order; "…" is anything, and spaces don't count.
func missing(output string, want []string) string {
	spaces := regexp.MustCompile(`\s+`)
	lines := strings.Split(output, "\n")
	for _, w := range want {
		pattern := regexp.QuoteMeta(spaces.ReplaceAllString(w, ""))
		match := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "…", ".*") + "$")
		for {
			if len(lines) == 0 {
				return w
			}
			line := spaces.ReplaceAllString(lines[0], "")
			lines = lines[1:]
			if match.MatchString(line) {
				break
			}
		}
	}
	return ""
}

func TestMissing(t *testing.T) {
	const output = "a: 1\nb: 2\n{\"c\": [3, 4]}\n"
	for _, tc := range []struct {
		want    []string
		missing string
	}{
		{nil, ""},
		{[]string{"b:2", `{"c":[3,4]}`}, ""},
		{[]string{"a…", `…"c"…`}, ""},
		{[]string{"a"}, "a"},
		{[]string{"b: 2", "a: 1"}, "a: 1"},
		{[]string{"b: 2", "b: 2"}, "b: 2"},
		{[]string{"…", "…", "…", "…", "x"}, "x"},
		{[]string{`{"c":[3.4]}`}, `{"c":[3.4]}`},
	} {
		if got := missing(output, tc.want); got != tc.missing {
			t.Errorf("%q: %q is missing, want %q", tc.want, got, tc.missing)
		}
	}
}

// The recipes of docs/ work as they stand there, one after the other in one shell,
// and print what they say. Only the address is the test's own.
func TestRecipes(t *testing.T) {
	t.Parallel()
	for file, least := range map[string]int{"docs/recipes.md": 20, "docs/cli.md": 2} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			first, list := recipes(t, file)
			if first != "go run ./cmd/server\n" {
				t.Errorf("the pod is started by %q", first)
			}
			if len(list) < least {
				t.Errorf("only %d recipes were found", len(list))
			}
			cook(t, file, list)
		})
	}
}

// cook runs recipes against a pod of their own.
func cook(t *testing.T, file string, list []recipe) {
	t.Helper()
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := startPod(t)
	dir := t.TempDir()
	out := func(r recipe) string { return filepath.Join(dir, fmt.Sprint(r.line, ".out")) }
	script := "set -euo pipefail\n"
	for _, r := range list {
		path := filepath.Join(dir, fmt.Sprint(r.line, ".sh"))
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(r.code, "127.0.0.1:50051", p.addr)), 0o600); err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf(". %s >%s 2>&1\n", path, out(r))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir = repoFile(t, ".")
	shell.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "no_proxy=*",
		"PATH="+strings.Join([]string{filepath.Dir(client), filepath.Dir(tool(t, "grpcurl")), os.Getenv("PATH")}, ":"))
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	shell.WaitDelay = time.Second
	diagnosis, err := shell.CombinedOutput()
	last := ""
	for _, r := range list {
		text, readErr := os.ReadFile(out(r))
		if readErr != nil {
			t.Errorf("%s:%d was not reached", file, r.line)
			break
		}
		last = fmt.Sprintf("%s:%d", file, r.line)
		switch w := missing(string(text), r.want); {
		case w != "":
			t.Errorf("%s does not print the line %q but\n%.4000s", last, w, text)
		case r.want == nil && len(text) > 0:
			t.Errorf("%s prints what the file does not tell:\n%.4000s", last, text)
		}
	}
	if err != nil || len(diagnosis) > 0 {
		t.Errorf("%s was the last: %v\n%s", last, err, diagnosis)
	}
}
