package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// complete gives a tree of commands the completion of flags and arguments, and the
// command that prints it for a shell.
func complete(root *cobra.Command) {
	fixed := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	files := func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	flags := map[string]cobra.CompletionFunc{
		"model":      fixed("tabular"),
		"log-format": fixed("auto", "text", "json"),
		"log-level":  fixed("debug", "info", "warn", "error"),
		"tls-cert":   files,
		"tls-key":    files,
		"data-dir": func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	walk(root, func(cmd *cobra.Command) {
		cmd.ValidArgsFunction = completeCommand
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			fn := flags[f.Name]
			if fn == nil {
				fn = cobra.NoFileCompletions
			}
			_ = cmd.RegisterFlagCompletionFunc(f.Name, fn) // fails only for what is there already
		})
	})
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	walk(root, func(cmd *cobra.Command) {
		switch cmd.CommandPath() {
		case "server completion":
			cmd.Short = "Print the completion script for a shell"
			cmd.Example = `  source <(server completion bash)
  server completion zsh >"${fpath[1]}/_server"
  server completion fish >~/.config/fish/completions/server.fish`
		case "server completion bash":
			cmd.Example = `  source <(server completion bash)
  server completion bash >~/.local/share/bash-completion/completions/server`
		case "server completion zsh":
			cmd.Example = `  source <(server completion zsh)
  server completion zsh >"${fpath[1]}/_server"`
		case "server completion fish":
			cmd.Example = `  server completion fish | source
  server completion fish >~/.config/fish/completions/server.fish`
		case "server completion powershell":
			cmd.Example = `  server completion powershell | Out-String | Invoke-Expression`
		case "server help":
			cmd.Example = `  server help check`
		}
	})
}

// completeCommand completes a worker's command, which comes after --, as the shell
// completes files.
func completeCommand(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if cmd.ArgsLenAtDash() < 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		walk(c, visit)
	}
}
