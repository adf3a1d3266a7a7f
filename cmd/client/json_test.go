package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/shellcomp"
	"github.com/aipod/aipod/internal/tabular"
)

// jsonLines decodes what a command with --json has printed.
func jsonLines[T any](t *testing.T, text string) []T {
	t.Helper()
	var all []T
	for line := range strings.Lines(text) {
		var v T
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("the line %q: %v", line, err)
		}
		all = append(all, v)
	}
	return all
}

// What prints something can print it for scripts.
func TestEachCommandHasJSON(t *testing.T) {
	a := &app{lookupEnv: func(string) (string, bool) { return "", false }}
	checked := 0
	shellcomp.Walk(a.command(), func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.RunE == nil || cmd.HasSubCommands() || strings.HasPrefix(path, "client completion") {
			return
		}
		checked++
		if cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", path)
		}
	})
	if checked < 10 {
		t.Errorf("only %d commands were found", checked)
	}
}

func TestHealthJSON(t *testing.T) {
	if got, want := ok(t, "health", "--json"), `{"service":"","status":"SERVING"}`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := ok(t, "health", "ai.AI", "--json"), `{"service":"ai.AI","status":"SERVING"}`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := run(t, "health", "x.Y", "--json"); got.code != exitFailed || got.stdout != "" {
		t.Errorf("%+v", got)
	}
}

func TestJobsJSON(t *testing.T) {
	const id, live = "jobs-json", "jobs-json-live"
	path := filepath.Join(t.TempDir(), "train.csv")
	if err := os.WriteFile(path, tabular.Iris(), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "call", "train", "-f", path, "-k", "target=species", "--version", id, "--job-id", id)
	t.Cleanup(func() { run(t, "jobs", "rm", id) })
	kept, followed := ok(t, "jobs", "logs", id, "--json", "--follow=false"), ok(t, "jobs", "logs", id, "--json")
	if kept != followed {
		t.Errorf("kept %s, followed %s", kept, followed)
	}
	text := ok(t, "jobs", "logs", id)
	log := jsonLines[logLine](t, kept)
	if len(log) == 0 || len(log) != strings.Count(text, "\n") {
		t.Fatalf("%d lines of JSON for\n%s", len(log), text)
	}
	for _, l := range log {
		if time.Since(l.Time) > time.Minute || l.Level != "INFO" || !strings.Contains(text, l.Message) {
			t.Errorf("%+v is not in\n%s", l, text)
		}
	}
	startJob(t, live, "60")
	lines := strings.SplitAfter(ok(t, "jobs", "cancel", live, id, "--json"), "\n")
	if len(lines) != 3 || parseJob(t, lines[0]).GetJobId() != live || parseJob(t, lines[1]).GetJobId() != id {
		t.Errorf("cancel printed %q", lines)
	}
	if got, want := ok(t, "jobs", "rm", live, id, "--json"), `{"job_id":"`+live+`"}`+"\n"+`{"job_id":"`+id+`"}`+"\n"; got != want {
		t.Errorf("rm printed %q, want %q", got, want)
	}
}

func TestDemoJSON(t *testing.T) {
	emptyTemp(t)
	const size = 1 << 20
	steps := jsonLines[demoStep](t, ok(t, "demo", "--size", "1MiB", "--json"))
	if len(steps) != 3 {
		t.Fatalf("%+v", steps)
	}
	train, predict, move := steps[0], steps[1], steps[2]
	if train.Step != "train" || train.Rows != 120 || train.Classes != 3 || train.Accuracy == nil || *train.Accuracy < 0.9 {
		t.Errorf("%+v", train)
	}
	if predict.Step != "predict" || predict.Rows != 30 || predict.Right < 28 || predict.Accuracy == nil || *predict.Accuracy < demoAccuracy {
		t.Errorf("%+v", predict)
	}
	if move.Step != "move" || move.Bytes != size || move.BytesPerSec <= 0 || move.Took < move.Sent ||
		move.SHA256 != digest(generate(t, "random", size))[11:75] {
		t.Errorf("%+v", move)
	}
}
