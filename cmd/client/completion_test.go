package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// completions are what a shell gets to know of the words of a command line, the
// last of which is being typed, and what it may do besides.
func completions(t *testing.T, s *session, words ...string) (choices []string, files bool) {
	t.Helper()
	got := s.run(t, append([]string{"__complete"}, words...)...)
	lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
	directive := lines[len(lines)-1]
	if got.code != exitDone || !strings.HasPrefix(directive, ":") || !strings.HasPrefix(got.stderr, "Completion ended with directive: ") || strings.Count(got.stderr, "\n") != 1 {
		t.Fatalf("%q: %+v", words, got)
	}
	return lines[:len(lines)-1], directive == ":0"
}

// A pod that is used by other tests, too, has what these need.
func TestCompletion(t *testing.T) {
	const id, version = "completion", "completion-1"
	train := filepath.Join(t.TempDir(), "train.csv")
	if err := os.WriteFile(train, []byte("x,y\n"+strings.Repeat("1,a\n2,b\n", 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "call", "train", "-f", train, "-k", "target=y", "--version", version, "--job-id", id)
	live := id + "-live"
	startJob(t, live, "60")
	t.Cleanup(func() { run(t, "jobs", "rm", id, live) })
	const down = "127.0.0.1:1"
	for _, tc := range []struct {
		line  string
		addr  string   // of the environment
		has   []string // patterns of whole lines
		lacks string   // one of no line
		files bool
	}{
		{line: "c", has: []string{"call\tCall a function with .*", "completion\t.*"}},
		{line: "call ", has: []string{`hello\tSays hello: .*`, `predict\tPredicts .*`, `sha256\t.*`}},
		{line: "call pre", has: []string{`predict\tPredicts classes: .*`}},
		{line: "call ", addr: down, lacks: `.*`},
		{line: "call --addr " + podAddr + " ", addr: down, has: []string{`predict\t.*`}},
		{line: "call --addr=" + podAddr + " --protocol connect ", addr: down, has: []string{`predict\t.*`}},
		{line: "call --addr nonsense:// ", lacks: `.*`},
		{line: "call hello ", lacks: `.*`},
		{line: "call train --version ", has: []string{version}},
		{line: "call train --version=comp", has: []string{version}},
		{line: "call train -k ", has: []string{`target=\tstring, the column to predict`, `l2=\tnumber, .*`}},
		{line: "call nope -k ", lacks: `.*`},
		{line: "call hello --protocol ", has: []string{"grpc", "grpcweb", "connect"}},
		{line: "call hello --codec ", has: []string{"adaptive", "raw", "fastest", "default", "better"}},
		{line: "call hello --compression ", has: []string{"identity", "gzip", "zstd"}},
		{line: "call hello --generate-kind ", has: []string{"random", "text", "csv", "zero"}},
		{line: "call hello --heartbeat ", lacks: `.*`},
		{line: "call hello -f ", files: true},
		{line: "call hello --output ", files: true},
		{line: "call hello --ca ", files: true},
		{line: "functions ", lacks: `.*`},
		{line: "health ", has: []string{"ai\\.AI", "aipod\\.v1\\.JobService", `aipod\.version/` + version + `\tthe version ` + version}},
		{line: "demo --size ", lacks: `.*`},
		{line: "jobs ", has: []string{"attach\t.*", "cancel\t.*", "get\t.*", "logs\t.*", "ls\t.*", "rm\t.*"}},
		{line: "jobs ls ", lacks: `.*`},
		{line: "jobs ls --state ", has: []string{"receiving", "queued", "loading", "running", "succeeded", "failed", "canceled"}},
		{line: "jobs ls --state failed,", has: []string{"failed,canceled"}, lacks: "failed,failed"},
		{line: "jobs attach ", has: []string{id + `\tsucceeded, train, \d+s ago`, live + `\trunning, sleep, \d+s ago`}},
		{line: "jobs get ", has: []string{id + `\t.*`}},
		{line: "jobs logs ", has: []string{id + `\t.*`}},
		{line: "jobs logs " + id + " ", lacks: `.*`},
		{line: "jobs cancel ", has: []string{live + `\t.*`}, lacks: id + `\t.*`},
		{line: "jobs rm " + id + " ", has: []string{live + `\t.*`}, lacks: id + `\t.*`},
		{line: "jobs attach ", addr: down, lacks: `.*`},
		{line: "completion ", has: []string{"bash\t.*", "zsh\t.*", "fish\t.*", "powershell\t.*"}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			began := time.Now()
			got, files := completions(t, &session{addr: tc.addr}, strings.Split(tc.line, " ")...)
			if took := time.Since(began); took > completionTime+time.Second {
				t.Errorf("it took %v", took)
			}
			matches := func(pattern string) bool {
				return slices.ContainsFunc(got, regexp.MustCompile("^(?:"+pattern+")$").MatchString)
			}
			for _, pattern := range tc.has {
				if !matches(pattern) {
					t.Errorf("got %q, and nothing like %q", got, pattern)
				}
			}
			if tc.lacks != "" && matches(tc.lacks) {
				t.Errorf("got %q, want nothing like %q", got, tc.lacks)
			}
			if files != tc.files {
				t.Errorf("completes files: %v, want %v", files, tc.files)
			}
		})
	}
}

// A pod that doesn't answer costs a second, not more.
func TestCompletionOfAPodThatHangs(t *testing.T) {
	t.Parallel()
	began := time.Now()
	got, _ := completions(t, &session{addr: silent(t)}, "call", "")
	if took := time.Since(began); len(got) > 0 || took < completionTime || took > completionTime+2*time.Second {
		t.Errorf("%q after %v", got, took)
	}
}

// silent is the address of what accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "complete -o default", "zsh": "#compdef client", "fish": "complete -c client", "powershell": "Register-ArgumentCompleter",
	} {
		text := ok(t, "completion", shell)
		if !strings.Contains(text, want) || !strings.Contains(text, "__complete") {
			t.Errorf("the script for %s lacks %q", shell, want)
		}
	}
}
