package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/bench/load"
	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/bench/report"
	"github.com/aipod/aipod/internal/transport"
)

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Make load on a pod and measure what becomes of it",
		Long: `Make load on a pod and measure what becomes of it.

Without --rps each stream begins a call when its last has ended: a closed loop,
which finds how much the pod can do. With --rps calls begin at their time,
whatever became of those before: an open loop, which finds how long calls take
that come as they please. Latencies then count from when a call should have
begun; "raw" are those from when it did.`,
		Example: `  client bench call --streams 8 -d 10s
  client bench upload --size 256MiB --protocol grpc,connect --repeat 3 -o a.json
  client bench compare a.json b.json`,
	}
	for _, s := range benchScenarios {
		cmd.AddCommand(a.scenarioCommand(s))
	}
	cmd.AddCommand(a.compareCommand())
	return cmd
}

// A benchScenario is a command that makes load.
type benchScenario struct {
	scenario       load.Scenario
	short, example string
	long           string
}

var benchScenarios = []benchScenario{
	{
		load.Call, "Make many small calls", `  client bench call --streams 8
  client bench call --service ai --rps 500 --ramp 2s -d 10s --assert 'p99<20ms,errors==0'
  client bench call --step 100,200,400,800 --streams 32 --html call.html`,
		`Make many small calls, 1 KiB there and back by the function chaos, an echo.`,
	},
	{
		load.Upload, "Send payloads", `  client bench upload --size 256MiB -n 20
  client bench upload --conns 4 --kind csv --codec fastest --json`,
		`Send payloads to the function sha256, whose digests are checked.`,
	},
	{
		load.Download, "Get outputs", `  client bench download --size 256MiB -n 20
  client bench download --conns 2 --streams 2 --codec adaptive --kind text`,
		`Get an output that is put on the pod before, again and again. With --service ai
each call is an echo instead.`,
	},
	{
		load.Chaos, "Send payloads to a function that takes its time", `  client bench chaos --streams 20 --hold 2s
  client bench chaos --size 8MiB --hold 500ms --rps 10 -d 20s`,
		`Send payloads to a function that takes its time, sleep, and wait for its result.`,
	},
	{
		load.Idle, "Let calls wait, and time their heartbeats", `  client bench idle --conns 10 --streams 100 -d 30s
  client bench idle --streams 500 --service ai --assert 'lateness.p99<50ms,errors==0'`,
		`Let calls wait and time their heartbeats: how late they are against an absolute
schedule, the longest silence, and how many were missed.`,
	},
	{
		load.Cuts, "Run jobs through connections that are cut", `  client bench cuts --size 64MiB --cut-bytes 8MiB -n 4
  client bench cuts --of chaos --cut-every 500ms --streams 4 --assert 'lost==0'`,
		`Run named jobs through a proxy in this process that cuts each connection, again
and again. Counts jobs that were lost, which exits 1, and bytes sent again.`,
	},
}

func (a *app) scenarioCommand(s benchScenario) *cobra.Command {
	flags := benchFlags{scenario: s.scenario}
	cmd := &cobra.Command{
		Use:   string(s.scenario),
		Short: s.short,
		Long: s.long + `

Exits 1 if no call succeeds, or if an --assert doesn't hold. Ctrl-C ends it, and
what was measured until then is reported.`,
		Example: s.example,
		Args:    exactly(),
	}
	flags.register(cmd.Flags())
	return a.finish(cmd, func(ctx context.Context, _ []string) error {
		return a.bench(ctx, &flags)
	})
}

func (a *app) bench(ctx context.Context, flags *benchFlags) error {
	series, err := flags.series()
	if err != nil {
		return err
	}
	if flags.calls > 0 && !a.typed["duration"] {
		series.Duration = 0
	}
	asserts, err := report.ParseAsserts(flags.assert)
	if err != nil {
		return usagef("--assert: %v", err)
	}
	flags.dial.protocol = string(series.Protocols[0])
	c, err := flags.dial.open()
	if err != nil {
		return err
	}
	defer c.close()
	series.Addr, series.Header, series.TLS = c.addr, c.header, c.tls()
	if _, err := series.Check(); err != nil {
		return usagef("%v", err)
	}
	// A pod that isn't there is no measurement.
	if _, err := c.api.Functions(ctx); err != nil {
		return c.rpcFailure(err)
	}
	v := a.newBenchView(series)
	series.Begin, series.Progress = v.begin, v.progress
	result, err := series.Run(ctx)
	v.close()
	if result == nil || len(result.Runs) == 0 {
		return c.benchFailure(err)
	}
	if werr := a.writeBench(flags, result); werr != nil {
		return werr
	}
	switch {
	case err != nil:
		return c.benchFailure(err)
	case result.Interrupted():
		return &failure{exit: exitInterrupted}
	}
	return a.judgeBench(asserts, result)
}

// benchFailure explains why there was no load.
func (c *conn) benchFailure(err error) error {
	var wrong *load.ConfigError
	if errors.As(err, &wrong) {
		return usagef("%v", wrong)
	}
	return asBodyFailure(err)
}

// judgeBench says whether what was measured is good.
func (a *app) judgeBench(asserts report.Asserts, result *measure.Report) error {
	if err := asserts.Check(result); err != nil {
		return failf("%w", err)
	}
	for _, run := range result.Runs {
		switch {
		case run.Cuts != nil && run.Cuts.Lost > 0:
			return failf("%s lost", count(int(run.Cuts.Lost), "job"))
		case run.Calls+run.Canceled == 0 && run.Failed() > 0:
			return failf("no call succeeded")
		}
	}
	return nil
}

// writeBench writes the reports that were asked for.
func (a *app) writeBench(flags *benchFlags, result *measure.Report) error {
	var err error
	if flags.json {
		err = a.printJSON(result)
	} else {
		err = report.Text(a.stdout, result)
	}
	if err != nil {
		return failf("write the report: %w", err)
	}
	if flags.output != "" {
		text, err := json.Marshal(result)
		if err == nil {
			err = replaceFile(flags.output, append(text, '\n'))
		}
		if err != nil {
			return failf("write the report: %w", err)
		}
	}
	if flags.html != "" {
		var b strings.Builder
		err := report.HTML(&b, result)
		if err == nil {
			err = replaceFile(flags.html, []byte(b.String()))
		}
		if err != nil {
			return failf("write the page: %w", err)
		}
	}
	return nil
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func (a *app) compareCommand() *cobra.Command {
	var (
		noise  float64
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Compare two measurements",
		Long: `Compare two measurements that --output has written: medians of the runs, how far
the runs are apart, and whether B is better or worse than A.

A difference counts if it is more than --noise and the runs of A and B don't
overlap. Exits 1 if B is worse in anything.`,
		Example: `  client bench compare before.json after.json
  client bench compare before.json after.json --noise 10 --json | jq -r '.[] | select(.verdict == "worse").metric'`,
		Args: exactly("A.json", "B.json"),
	}
	cmd.Flags().Float64Var(&noise, "noise", 5, "differences up to so many `percent` are none")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the comparison as one line of JSON")
	return a.finish(cmd, func(_ context.Context, args []string) error {
		if noise < 0 {
			return usagef("--noise %g: give 0 or more", noise)
		}
		var both [2]*measure.Report
		for i, path := range args {
			var err error
			if both[i], err = measure.ReadReport(path); err != nil {
				return usagef("%v", err)
			}
		}
		c, err := report.Compare(both[0], both[1], noise/100)
		if err != nil {
			return usagef("%v", err)
		}
		if asJSON {
			err = a.printJSON(c.Lines)
		} else {
			err = c.Text(a.stdout)
		}
		if err != nil {
			return failf("write the comparison: %w", err)
		}
		if c.Worse() {
			return &failure{exit: exitFailed} // the comparison has said it
		}
		return nil
	})
}

// benchName is a run in words.
func benchName(s load.Scenario, protocol transport.Protocol, rate float64) string {
	name := fmt.Sprintf("%s over %s", s, protocol)
	if rate > 0 {
		name += fmt.Sprintf(" at %g/s", rate)
	}
	return name
}
