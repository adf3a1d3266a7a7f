package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/internal/worker"
)

// checkCommand is "server check". It sets code when it has run.
func checkCommand(stdout, stderr io.Writer, code *int) *cobra.Command {
	var model modelOptions
	var slots int
	var verbose bool
	cmd := &cobra.Command{
		Use:   "check [flags] -- COMMAND…",
		Short: "Test a worker: does it keep to the protocol?",
		Long: `Test a worker: does it keep to the protocol?

The command is started as a pod does, and the functions that docs/workers.md
names are called: echo, progress, sleep, crash, noise. What the worker doesn't
offer is skipped. The exit code is 1 if anything fails.`,
		Example: `  server check -- python3 sdk/python/check_worker.py
  server check -v --slots 4 -- node examples/node/worker.mjs`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := commandArgs(cmd, args); err != nil {
				return err
			}
			if len(args) == 0 {
				return errors.New("no worker command given: put it after --")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&slots, "slots", 1, "calls that the worker is told to expect at once")
	f.BoolVarP(&verbose, "verbose", "v", false, "show what the pod would log")
	model.bindWorker(f)
	cmd.RunE = func(_ *cobra.Command, command []string) error {
		level := slog.LevelError + 1
		if verbose {
			level = slog.LevelDebug
		}
		log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
		dir, err := os.MkdirTemp("", "aipod-check-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		ctx, stop := signal.NotifyContext(context.Background(), stopSignals...)
		defer stop()
		cfg := model.commandConfig(command, dir, log)
		cfg.Slots = slots
		report, err := worker.Check(ctx, cfg, filepath.Join(dir, "spool"), func(c worker.Checked) {
			fmt.Fprintln(stdout, c)
		})
		if err != nil {
			fmt.Fprintf(stderr, "server: check: %v\n", err)
			*code = exitFailed
			return nil
		}
		fmt.Fprintf(stdout, "%d passed, %d failed, %d skipped\n", report.Passed, report.Failed, report.Skipped)
		if report.Failed > 0 {
			*code = exitFailed
		}
		return nil
	}
	return cmd
}
