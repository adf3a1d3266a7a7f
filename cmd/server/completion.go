package main

import (
	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/shellcomp"
)

// complete gives a tree of commands the completion of flags and arguments, and the
// command that prints it for a shell.
func complete(root *cobra.Command) {
	flags := map[string]cobra.CompletionFunc{
		"model":      shellcomp.Choices("tabular"),
		"log-format": shellcomp.Choices("auto", "text", "json"),
		"log-level":  shellcomp.Choices("debug", "info", "warn", "error"),
		"tls-cert":   shellcomp.Files,
		"tls-key":    shellcomp.Files,
		"data-dir": func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	shellcomp.Walk(root, func(cmd *cobra.Command) {
		cmd.ValidArgsFunction = completeCommand
		shellcomp.Flags(cmd, flags)
	})
	shellcomp.AddCommands(root, `  server help check`)
}

// completeCommand completes a worker's command, which comes after --, as the shell
// completes files.
func completeCommand(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if cmd.ArgsLenAtDash() < 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}
