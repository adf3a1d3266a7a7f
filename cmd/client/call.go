package main

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/flagenv"
)

// The heartbeats that a pod can be asked for.
const (
	minHeartbeat = 200 * time.Millisecond
	maxHeartbeat = 30 * time.Second
)

var validJobID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// callFlags are the flags of the call command.
type callFlags struct {
	dial        dialFlags
	file        string
	out         string
	pairs       []string
	kwargs      string
	version     string
	header      []string
	jobID       string
	compression string
	legacy      bool
	json        bool
	heartbeat   time.Duration
	timeout     time.Duration
	generate    flagenv.Size
	kind        string
	seed        uint64
}

func (f *callFlags) register(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "file", "f", "", "send this `file` as the payload; - is stdin")
	fs.StringVarP(&f.out, "output", "o", "-", "write the result to this `file`; - is stdout")
	fs.StringArrayVarP(&f.pairs, "kwarg", "k", nil, "add a kwarg `key=value`; the value is JSON if it reads as JSON, else a string")
	fs.StringVar(&f.kwargs, "kwargs", "", "the kwargs, a `JSON` object; -k adds to it")
	fs.StringVar(&f.version, "version", "", "`version` of the model")
	fs.StringArrayVarP(&f.header, "header", "H", nil, "add metadata `'name: value'`, such as x-upstream for a proxy")
	fs.StringVar(&f.jobID, "job-id", "", "name the job; 1 to 64 of A-Z, a-z, 0-9, _ and -")
	fs.StringVar(&f.compression, "compression", "", "of RPC messages: identity, gzip or zstd (default identity; gzip with --legacy)")
	fs.BoolVar(&f.legacy, "legacy", false, "speak as the first aipod's client: kwargs and payload in zstd, small messages")
	fs.BoolVar(&f.json, "json", false, "JSON lines on stdout: accepted, heartbeat, progress, result, error")
	fs.DurationVar(&f.heartbeat, "heartbeat", time.Second, "how long the pod may be silent, 200ms to 30s")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up after this time; 0 is never")
	fs.Var(&f.generate, "generate", "send a made-up payload of this size instead of a file")
	fs.StringVar(&f.kind, "generate-kind", string(bench.Random), "what --generate makes: random, text or zero")
	fs.Uint64Var(&f.seed, "generate-seed", 1, "the same seed makes the same payload")
	f.dial.register(fs)
}

func (a *app) callCommand() *cobra.Command {
	var flags callFlags
	cmd := &cobra.Command{
		Use:   "call FUNC",
		Short: "Call a function with a payload and print its result",
		Long: `Call a function of the pod's model with a payload and print its result.

The payload, a file, stdin or nothing, is streamed: its size does not matter.
The result is JSON, indented on a terminal, else one line exactly as the pod
sent it; a text comes as a JSON string, also in a file. The file of -o is
replaced once the result is there.

A connection that fails before the pod has answered is tried again, 5 times in
all, unless the payload came from stdin and some of it is gone.`,
		Example: `  client call hello
  client call train -f iris.csv -k target=species --version v1
  client call predict -f rows.csv --version v1 -o species.json
  tar c data | client call sha256 -f -
  client call sha256 -f big.bin --json | jq .event
  client call predict -f rows.csv -H 'x-upstream: xxx' --addr https://pods.example`,
		Args: exactly("FUNC"),
	}
	flags.register(cmd.Flags())
	return a.finish(cmd, func(ctx context.Context, args []string) error {
		return a.call(ctx, &flags, args[0])
	})
}

// exactly is cobra.ExactArgs with a message that names the arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s is missing: see %s --help", names[len(args)], cmd.CommandPath())
		case len(args) > len(names):
			return usagef("%q is one argument too many: see %s --help", args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// spec checks the flags.
func (a *app) spec(flags *callFlags, fn string) (callSpec, error) {
	spec := callSpec{fn: fn, jobID: flags.jobID, heartbeat: flags.heartbeat, legacy: flags.legacy}
	var err error
	if fn == "" {
		return spec, usagef("FUNC is empty: see client functions")
	}
	if spec.kwargs, err = parseKwargs(flags.kwargs, flags.pairs, flags.version); err != nil {
		return spec, err
	}
	if spec.header, err = parseHeader(flags.header); err != nil {
		return spec, err
	}
	switch {
	case flags.jobID != "" && !validJobID.MatchString(flags.jobID):
		return spec, usagef("--job-id %q: give 1 to 64 of A-Z, a-z, 0-9, _ and -", flags.jobID)
	case flags.heartbeat < minHeartbeat || flags.heartbeat > maxHeartbeat:
		return spec, usagef("--heartbeat %v: give %v to %v", flags.heartbeat, minHeartbeat, maxHeartbeat)
	case flags.timeout < 0:
		return spec, usagef("--timeout %v: give a positive duration", flags.timeout)
	case flags.file != "" && flags.generate > 0:
		return spec, usagef("--file and --generate are both given: choose one")
	case flags.compression == "" && flags.legacy:
		flags.compression = codec.Gzip
	case flags.compression == "identity":
		flags.compression = ""
	case flags.compression != "" && flags.compression != codec.Gzip && flags.compression != codec.Zstd:
		return spec, usagef("--compression %q: choose identity, gzip or zstd", flags.compression)
	}
	switch {
	case flags.generate > 0:
		spec.payload, err = generatedSource(bench.Kind(flags.kind), int64(flags.generate), flags.seed)
	case flags.file == "-":
		spec.payload = streamSource(a.stdin)
	case flags.file != "":
		spec.payload, err = fileSource(flags.file)
	default:
		spec.payload = bytesSource(nil)
	}
	return spec, err
}

func (a *app) call(ctx context.Context, flags *callFlags, fn string) error {
	spec, err := a.spec(flags, fn)
	if err != nil {
		return err
	}
	c, err := flags.dial.open()
	if err != nil {
		return err
	}
	defer c.close()
	out, err := a.openOutput(flags.out)
	if err != nil {
		return err
	}
	defer out.discard()

	state := new(callState)
	view := a.newView(state, spec, flags.json)
	result, err := a.callOnce(ctx, c, flags, spec, state, view)
	view.close()
	printed := flags.json && out.path == ""
	if err == nil && !printed {
		err = out.result(result)
	}
	if !flags.json {
		return err
	}
	if !printed {
		result = nil
	}
	return view.(*eventView).end(ctx, result, err)
}

// callOnce makes the call and explains its error.
func (a *app) callOnce(ctx context.Context, c *conn, flags *callFlags, spec callSpec, state *callState, watch watcher) (json.RawMessage, error) {
	callCtx := ctx
	if flags.timeout > 0 {
		var cancel context.CancelFunc
		callCtx, cancel = context.WithTimeout(ctx, flags.timeout)
		defer cancel()
	}
	result, err := newCaller(c, flags.compression, seedRetry(a.wait)).call(callCtx, spec, state, watch)
	if err != nil {
		return nil, c.explainCall(err, spec, state, flags.timeout)
	}
	return result, nil
}

// explainCall makes the error of a call readable.
func (c *conn) explainCall(err error, spec callSpec, state *callState, timeout time.Duration) *failure {
	f := &failure{exit: exitFailed, job: state.jobID(), err: err}
	if f.job == "" {
		f.job = spec.jobID
	}
	var failed *callError
	answered := errors.As(err, &failed) && failed.answered
	switch {
	case errors.Is(err, context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		f.code = connect.CodeDeadlineExceeded
		f.what, f.todo = "no result", "give it more time with --timeout"
		if timeout > 0 {
			f.what += " within " + timeout.String()
		}
		if !answered && state.lastSeen.Load() == 0 {
			f.exit, f.what = exitUnreachable, "no answer from "+c.addr+" within "+timeout.String()
		}
	case failed == nil || failed.local:
		f.what = text(err)
	case failed.wire:
		f.explainWire(failed)
	case failed.answered || errors.Is(err, errCut):
		f.exit, f.code = exitUnreachable, connect.CodeUnavailable
		f.what = "the connection was cut before the result arrived"
		if !errors.Is(err, errCut) {
			f.what += ": " + text(failed.err)
		}
		f.todo = "call again"
	default:
		job := f.job
		f = c.unreachable(err)
		f.job = job
	}
	return f
}

// explainWire is for what the pod itself said.
func (f *failure) explainWire(failed *callError) {
	f.code, f.what = connect.CodeOf(failed.err), text(failed.err)
	switch f.code {
	case connect.CodeUnimplemented:
		f.todo = "see what there is: client functions"
	case connect.CodeUnavailable:
		if !failed.answered {
			f.exit = exitUnreachable
		}
		f.todo = "try again later"
	}
}
