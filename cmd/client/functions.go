package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
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
	client := aipodv1connect.NewJobServiceClient(c.http, c.addr, c.options...)
	res, err := client.ListFunctions(ctx, connect.NewRequest(&aipodv1.ListFunctionsRequest{}))
	if err != nil {
		return c.rpcFailure(err)
	}
	if asJSON {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true, UseProtoNames: true}.Marshal(res.Msg)
		if err != nil {
			return failf("write the functions: %w", err)
		}
		var line bytes.Buffer // protojson puts in spaces at random
		if err := json.Compact(&line, text); err != nil {
			return failf("write the functions: %w", err)
		}
		return a.printLine(line.Bytes())
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "FUNCTION\tWHAT IT DOES\n")
	for _, f := range res.Msg.GetFunctions() {
		fmt.Fprintf(w, "%s\t%s\n", f.GetName(), f.GetDoc())
	}
	if err := w.Flush(); err != nil {
		return failf("write the functions: %w", err)
	}
	versions := "none"
	if len(res.Msg.GetVersions()) > 0 {
		versions = strings.Join(res.Msg.GetVersions(), ", ")
	}
	fmt.Fprintf(a.stdout, "\nmodel: %s\nversions: %s\n", res.Msg.GetModel(), versions)
	return nil
}
