package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/transport"
)

// completionTime is how long the pod may take to complete what somebody types, who
// waits for it.
const completionTime = time.Second

// A question is one to the pod, about what there is to choose from. args are those
// before the one that is typed.
type question func(c *conn, ctx context.Context, args []string) ([]cobra.Completion, error)

// ask asks the pod that the flags and the environment name.
func (a *app) ask(what question) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		choices, err := a.answer(cmd, args, what)
		if err != nil {
			cobra.CompDebugln(err.Error(), false) // to the file of BASH_COMP_DEBUG_FILE
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		choices = slices.DeleteFunc(choices, func(choice cobra.Completion) bool {
			name, _, _ := strings.Cut(choice, "\t")
			return slices.Contains(args, name)
		})
		return choices, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func (a *app) answer(cmd *cobra.Command, args []string, what question) ([]cobra.Completion, error) {
	if err := cmd.PreRunE(cmd, args); err != nil { // the environment
		return nil, err
	}
	fs := cmd.Flags()
	dial := dialFlags{addr: fs.Lookup("addr").Value.String(), protocol: string(transport.GRPC)}
	if f := fs.Lookup("protocol"); f != nil {
		dial.protocol = f.Value.String()
	}
	if f := fs.Lookup("ca"); f != nil {
		dial.ca = f.Value.String()
	}
	if f := fs.Lookup("insecure"); f != nil {
		dial.insecure = f.Value.String() == "true"
	}
	if f := fs.Lookup("header"); f != nil {
		dial.header = f.Value.(pflag.SliceValue).GetSlice()
	}
	c, err := dial.open()
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	return what(c, ctx, args)
}

func (c *conn) completeFunctions(ctx context.Context, _ []string) ([]cobra.Completion, error) {
	list, err := c.api.Functions(ctx)
	var choices []cobra.Completion
	for _, f := range list.GetFunctions() {
		choices = append(choices, choice(f.GetName(), f.GetDoc()))
	}
	return choices, err
}

func (c *conn) completeVersions(ctx context.Context, _ []string) ([]cobra.Completion, error) {
	list, err := c.api.Functions(ctx)
	return list.GetVersions(), err
}

// completeServices has what can be asked for its health.
func (c *conn) completeServices(ctx context.Context, _ []string) ([]cobra.Completion, error) {
	list, err := c.api.Functions(ctx)
	choices := []cobra.Completion{"ai.AI", "aipod.v1.JobService"}
	for _, version := range list.GetVersions() {
		choices = append(choices, choice("aipod.version/"+version, "the version "+version))
	}
	return choices, err
}

// completeKwargs has the names that the function's schema names.
func (c *conn) completeKwargs(ctx context.Context, args []string) ([]cobra.Completion, error) {
	list, err := c.api.Functions(ctx)
	var choices []cobra.Completion
	for _, f := range list.GetFunctions() {
		if !slices.Contains(args, f.GetName()) {
			continue
		}
		var schema struct {
			Properties map[string]struct{ Type, Description string }
		}
		if json.Unmarshal(f.GetKwargsSchemaJson(), &schema) != nil {
			continue // it may be anything
		}
		for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
			p := schema.Properties[name]
			about := p.Description
			if p.Type != "" {
				about = strings.TrimSuffix(p.Type+", "+about, ", ")
			}
			choices = append(choices, choice(name+"=", about))
		}
	}
	return choices, err
}

func (c *conn) completeJobs(ctx context.Context, _ []string) ([]cobra.Completion, error) {
	return c.completeJobsIn(ctx)
}

// completeLiveJobs has those that can be canceled.
func (c *conn) completeLiveJobs(ctx context.Context, _ []string) ([]cobra.Completion, error) {
	return c.completeJobsIn(ctx, aipodv1.State_STATE_RECEIVING, aipodv1.State_STATE_QUEUED, aipodv1.State_STATE_LOADING, aipodv1.State_STATE_RUNNING)
}

// mostJobs is how many of them anybody wants to choose from.
const mostJobs = 100

func (c *conn) completeJobsIn(ctx context.Context, states ...aipodv1.State) ([]cobra.Completion, error) {
	var choices []cobra.Completion
	for job, err := range c.api.List(ctx, states...) {
		if err != nil {
			return nil, err
		}
		about := fmt.Sprintf("%s, %s, %s ago", jobState(job), job.GetSpec().GetFunc(), age(time.Since(job.GetCreateTime().AsTime())))
		choices = append(choices, choice(job.GetJobId(), about))
		if len(choices) == mostJobs {
			break
		}
	}
	return choices, nil
}

// choice is a completion with what it means. Shells show that in one line.
func choice(value, about string) cobra.Completion {
	return cobra.CompletionWithDesc(value, printable(strings.Join(strings.Fields(about), " ")))
}
