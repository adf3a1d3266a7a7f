package main

import (
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// complete gives a tree of commands the completion of flags and arguments, and the
// command that prints it for a shell. The pod is asked for what it alone knows;
// without an answer there is nothing to choose from, and not a word about it.
func (a *app) complete(root *cobra.Command) {
	flags := map[string]cobra.CompletionFunc{
		"protocol":      chooseFrom(transport.Protocols),
		"codec":         chooseFrom(levels),
		"compression":   chooseFrom([]string{"identity", codec.Gzip, codec.Zstd}),
		"generate-kind": chooseFrom([]bench.Kind{bench.Random, bench.Text, bench.CSV, bench.Zero}),
		"state":         completeStates,
		"version":       a.ask((*conn).completeVersions),
		"kwarg":         unspaced(a.ask((*conn).completeKwargs)),
		"file":          completeFiles,
		"output":        completeFiles,
		"ca":            completeFiles,
	}
	args := map[string]cobra.CompletionFunc{
		"client call":        once(a.ask((*conn).completeFunctions)),
		"client health":      once(a.ask((*conn).completeServices)),
		"client jobs get":    once(a.ask((*conn).completeJobs)),
		"client jobs attach": once(a.ask((*conn).completeJobs)),
		"client jobs logs":   once(a.ask((*conn).completeJobs)),
		"client jobs cancel": a.ask((*conn).completeLiveJobs),
		"client jobs rm":     a.ask((*conn).completeJobs),
	}
	walk(root, func(cmd *cobra.Command) {
		if cmd.RunE == nil {
			return
		}
		if cmd.ValidArgsFunction = args[cmd.CommandPath()]; cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			fn := flags[f.Name]
			if fn == nil {
				fn = cobra.NoFileCompletions
			}
			_ = cmd.RegisterFlagCompletionFunc(f.Name, fn) // fails only for what is there already
		})
	})
	addCompletionCommand(root)
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		walk(c, visit)
	}
}

func chooseFrom[S ~string](values []S) cobra.CompletionFunc {
	var choices []cobra.Completion
	for _, v := range values {
		choices = append(choices, string(v))
	}
	return cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)
}

func completeFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
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

// bashWords is what cobra's script takes from the package bash-completion, for
// shells that don't have it: the words as they were typed, not cut at = and :.
const bashWords = `# What the package bash-completion has, if it isn't there.
if ! declare -F _get_comp_words_by_ref >/dev/null && ! declare -F _init_completion >/dev/null; then
    _get_comp_words_by_ref() {
        local line=${COMP_LINE:0:COMP_POINT}
        read -ra words <<<"$line"
        [[ $line != *[[:space:]] ]] || words+=("")
        cword=$((${#words[@]} - 1))
        cur=${words[cword]}
        prev=${words[cword - 1]}
    }
    __ltrim_colon_completions() {
        [[ $1 == *:* && $COMP_WORDBREAKS == *:* ]] || return 0
        local before=${1%"${1##*:}"} i
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"$before"}
        done
    }
fi

`

// addCompletionCommand adds cobra's command, which prints the scripts.
func addCompletionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	walk(root, func(cmd *cobra.Command) {
		switch cmd.CommandPath() {
		case "client completion":
			cmd.Short = "Print the completion script for a shell"
			cmd.Example = `  source <(client completion bash)
  client completion zsh >"${fpath[1]}/_client"
  client completion fish >~/.config/fish/completions/client.fish`
		case "client completion bash":
			cmd.Long = `Print the completion script for bash. It works with the package bash-completion
and without it. The first example is for this shell, the second for all new ones,
if there is that package; else put the first into ~/.bashrc.`
			cmd.Example = `  source <(client completion bash)
  client completion bash >~/.local/share/bash-completion/completions/client`
			script := cmd.RunE
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if _, err := io.WriteString(cmd.OutOrStdout(), bashWords); err != nil {
					return err
				}
				return script(cmd, args)
			}
		case "client completion zsh":
			cmd.Example = `  source <(client completion zsh)
  client completion zsh >"${fpath[1]}/_client"`
		case "client completion fish":
			cmd.Example = `  client completion fish | source
  client completion fish >~/.config/fish/completions/client.fish`
		case "client completion powershell":
			cmd.Example = `  client completion powershell | Out-String | Invoke-Expression`
		case "client help":
			cmd.Example = `  client help call
  client help jobs attach`
		}
	})
}
