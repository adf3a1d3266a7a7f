package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) functionsCommand() *cobra.Command {
	var dial dialFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "functions",
		Short: "List what the pod's model can do, and its versions",
		Example: `  client functions
  client functions --json | jq -r '.functions[].name'`,
		Args: exactly(),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the pod's answer as one line of JSON")
	dial.registerHeader(cmd.Flags())
	dial.register(cmd.Flags())
	return a.finish(cmd, func(ctx context.Context, _ []string) error {
		c, err := dial.open()
		if err != nil {
			return err
		}
		defer c.close()
		return a.functions(ctx, c, asJSON)
	})
}

// narrowest is how few columns text is wrapped for.
const narrowest = 20

// width is how many columns stdout has; 0 is any number.
func (a *app) width() int {
	if f, ok := a.stdout.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
}

// wrap breaks text between words into lines of at most width characters, if that
// isn't too few to be read. It has at least one line.
func wrap(text string, width int) []string {
	words := strings.Fields(text)
	if width < narrowest || len(words) == 0 {
		return []string{text}
	}
	lines := []string{words[0]}
	for _, word := range words[1:] {
		last := &lines[len(lines)-1]
		if utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, word)
			continue
		}
		*last += " " + word
	}
	return lines
}

func (a *app) functions(ctx context.Context, c *conn, asJSON bool) error {
	list, err := c.api.Functions(ctx)
	if err != nil {
		return c.rpcFailure(err)
	}
	if asJSON {
		return a.printMessage(list)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "FUNCTION\tWHAT IT DOES\n")
	names := len("FUNCTION")
	for _, f := range list.GetFunctions() {
		names = max(names, len(f.GetName()))
	}
	for _, f := range list.GetFunctions() {
		name := f.GetName()
		for _, line := range wrap(printable(f.GetDoc()), a.width()-names-2) {
			fmt.Fprintf(w, "%s\t%s\n", name, line)
			name = ""
		}
	}
	if err := w.Flush(); err != nil {
		return failf("write the functions: %w", err)
	}
	versions := "none"
	if len(list.GetVersions()) > 0 {
		versions = strings.Join(list.GetVersions(), ", ")
	}
	fmt.Fprintf(a.stdout, "\nmodel: %s\nversions: %s\n", list.GetModel(), versions)
	return nil
}
