package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/aipod/aipod/internal/flagenv"
	"github.com/aipod/aipod/internal/tabular"
	"github.com/aipod/aipod/internal/worker"
)

// modelOptions are the flags that choose the model.
type modelOptions struct {
	builtin   string
	exec      bool
	upstream  string
	allow     []string
	functions []string
	settings  string
	maxRSS    flagenv.Size
	worker    worker.CommandConfig
}

func (o *modelOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.builtin, "model", "tabular", "the built-in model to serve if no command is given: tabular")
	f.BoolVar(&o.exec, "exec", false, "run the command once for each call: payload on stdin, kwargs as {key} in its arguments and as JSON in AIPOD_KWARGS, result on stdout")
	f.StringVar(&o.upstream, "upstream", "", "serve the functions of an HTTP server at this `URL`: POST URL/FUNCTION")
	f.StringSliceVar(&o.allow, "upstream-allow", nil, "`host`s besides this machine that --upstream may be on")
	f.StringSliceVar(&o.functions, "func", nil, "`name`s of the functions of --exec (default run) or --upstream (default predict)")
	o.bindWorker(f)
}

// bindWorker has the flags that check has, too.
func (o *modelOptions) bindWorker(f *pflag.FlagSet) {
	f.StringArrayVar(&o.worker.Env, "worker-env", nil, "`KEY=VALUE` to add to the environment of worker processes")
	f.StringVar(&o.settings, "worker-config", "", "`JSON` object that workers get at their start")
	f.DurationVar(&o.worker.StartTimeout, "worker-start-timeout", 5*time.Minute, "how long a worker may take to load its version")
	f.DurationVar(&o.worker.CallTimeout, "worker-call-timeout", 0, "how long a call of a worker may take; 0 is for ever")
	f.DurationVar(&o.worker.StallTimeout, "worker-stall-timeout", time.Minute, "how long a call may show no life before its log says so; negative is never")
	f.BoolVar(&o.worker.StallKill, "worker-stall-kill", false, "end the worker then, and begin the call again")
	f.DurationVar(&o.worker.CancelGrace, "worker-cancel-grace", 2*time.Second, "time between the steps of a cancellation: notification, SIGINT, SIGTERM, SIGKILL")
	f.DurationVar(&o.worker.StopGrace, "worker-stop-grace", 10*time.Second, "how long a worker may take to exit when it is no longer needed")
	f.IntVar(&o.worker.MaxCalls, "worker-max-calls", 0, "replace a worker after so many calls; 0 is never")
	f.DurationVar(&o.worker.MaxAge, "worker-max-age", 0, "replace a worker after this time; 0 is never")
	f.Var(&o.maxRSS, "worker-max-rss", "replace a worker when it has so much memory after a call; 0 is never")
}

// commandConfig is the configuration of worker processes.
func (o *modelOptions) commandConfig(command []string, dataDir string, log *slog.Logger) worker.CommandConfig {
	cfg := o.worker
	cfg.Command, cfg.Settings, cfg.MaxRSS, cfg.Logger = command, []byte(o.settings), int64(o.maxRSS), log
	cfg.DataDir, cfg.WorkDir = filepath.Join(dataDir, "versions"), filepath.Join(dataDir, "work")
	return cfg
}

// check says what does not go together.
func (o *modelOptions) check(command []string, changed func(flag string) bool) error {
	switch {
	case o.exec && o.upstream != "":
		return errors.New("--exec and --upstream exclude each other")
	case o.exec && len(command) == 0:
		return errors.New("--exec needs a command: put it after --")
	case o.upstream != "" && len(command) > 0:
		return errors.New("--upstream is a server that runs already: give no command")
	case len(o.functions) > 0 && !o.exec && o.upstream == "":
		return errors.New("--func is for --exec and --upstream: workers say themselves what they can do")
	case len(o.allow) > 0 && o.upstream == "":
		return errors.New("--upstream-allow is for --upstream")
	case changed("model") && (len(command) > 0 || o.upstream != ""):
		return errors.New("--model is for the built-in model: give either it or another one")
	case o.builtin != "tabular":
		return errors.New("unknown model " + strconv.Quote(o.builtin) + ": the built-in one is tabular")
	}
	return nil
}

// open opens the model. ctx is for its start.
func (o *modelOptions) open(ctx context.Context, command []string, dataDir string, slots int, log *slog.Logger) (worker.Model, error) {
	switch {
	case o.upstream != "":
		return worker.OpenUpstream(worker.UpstreamConfig{URL: o.upstream, Functions: o.functions, Allow: o.allow})
	case o.exec:
		return worker.OpenExec(worker.ExecConfig{
			Command: command, Functions: o.functions, Env: o.worker.Env,
			WorkDir: filepath.Join(dataDir, "work"), CancelGrace: o.worker.CancelGrace,
		})
	case len(command) > 0:
		cfg := o.commandConfig(command, dataDir, log)
		cfg.Slots = slots
		log.Info("starting the worker", "command", strings.Join(command, " "))
		return worker.OpenCommand(ctx, cfg)
	}
	model, err := tabular.Open(filepath.Join(dataDir, "versions"))
	if err != nil {
		return nil, err
	}
	for _, v := range model.SetAside() {
		log.Warn("version set aside, it can't be used", "file", v.Path, "err", v.Err)
	}
	return model, nil
}
