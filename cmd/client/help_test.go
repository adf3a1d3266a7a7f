package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/shellcomp"
)

// Each command says what it is for and shows how it is used, and what it shows is
// right: its own name, flags that exist with values that they take, and as many
// arguments as it wants.
func TestHelpHasExamples(t *testing.T) {
	tree := func() *cobra.Command {
		return (&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, lookupEnv: func(string) (string, bool) { return "", false }}).command()
	}
	visited := 0
	shellcomp.Walk(tree(), func(cmd *cobra.Command) {
		visited++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: Short %q, Example %q", path, cmd.Short, cmd.Example)
		}
		own := 0
		for line := range strings.Lines(cmd.Example) {
			uses := invocations(line, "client")
			if len(uses) == 0 {
				t.Errorf("%s: the example %q does not use it", path, line)
			}
			for _, args := range uses {
				if called, err := parse(tree(), args); err != nil {
					t.Errorf("%s: the example %q: %v", path, line, err)
				} else if called == path || strings.HasPrefix(called, path+" ") {
					own++
				}
			}
		}
		if own == 0 && cmd.Example != "" {
			t.Errorf("%s: no example is of it:\n%s", path, cmd.Example)
		}
	})
	if visited < 15 {
		t.Errorf("only %d commands were found", visited)
	}
}

// parse finds the command that args are for, and checks its flags and arguments.
func parse(root *cobra.Command, args []string) (path string, err error) {
	cmd, rest, err := root.Find(args)
	if err != nil {
		return "", err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return "", err
	}
	if cmd.Args != nil {
		err = cmd.Args(cmd, cmd.Flags().Args())
	}
	return cmd.CommandPath(), err
}

// shellWord is one with quotes; what isn't quoted ends at what ends a command.
var shellWord = regexp.MustCompile(`^(?:'[^']*'|"[^"]*"|[^\s'"|;()<>&]+)+`)

// invocations are the arguments of each use of a program in a line of shell.
func invocations(line, program string) [][]string {
	var uses [][]string
	current := -1 // of uses; none before the program's name
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " \n") {
		word := shellWord.FindString(line)
		if word == "" {
			line, current = line[1:], -1
			continue
		}
		line = line[len(word):]
		word = strings.NewReplacer("'", "", `"`, "").Replace(word)
		switch {
		case current >= 0:
			uses[current] = append(uses[current], word)
		case word == program:
			uses = append(uses, nil)
			current = len(uses) - 1
		}
	}
	return uses
}

func TestInvocations(t *testing.T) {
	for line, want := range map[string]string{
		"  client call hello\n":                       `[["call" "hello"]]`,
		"tar c data | client call x -f - | jq .event": `[["call" "x" "-f" "-"]]`,
		"until client health; do sleep 1; done":       `[["health"]]`,
		"client call x -H 'a: b' >file":               `[["call" "x" "-H" "a: b"]]`,
		"client jobs rm $(client jobs ls | jq .x)":    `[["jobs" "rm" "$"] ["jobs" "ls"]]`,
		"source <(client completion bash)":            `[["completion" "bash"]]`,
		"server --listen :0":                          `[]`,
	} {
		if got := fmt.Sprintf("%q", invocations(line, "client")); got != want {
			t.Errorf("%q has %s, want %s", line, got, want)
		}
	}
	if _, err := parse((&app{lookupEnv: func(string) (string, bool) { return "", false }}).command(), []string{"call"}); err == nil {
		t.Error("a call without a function is fine")
	}
}
