package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

func (a *app) jobsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "See, follow, cancel and remove the pod's jobs",
		Long: `See, follow, cancel and remove the jobs that the pod keeps: those that were
named with call --job-id, and those that are running.`,
		Example: `  client jobs ls
  client jobs attach monday -o model.json
  client jobs rm monday`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see %s --help", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.jobsListCommand(), a.jobsGetCommand(), a.jobsAttachCommand(), a.jobsLogsCommand(), a.jobsCancelCommand(), a.jobsRemoveCommand())
	return cmd
}

// jobsFinish completes one of the jobs commands, whose arguments are ids.
func (a *app) jobsFinish(cmd *cobra.Command, dial *dialFlags, body func(ctx context.Context, c *conn, ids []string) error) *cobra.Command {
	dial.registerHeader(cmd.Flags())
	dial.register(cmd.Flags())
	return a.finish(cmd, func(ctx context.Context, ids []string) error {
		for _, id := range ids {
			if err := checkJobID("the job", id); err != nil {
				return err
			}
		}
		c, err := dial.open()
		if err != nil {
			return err
		}
		defer c.close()
		return body(ctx, c, ids)
	})
}

// some is for arguments of which there is at least one.
func some(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s is missing: see %s --help", name, cmd.CommandPath())
		}
		return nil
	}
}

func (a *app) jobsListCommand() *cobra.Command {
	var (
		dial   dialFlags
		names  []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the pod's jobs, the newest first",
		Example: `  client jobs ls
  client jobs ls --state queued,running
  client jobs ls --json | jq -r '.jobs[].job_id'`,
		Args: exactly(),
	}
	cmd.Flags().StringSliceVar(&names, "state", nil, "only jobs in these `states`: receiving, queued, loading, running, succeeded, failed, canceled")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the pod's answer as one line of JSON")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, _ []string) error {
		states, err := parseStates(names)
		if err != nil {
			return err
		}
		list := new(aipodv1.ListJobsResponse)
		for job, err := range c.api.List(ctx, states...) {
			if err != nil {
				return c.rpcFailure(err)
			}
			list.Jobs = append(list.Jobs, job)
		}
		if asJSON {
			return a.printMessage(list)
		}
		return a.printJobs(list.GetJobs(), time.Now())
	})
}

// parseStates reads --state.
func parseStates(names []string) ([]aipodv1.State, error) {
	var states []aipodv1.State
next:
	for _, name := range names {
		for state, known := range stateNames {
			if state != aipodv1.State_STATE_UNSPECIFIED && strings.EqualFold(strings.TrimSpace(name), known) {
				states = append(states, state)
				continue next
			}
		}
		return nil, usagef("--state %q: choose receiving, queued, loading, running, succeeded, failed or canceled", name)
	}
	return states, nil
}

func (a *app) jobsGetCommand() *cobra.Command {
	var (
		dial   dialFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "get JOB",
		Short: "Describe a job",
		Example: `  client jobs get monday
  client jobs get monday --json | jq -r .state`,
		Args: exactly("JOB"),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the pod's answer as one line of JSON")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, ids []string) error {
		job, err := c.api.Get(ctx, ids[0])
		if err != nil {
			return c.noJob(err)
		}
		if asJSON {
			return a.printMessage(job)
		}
		return a.printJob(job, time.Now())
	})
}

func (a *app) jobsAttachCommand() *cobra.Command {
	var (
		dial      dialFlags
		out       string
		asJSON    bool
		heartbeat time.Duration
		timeout   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "attach JOB",
		Short: "Follow a job to its end and print its result",
		Long: `Follow a job to its end and print its result, as call does.

Ctrl-C leaves the job alone; a second one within 3 seconds cancels it.

` + eventHelp,
		Example: `  client jobs attach monday
  client jobs attach monday -o model.json
  client jobs attach monday --json | jq .event`,
		Args: exactly("JOB"),
	}
	cmd.Flags().StringVarP(&out, "output", "o", "-", "write the result to this `file`; - is stdout")
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON lines on stdout, as those of call")
	cmd.Flags().DurationVar(&heartbeat, "heartbeat", time.Second, "how long the pod may be silent, 200ms to 30s")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time; 0 is never")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, ids []string) error {
		if err := checkHeartbeat(heartbeat); err != nil {
			return err
		}
		if timeout < 0 {
			return usagef("--timeout %v: give a positive duration", timeout)
		}
		return a.follow(ctx, &following{
			conn: c, dial: &dial, jobID: ids[0], out: out, timeout: timeout,
			showing: showing{heartbeat: heartbeat, json: asJSON},
			run: func(ctx context.Context, out io.Writer, watch func(client.Event)) (*client.Result, error) {
				return c.api.Attach(ctx, ids[0], client.AttachOptions{Output: out, Watch: watch, Heartbeat: heartbeat})
			},
		})
	})
}

func (a *app) jobsLogsCommand() *cobra.Command {
	var (
		dial   dialFlags
		follow bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Print what a job's function has logged",
		Long: `Print what a job's function has logged, with time and level, and follow it to
the job's end. The pod keeps the newest lines.`,
		Example: `  client jobs logs monday
  client jobs logs monday --follow=false | tail
  client jobs logs monday --json | jq -r 'select(.level == "WARN").message'`,
		Args: exactly("JOB"),
	}
	cmd.Flags().BoolVar(&follow, "follow", true, "go on until the job ends")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each line as JSON: time, level and message")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, ids []string) error {
		return a.logs(ctx, c, ids[0], &logPrinter{a: a, json: asJSON}, follow)
	})
}

func (a *app) jobsCancelCommand() *cobra.Command {
	var (
		dial   dialFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "cancel JOB...",
		Short: "Cancel jobs; those that have ended stay as they are",
		Example: `  client jobs cancel monday
  client jobs cancel monday tuesday --json | jq -r .state`,
		Args: some("JOB"),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each job as one line of JSON, as get does")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, ids []string) error {
		return a.forEach(ctx, ids, func(id string) error {
			job, err := c.api.Cancel(ctx, id)
			if err != nil {
				return c.noJob(err)
			}
			if asJSON {
				return a.printMessage(job)
			}
			return a.printLine([]byte(canceledText(job)))
		})
	})
}

func (a *app) jobsRemoveCommand() *cobra.Command {
	var (
		dial   dialFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "rm JOB...",
		Short: "Cancel jobs, if they have not ended, and remove them with all that they hold",
		Long: `Cancel jobs, if they have not ended, and remove them with all that they hold. A
job that is not there is not an error.`,
		Example: `  client jobs rm monday
  client jobs rm $(client jobs ls --state succeeded --json | jq -r '.jobs[].job_id')`,
		Args: some("JOB"),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the job_id of each job that is gone as one line of JSON")
	return a.jobsFinish(cmd, &dial, func(ctx context.Context, c *conn, ids []string) error {
		return a.forEach(ctx, ids, func(id string) error {
			if err := c.api.Delete(ctx, id); err != nil {
				return c.noJob(err)
			}
			if asJSON {
				return a.printJSON(struct {
					JobID string `json:"job_id"`
				}{id})
			}
			return nil
		})
	})
}

// forEach does something for each of the jobs. An error is no reason to leave out
// the others, but that the pod is not there. It returns the last error; those
// before are printed.
func (a *app) forEach(ctx context.Context, ids []string, do func(id string) error) error {
	var last error
	for _, id := range slices.Compact(ids) {
		err := do(id)
		if err == nil {
			continue
		}
		if last != nil {
			a.complain(last)
		}
		last = err
		var f *failure
		if ctx.Err() != nil || errors.As(err, &f) && f.exit == exitUnreachable {
			break
		}
	}
	return last
}

// noJob explains the error of a request about a job.
func (c *conn) noJob(err error) error {
	f := c.rpcFailure(err)
	if f.code == connect.CodeNotFound {
		f.what, f.todo = "the pod has no such job: it has expired, was removed, or never was", "see: client jobs ls"
	}
	return f
}
