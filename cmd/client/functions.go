package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
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
	for _, f := range list.GetFunctions() {
		fmt.Fprintf(w, "%s\t%s\n", f.GetName(), f.GetDoc())
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
