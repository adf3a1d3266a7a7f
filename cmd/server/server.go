package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/aipod/aipod/internal/flagenv"
	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/worker"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitForced = 130 // a second signal
)

// options are the flags.
type options struct {
	listen      string
	model       modelOptions
	command     []string // of the model
	logFormat   string
	logLevel    string
	pprof       string
	maxPayload  flagenv.Size
	maxMessage  flagenv.Size
	spoolBudget flagenv.Size
	streamWin   flagenv.Size
	connWin     flagenv.Size
	pod         service.Config
}

// run is the whole command; it returns the exit code.
func run(args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	code := exitOK
	cmd := command(env, stdout, stderr, &code)
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		fmt.Fprintf(stderr, "server: %v; see server --help\n", err)
		return exitUsage
	}
	return code
}

// command is the command line. It sets code when it has run.
func command(env func(string) (string, bool), stdout, stderr io.Writer, code *int) *cobra.Command {
	opts := options{
		maxMessage: 64 << 20,
		streamWin:  8 << 20,
		connWin:    16 << 20,
	}
	cmd := &cobra.Command{
		Use:   "server [flags] [-- COMMAND…]",
		Short: "A pod: it moves payloads of any size to a model's functions, and results back",
		Long: `A pod: it moves payloads of any size to a model's functions, and results back.

The model is a built-in one; or worker processes of COMMAND, which speak the
protocol of docs/workers.md; or with --exec any program, started for each call;
or with --upstream an HTTP server that runs already.

It speaks gRPC, gRPC-Web and Connect on one port. SIGTERM, SIGINT and SIGHUP
drain it: running jobs finish, new ones are refused; a second signal ends it at
once.`,
		Example: `  server
  server -- python3 model.py
  server --exec --func thumb -- convert - -resize '{size}' png:-
  server --upstream http://127.0.0.1:8000 --func predict
  server --listen 0.0.0.0:50051 --data-dir /var/lib/aipod
  server --tls-cert cert.pem --tls-key key.pem
  AIPOD_LISTEN=127.0.0.1:0 server --log-format json`,
		Args:          commandArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	f := cmd.Flags()
	f.StringVar(&opts.listen, "listen", "127.0.0.1:50051", "address to listen on; port 0 takes a free one, which the log line \"listening\" names")
	f.StringVar(&opts.pod.DataDir, "data-dir", "aipod-data", "directory for payloads and trained versions; one pod a directory")
	opts.model.bind(f)
	f.IntVar(&opts.pod.Pool.Instances, "instances", 2, "model instances loaded at once, over all versions")
	f.IntVar(&opts.pod.Pool.Slots, "slots", 0, "calls that run at once in one instance (default 4, but 1 for worker processes)")
	f.IntVar(&opts.pod.Pool.Queue, "queue", 1000, "calls that may wait for a slot; -1 for none")
	f.DurationVar(&opts.pod.Heartbeat, "heartbeat", time.Second, "longest silence in an answer, 200ms to 30s")
	f.Var(&opts.maxPayload, "max-payload", "largest payload and largest output; 0 for no limit but the spool's")
	f.Var(&opts.maxMessage, "max-message", "largest single message of ai.AI")
	f.Var(&opts.spoolBudget, "spool-budget", "most disk that all payloads together may take; 0 for no limit but the disk")
	f.DurationVar(&opts.pod.JobTTL, "job-ttl", time.Hour, "how long the result of a durable job is kept, and an input that nobody goes on with")
	f.IntVar(&opts.pod.MaxAttempts, "max-attempts", 2, "how often the function of a durable job may be begun when the pod dies under it; train once, unless its job asks for more")
	f.DurationVar(&opts.pod.StreamAge, "stream-age", 0, "end streams of durable jobs after this time, so that callers attach again; 0 is never")
	f.DurationVar(&opts.pod.DrainTimeout, "drain-timeout", 30*time.Second, "how long running jobs may go on after SIGTERM")
	f.DurationVar(&opts.pod.DrainDelay, "drain-delay", 0, "how long new calls are still taken after SIGTERM, while health says NOT_SERVING")
	f.DurationVar(&opts.pod.Transport.PingInterval, "ping-interval", 5*time.Second, "silence on a connection before an HTTP/2 PING")
	f.DurationVar(&opts.pod.Transport.PingTimeout, "ping-timeout", 120*time.Second, "how long the answer to a PING may take")
	f.Var(&opts.streamWin, "stream-window", "HTTP/2 receive window of a stream")
	f.Var(&opts.connWin, "conn-window", "HTTP/2 receive window of a connection")
	f.StringSliceVar(&opts.pod.CORSOrigins, "cors-origin", nil, "let pages of this `origin` call the pod, such as https://app.example; repeat it, or * for all pages, which then send no credentials")
	f.StringVar(&opts.pod.TLSCert, "tls-cert", "", "PEM file with the certificate; with --tls-key")
	f.StringVar(&opts.pod.TLSKey, "tls-key", "", "PEM file with the key")
	f.StringVar(&opts.pprof, "pprof", "", "serve profiles for go tool pprof on this `address`, such as 127.0.0.1:6060; not for the public")
	f.StringVar(&opts.logFormat, "log-format", "auto", "auto, text or json; auto is text on a terminal")
	f.StringVar(&opts.logLevel, "log-level", "info", "debug, info, warn or error")
	apply := flagenv.Bind(f, "AIPOD", env)
	cmd.RunE = func(_ *cobra.Command, command []string) error {
		if err := apply(); err != nil {
			return err
		}
		if err := opts.model.check(command, f.Changed); err != nil {
			return err
		}
		opts.command = command
		if opts.pod.Pool.Slots == 0 && len(command) > 0 && !opts.model.exec {
			opts.pod.Pool.Slots = 1
		}
		log, err := newLogger(stderr, opts.logFormat, opts.logLevel)
		if err != nil {
			return err
		}
		*code = serve(opts, log)
		return nil
	}
	cmd.AddCommand(checkCommand(stdout, stderr, code))
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	complete(cmd)
	return cmd
}

// commandArgs takes arguments only after "--": they are the worker's command.
func commandArgs(cmd *cobra.Command, args []string) error {
	if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
		return fmt.Errorf("unknown argument %q: a worker's command comes after --", args[0])
	}
	return nil
}

// serve runs the pod until a signal has drained it.
func serve(opts options, log *slog.Logger) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals...)
	go onSignals(signals, log, cancel)
	err := func() error {
		stopPprof, err := servePprof(opts.pprof, log)
		if err != nil {
			return err
		}
		defer stopPprof()
		cfg := opts.pod
		cfg.MaxPayload = int64(opts.maxPayload)
		cfg.MaxMessage = int(opts.maxMessage)
		cfg.SpoolBudget = int64(opts.spoolBudget)
		cfg.Transport.StreamWindow = int(opts.streamWin)
		cfg.Transport.ConnWindow = int(opts.connWin)
		cfg.Logger = log
		cfg.OpenModel = func(string) (worker.Model, error) {
			return opts.model.open(ctx, opts.command, cfg.DataDir, cfg.Pool.Slots, log)
		}
		pod, err := service.Open(cfg)
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", opts.listen)
		if err != nil {
			return errors.Join(fmt.Errorf("listen on %s: %w", opts.listen, err), pod.Close())
		}
		return pod.Serve(ctx, ln)
	}()
	if err != nil {
		log.Error("the pod did not run", "err", err)
		return exitFailed
	}
	return exitOK
}

// onSignals drains the pod on the first signal and ends the process on the
// second, for people who don't want to wait. It never returns.
func onSignals(signals <-chan os.Signal, log *slog.Logger, drain func()) {
	log.Info("signal received", "signal", (<-signals).String())
	drain()
	log.Warn("second signal, not waiting any longer", "signal", (<-signals).String())
	os.Exit(exitForced)
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("unknown --log-level %q: choose debug, info, warn or error", level)
	}
	file, isFile := w.(*os.File)
	terminal := isFile && term.IsTerminal(int(file.Fd()))
	switch format {
	case "auto":
	case "text":
		terminal = true
	case "json":
		terminal = false
	default:
		return nil, fmt.Errorf("unknown --log-format %q: choose auto, text or json", format)
	}
	if !terminal {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
	}
	_, noColor := os.LookupEnv("NO_COLOR")
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level: l, TimeFormat: time.TimeOnly, NoColor: noColor || !isFile || !term.IsTerminal(int(file.Fd())),
	})), nil
}
