package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/aipod/aipod/internal/flagenv"
)

// envPrefix starts the names of the flags' environment twins.
const envPrefix = "AIPOD"

// An app is one run of the command, with the world that it sees.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	// terminal says whether a stream is a terminal.
	terminal func(stream any) bool
	// wait sleeps for the pause between two attempts of a call of ai.AI, or until
	// ctx ends.
	wait       func(ctx context.Context, d time.Duration) error
	interrupts *interrupts
	verbose    bool
	typed      typedFlags
}

// Run runs the command line args, without the program's name, and returns the
// exit code: 0 done, 1 the job failed, 2 wrong usage, 3 the pod could not be
// reached, 130 interrupted, which is what signals are for; they come from
// signal.Notify.
func Run(signals chan os.Signal, args []string, lookupEnv func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{
		stdin: stdin, stdout: stdout, stderr: stderr, lookupEnv: lookupEnv,
		terminal: isTerminal, wait: wait, interrupts: newInterrupts(),
	}
	return a.listen(signals, args)
}

// listen runs a command until it ends or a signal ends it.
func (a *app) listen(signals chan os.Signal, args []string) int {
	ctx, interrupt := context.WithCancelCause(context.Background())
	defer interrupt(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() { a.interrupts.run(signals, interrupt, done) })
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	f := asFailure(ctx, err)
	a.complain(f)
	return f.exit
}

// complain prints an error, unless that has been done.
func (a *app) complain(err error) {
	if line := err.Error(); line != "" {
		a.warn(line)
	}
}

// warn prints a line to stderr.
func (a *app) warn(line string) { fmt.Fprintf(a.stderr, "client: %s\n", line) }

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "client",
		Short: "Calls the functions of a pod",
		Long: `Calls the functions of a pod: payload there, result back.

Every flag has an environment variable, which its help names; the flag wins.

Exit codes: 0 done, 1 the job failed, 2 wrong usage, 3 the pod could not be
reached, 130 interrupted.`,
		Example: `  client demo
  client functions
  client call predict -f rows.csv -k proba=true
  client call train -f rows.csv -k target=species --job-id monday
  client jobs attach monday
  client health --addr https://pod.example`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddCommand(a.callCommand(), a.jobsCommand(), a.functionsCommand(), a.healthCommand(), a.doctorCommand(), a.benchCommand(), a.demoCommand())
	a.complete(root)
	return root
}

// finish completes a command whose flags are all defined: environment twins,
// -v, and a body whose errors are told from wrong usage.
func (a *app) finish(cmd *cobra.Command, body func(ctx context.Context, args []string) error) *cobra.Command {
	cmd.Flags().BoolVarP(&a.verbose, "verbose", "v", false, "say more on stderr: retries, the job, and in the demo what the pod logs")
	cmd.Flags().SortFlags = false
	apply := flagenv.Bind(cmd.Flags(), envPrefix, a.lookupEnv)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		a.typed = typedFlagsOf(cmd.Flags())
		return apply()
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := body(cmd.Context(), args); err != nil {
			return asBodyFailure(err)
		}
		return nil
	}
	return cmd
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// dumb says that a terminal can't move its cursor.
func (a *app) dumb() bool {
	kind, _ := a.lookupEnv("TERM")
	return kind == "dumb"
}

// color says whether text on a terminal may be coloured: https://no-color.org.
func (a *app) color() bool {
	value, _ := a.lookupEnv("NO_COLOR")
	return value == "" && !a.dumb()
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
