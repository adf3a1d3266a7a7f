package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/shellcomp"
)

func noEnv(string) (string, bool) { return "", false }

func tree() *cobra.Command { return command(noEnv, io.Discard, io.Discard, new(int)) }

// words are those of a line of shell, of which quotes and redirections are all that
// the examples have.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	if i := slices.IndexFunc(all, func(w string) bool { return strings.HasPrefix(w, ">") || w == "|" }); i >= 0 {
		all = all[:i]
	}
	return all
}

// Each command says what it is for and shows how it is used, with flags and
// arguments that are right.
func TestHelpHasExamples(t *testing.T) {
	visited := 0
	shellcomp.Walk(tree(), func(cmd *cobra.Command) {
		visited++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: Short %q, Example %q", path, cmd.Short, cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			args := words(strings.NewReplacer("<(", "", ")\n", "\n").Replace(strings.TrimSuffix(line, ")") + "\n"))
			begin := slices.Index(args, "server")
			if begin < 0 {
				t.Errorf("%s: the example %q does not use it", path, line)
				continue
			}
			if err := parse(path, args[begin+1:]); err != nil {
				t.Errorf("%s: the example %q: %v", path, line, err)
			}
		}
	})
	if visited < 7 {
		t.Errorf("only %d commands were found", visited)
	}
	for _, line := range []string{"--nope", "file", "check", "--listen", "--drain-timeout soon", "check -- x"} {
		if err := parse("server", words(line)); err == nil && line != "check -- x" || err != nil && line == "check -- x" {
			t.Errorf("server %s: %v", line, err)
		}
	}
}

// parse checks arguments that are for a command or one below it.
func parse(path string, args []string) error {
	cmd, rest, err := tree().Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if got := cmd.CommandPath(); !strings.HasPrefix(got+" ", path+" ") {
		return &otherCommandError{got}
	}
	if cmd.Args == nil {
		return nil
	}
	return cmd.Args(cmd, cmd.Flags().Args())
}

type otherCommandError struct{ path string }

func (e *otherCommandError) Error() string { return "it is of " + e.path }

func TestCompletion(t *testing.T) {
	for _, tc := range []struct {
		line, want string // the end of a directive says what the shell adds
	}{
		{"--log-format ", "auto text json :4"},
		{"--log-level ", "debug info warn error :4"},
		{"--model ", "tabular :4"},
		{"--tls-cert ", ":0"},
		{"--data-dir ", ":16"},
		{"--heartbeat ", ":4"},
		{"check --slots ", ":4"},
		{"check -- pyth", ":0"},
		{"-- pyth", ":0"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(append([]string{"__complete"}, strings.Split(tc.line, " ")...), noEnv, &stdout, &stderr)
		if got := strings.Join(strings.Fields(stdout.String()), " "); code != exitOK || got != tc.want {
			t.Errorf("server %s: exit %d, %q, want %q", tc.line, code, got, tc.want)
		}
	}
	var stdout, stderr bytes.Buffer
	if run([]string{"__complete", ""}, noEnv, &stdout, &stderr); !strings.Contains(stdout.String(), "check\tTest a worker") {
		t.Errorf("the commands are %q", &stdout)
	}
	for shell, want := range map[string]string{"bash": "complete -o default", "zsh": "#compdef server", "fish": "complete -c server", "powershell": "Register-"} {
		stdout.Reset()
		if code := run([]string{"completion", shell}, noEnv, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), want) {
			t.Errorf("the script for %s: exit %d, %.200q", shell, code, &stdout)
		}
	}
	if stderr.Reset(); run([]string{"completion", "bash", "x"}, noEnv, &stdout, &stderr) != exitUsage {
		t.Errorf("an argument too many: %q", &stderr)
	}
}
