package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/spf13/cobra"
)

func (a *app) healthCommand() *cobra.Command {
	var dial dialFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "health [SERVICE]",
		Short: "Ask whether the pod takes calls",
		Long: `Ask whether the pod, or one of its services, takes calls: grpc.health.v1.

Prints SERVING and exits 0, or NOT_SERVING and exits 1: the pod drains. A pod
that does not answer is exit 3.`,
		Example: `  client health
  client health ai.AI --addr https://pod.example
  client health --json | jq -r .status
  until client health; do sleep 1; done`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%q is one argument too many: see %s --help", args[1], cmd.CommandPath())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print service and status as one line of JSON")
	dial.register(cmd.Flags())
	return a.finish(cmd, func(ctx context.Context, args []string) error {
		c, err := dial.open()
		if err != nil {
			return err
		}
		defer c.close()
		service := ""
		if len(args) == 1 {
			service = args[0]
		}
		return a.health(ctx, c, service, asJSON)
	})
}

func (a *app) health(ctx context.Context, c *conn, service string, asJSON bool) error {
	res, err := grpchealth.NewClient(c.http, c.addr, c.options...).Check(ctx, &grpchealth.CheckRequest{Service: service})
	if err != nil {
		f := c.rpcFailure(err)
		if f.code == connect.CodeNotFound {
			f.what, f.todo = fmt.Sprintf("the pod has no service %q", service), "leave it out to ask for the pod"
		}
		return f
	}
	status := "UNKNOWN"
	switch res.Status {
	case grpchealth.StatusServing:
		status = "SERVING"
	case grpchealth.StatusNotServing:
		status = "NOT_SERVING"
	}
	if err := a.printHealth(service, status, asJSON); err != nil {
		return err
	}
	if res.Status != grpchealth.StatusServing {
		return &failure{exit: exitFailed} // the status has said it
	}
	return nil
}

func (a *app) printHealth(service, status string, asJSON bool) error {
	if !asJSON {
		return a.printLine([]byte(status))
	}
	return a.printJSON(struct {
		Service string `json:"service"`
		Status  string `json:"status"`
	}{service, status})
}
