package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// benchReport runs a load and reads what it prints with --json.
func benchReport(t *testing.T, args ...string) *measure.Report {
	t.Helper()
	got := run(t, append(append([]string{"bench"}, args...), "--json")...)
	for line := range strings.Lines(got.stderr) {
		if !strings.Contains(line, " in flight") { // said each 5 s, on a slow machine
			t.Fatalf("%q: exit %d, stderr %q, want success", args, got.code, got.stderr)
		}
	}
	r := new(measure.Report)
	if err := json.Unmarshal([]byte(got.stdout), r); err != nil || got.code != exitDone {
		t.Fatalf("%q: exit %d, %v", args, got.code, err)
	}
	return r
}

// Each scenario works with a real pod, by both services.
func TestBenchScenarios(t *testing.T) {
	for name, args := range map[string][]string{
		"call":      {"call", "-n", "20", "--streams", "4", "--warmup", "100ms"},
		"call ai":   {"call", "-n", "20", "--service", "ai", "--codec", "fastest", "--kind", "json"},
		"open":      {"call", "-n", "20", "--rps", "100", "--ramp", "100ms"},
		"upload":    {"upload", "-n", "3", "--size", "3MiB", "--chunk", "100KiB"},
		"upload ai": {"upload", "-n", "3", "--size", "3MiB", "--service", "ai"},
		"adaptive":  {"upload", "-n", "3", "--size", "3MiB", "--codec", "adaptive", "--kind", "csv"},
		"download":  {"download", "-n", "3", "--size", "3MiB"},
		"packed":    {"download", "-n", "3", "--size", "3MiB", "--kind", "text", "--codec", "fastest"},
		"echo":      {"download", "-n", "3", "--size", "3MiB", "--service", "ai"},
		"chaos":     {"chaos", "-n", "3", "--hold", "300ms", "--heartbeat", "200ms"},
		"chaos ai":  {"chaos", "-n", "3", "--hold", "300ms", "--heartbeat", "200ms", "--service", "ai"},
		"empty":     {"upload", "-n", "3", "--size", "0"},
		"cuts":      {"cuts", "-n", "1", "--size", "1MiB", "--cut-bytes", "300KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			run := benchReport(t, args...).Runs[0]
			if run.Calls == 0 || run.Failed() > 0 || run.Latency.Count() != run.Calls || run.FirstByte.Count() != run.Calls {
				t.Errorf("%d calls, errors %v", run.Calls, run.Details)
			}
			switch {
			case strings.HasPrefix(name, "chaos") && run.Beats == 0:
				t.Error("no heartbeats")
			case name == "cuts" && (run.Cuts.Cut == 0 || run.Cuts.Lost > 0):
				t.Errorf("%+v", run.Cuts)
			}
		})
	}
}

func TestBenchIdle(t *testing.T) {
	run := benchReport(t, "idle", "--conns", "2", "--streams", "5", "-d", "900ms", "--heartbeat", "200ms").Runs[0]
	if run.Canceled != 10 || run.Failed() > 0 || run.Beats < 20 || run.Lateness.Count() == 0 || run.Silence.Max() > time.Second {
		t.Errorf("%+v", run)
	}
}

func TestBenchWritesAndCompares(t *testing.T) {
	dir := t.TempDir()
	before, page := filepath.Join(dir, "a.json"), filepath.Join(dir, "a.html")
	text := ok(t, "bench", "call", "-n", "10", "--protocol", "grpc,connect", "--repeat", "2", "-o", before, "--html", page)
	for _, want := range []string{"call  JobService over grpc,", "over connect,", "run 2", "latency", "generator", "medians"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	html, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(html), "<svg") || strings.Contains(string(html), "http://") {
		t.Errorf("%v, %.100s", err, html)
	}
	r, err := measure.ReadReport(before)
	if err != nil || len(r.Runs) != 4 || r.Runs[1].Protocol != "connect" || r.Runs[2].Repeat != 2 {
		t.Fatalf("%v, %+v", err, r)
	}
	if text := ok(t, "bench", "compare", before, before); !strings.Contains(text, "same") {
		t.Errorf("compare prints %s", text)
	}
	for _, run := range r.Runs {
		run.Errors = map[string]int64{"unavailable": 3}
	}
	worse, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	after := filepath.Join(dir, "b.json")
	if err := os.WriteFile(after, worse, 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, "bench", "compare", before, after, "--json")
	var lines []struct{ Metric, Verdict string }
	if err := json.Unmarshal([]byte(got.stdout), &lines); err != nil || got.code != exitFailed || got.stderr != "" || len(lines) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, l := range lines {
		if (l.Verdict == "worse") != (l.Metric == "errors") {
			t.Errorf("%+v", l)
		}
	}
}

func TestBenchFails(t *testing.T) {
	for want, args := range map[string][]string{
		"p99<1us does not hold: it is ":           {"call", "-n", "3", "--assert", "errors==0,p99<1us"},
		"no call succeeded":                       {"call", "-n", "3", "--func", "nothing"},
		"make an output to download: ":            {"download", "--func", "nothing", "-n", "1"},
		"the function hello writes no output tha": {"download", "--func", "hello", "--size", "0", "-n", "1"},
	} {
		got := run(t, append([]string{"bench"}, args...)...)
		code := exitFailed
		if strings.HasPrefix(want, "the function hello") {
			code = exitUsage
		}
		if got.code != code || !strings.Contains(got.stderr, want) {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
	s := &session{addr: "http://127.0.0.1:1"}
	if got := s.run(t, "bench", "call"); got.code != exitUnreachable || got.stdout != "" {
		t.Errorf("%+v, want 3", got)
	}
}

func TestBenchUsage(t *testing.T) {
	for want, args := range map[string][]string{
		`--assert: "p99": there is no operator`:                {"call", "--assert", "p99"},
		`--codec: unknown codec "x"`:                           {"upload", "--codec", "x"},
		`unknown kind of payload "x"`:                          {"upload", "--kind", "x"},
		`unknown protocol "x"`:                                 {"upload", "--protocol", "grpc,x"},
		`--step "1,x": give rates`:                             {"upload", "--step", "1,x"},
		"--rps and --step are both given":                      {"upload", "--rps", "1", "--step", "1,2"},
		"--conns 0: give 1 or more":                            {"idle", "--conns", "0"},
		"nothing is cut":                                       {"cuts"},
		"ai.AI answers in JSON, which can't hold random bytes": {"call", "--service", "ai", "--kind", "random"},
		`"x" is one argument too many`:                         {"call", "x"},
		"B.json is missing":                                    {"compare", "a"},
		"open /nowhere: no such file":                          {"compare", "/nowhere", "/nowhere"},
		"a ramp leads to a rate":                               {"call", "--ramp", "1s"},
	} {
		if got := run(t, append([]string{"bench"}, args...)...); got.code != exitUsage || !strings.Contains(got.stderr, want) || got.stdout != "" {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
}

// Ctrl-C ends a run; what was measured is reported.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context()) // and not a deadline, which calls would take with them
	defer time.AfterFunc(2500*time.Millisecond, cancel).Stop()
	got := (&session{ctx: ctx, terminal: true}).run(t, "bench", "call", "-d", "1h", "--repeat", "3")
	if got.code != exitInterrupted || !strings.Contains(got.stdout, "interrupted: this is what was measured") ||
		!strings.Contains(got.stdout, "\nlatency ") || strings.Contains(got.stdout, "run 2") {
		t.Errorf("%+v", got)
	}
	if !regexp.MustCompile(`\x1b\[Kcall over grpc: [12]\.\ds, `).MatchString(got.stderr) || strings.Contains(got.stderr, "error") || !strings.HasSuffix(got.stderr, "\r\x1b[K") {
		t.Errorf("the terminal shows %q", got.stderr)
	}
}

func TestBenchFileAndHelpers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 12345)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := benchReport(t, "upload", "-f", path, "-n", "2")
	if run := r.Runs[0]; run.Calls != 2 || run.Sent != 2*12345 || r.Config["size"] != 12345.0 {
		t.Errorf("%d calls, %d bytes, %v", run.Calls, run.Sent, r.Config)
	}
}
