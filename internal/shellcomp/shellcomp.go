// Package shellcomp is what the commands have in common when they complete flags
// and arguments in shells: the walk over a tree of commands, choices, and the
// command that prints the scripts.
package shellcomp

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Walk visits a command and all below it.
func Walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		Walk(c, visit)
	}
}

// Flags gives the flags of a command their completions, by name. Flags without one
// complete nothing: most values are no files.
func Flags(cmd *cobra.Command, completions map[string]cobra.CompletionFunc) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		fn := completions[f.Name]
		if fn == nil {
			fn = cobra.NoFileCompletions
		}
		_ = cmd.RegisterFlagCompletionFunc(f.Name, fn) // fails only for what is there already
	})
}

// Choices completes one of the values.
func Choices[S ~string](values ...S) cobra.CompletionFunc {
	var choices []cobra.Completion
	for _, v := range values {
		choices = append(choices, string(v))
	}
	return cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)
}

// Files completes as the shell does.
func Files(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
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

// examples are those of the commands below the root, whose name replaces NAME.
var examples = map[string]string{
	"completion": `  source <(NAME completion bash)
  NAME completion zsh >"${fpath[1]}/_NAME"
  NAME completion fish >~/.config/fish/completions/NAME.fish`,
	"completion bash": `  source <(NAME completion bash)
  NAME completion bash >~/.local/share/bash-completion/completions/NAME`,
	"completion zsh": `  source <(NAME completion zsh)
  NAME completion zsh >"${fpath[1]}/_NAME"`,
	"completion fish": `  NAME completion fish | source
  NAME completion fish >~/.config/fish/completions/NAME.fish`,
	"completion powershell": `  NAME completion powershell | Out-String | Invoke-Expression`,
}

// AddCommands adds the commands completion and help to a root.
func AddCommands(root *cobra.Command, helpExample string) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	Walk(root, func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		if example, ok := examples[path]; ok {
			cmd.Example = strings.ReplaceAll(example, "NAME", root.Name())
		}
		switch path {
		case "help":
			cmd.Example = helpExample
		case "completion":
			cmd.Short = "Print the completion script for a shell"
		case "completion bash":
			cmd.Long = `Print the completion script for bash. It works with the package bash-completion
and without it. The first example is for this shell, the second for all new ones,
if there is that package; else put the first into ~/.bashrc.`
			script := cmd.RunE
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if _, err := io.WriteString(cmd.OutOrStdout(), bashWords); err != nil {
					return err
				}
				return script(cmd, args)
			}
		}
	})
}
