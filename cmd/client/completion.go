package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/bench/load"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/shellcomp"
	"github.com/aipod/aipod/internal/transport"
)

// complete gives a tree of commands the completion of flags and arguments, and the
// command that prints it for a shell. The pod is asked for what it alone knows;
// without an answer there is nothing to choose from, and not a word about it.
func (a *app) complete(root *cobra.Command) {
	flags := map[string]cobra.CompletionFunc{
		"protocol":      shellcomp.Choices(transport.Protocols...),
		"codec":         shellcomp.Choices(levels...),
		"compression":   shellcomp.Choices("identity", codec.Gzip, codec.Zstd),
		"generate-kind": shellcomp.Choices(bench.Random, bench.Text, bench.CSV, bench.Zero),
		"kind":          shellcomp.Choices(load.Kinds...),
		"service":       shellcomp.Choices(load.Job, load.AI),
		"of":            shellcomp.Choices(load.Upload, load.Download, load.Chaos),
		"html":          shellcomp.Files,
		"state":         completeStates,
		"version":       a.ask((*conn).completeVersions),
		"kwarg":         unspaced(a.ask((*conn).completeKwargs)),
		"file":          shellcomp.Files,
		"output":        shellcomp.Files,
		"ca":            shellcomp.Files,
	}
	args := map[string]cobra.CompletionFunc{
		"client call":          once(a.ask((*conn).completeFunctions)),
		"client bench compare": shellcomp.Files,
		"client health":        once(a.ask((*conn).completeServices)),
		"client jobs get":      once(a.ask((*conn).completeJobs)),
		"client jobs attach":   once(a.ask((*conn).completeJobs)),
		"client jobs logs":     once(a.ask((*conn).completeJobs)),
		"client jobs cancel":   a.ask((*conn).completeLiveJobs),
		"client jobs rm":       a.ask((*conn).completeJobs),
	}
	shellcomp.Walk(root, func(cmd *cobra.Command) {
		if cmd.RunE == nil {
			return
		}
		if cmd.ValidArgsFunction = args[cmd.CommandPath()]; cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		shellcomp.Flags(cmd, flags)
	})
	shellcomp.AddCommands(root, `  client help call
  client help jobs attach`)
}

// completeStates completes the last of a list with commas.
func completeStates(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	var choices []cobra.Completion
	for _, state := range slices.Sorted(maps.Keys(stateNames)) {
		if state != aipodv1.State_STATE_UNSPECIFIED && !slices.Contains(strings.Split(before, ","), stateNames[state]) {
			choices = append(choices, before+stateNames[state])
		}
	}
	return choices, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// unspaced is for what more has to be typed after.
func unspaced(fn cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		choices, directive := fn(cmd, args, typed)
		return choices, directive | cobra.ShellCompDirectiveNoSpace
	}
}

// once is for a command with one argument.
func once(fn cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fn(cmd, args, typed)
	}
}
