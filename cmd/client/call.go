package main

import (
	"context"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/aipod/aipod/client"
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
	jobID       string
	codec       string
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
	f.dial.registerHeader(fs)
	fs.StringVar(&f.jobID, "job-id", "", "name the job, which then outlives this command; 1 to 64 of A-Z, a-z, 0-9, _ and -")
	fs.StringVar(&f.codec, "codec", "", "how hard to compress the payload: adaptive, raw, fastest, default or better (default adaptive)")
	fs.StringVar(&f.compression, "compression", "", "with --legacy, of RPC messages: identity, gzip or zstd (default gzip)")
	fs.BoolVar(&f.legacy, "legacy", false, "speak as the first aipod's client, ai.AI/chaos: one stream, kwargs and payload in zstd")
	fs.BoolVar(&f.json, "json", false, "JSON lines on stdout: accepted, heartbeat, state, progress, result, error and more")
	fs.DurationVar(&f.heartbeat, "heartbeat", time.Second, "how long the pod may be silent, 200ms to 30s")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up after this time; 0 is never")
	fs.Var(&f.generate, "generate", "send a made-up payload of this size instead of a file")
	fs.StringVar(&f.kind, "generate-kind", string(bench.Random), "what --generate makes: random, text, csv or zero")
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
A JSON result is indented on a terminal, else one line exactly as the pod sent
it; an output that the function writes comes as it is. The file of -o is
replaced once the result is there.

A connection that is cut costs nothing but time: the call goes on where it was,
for up to 15 minutes without a sign of the pod. Before the pod has answered at
all, it is tried 5 times.

Without --job-id, Ctrl-C cancels the job. With it the job goes on: the same
command, or client jobs attach, comes back to it, and a second Ctrl-C within 3
seconds cancels it. The pod keeps its result for an hour (--job-ttl of the
server).

` + eventHelp,
		Example: `  client call hello
  client call train -f iris.csv -k target=species --version v1
  client call predict -f rows.csv --version v1 -o species.json
  client call train -f big.csv -k target=y --job-id monday
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
	if spec.kwargs, err = parseKwargs(flags.kwargs, flags.pairs, flags.version, flags.legacy); err != nil {
		return spec, err
	}
	if !flags.legacy {
		spec.version = flags.version
	}
	if flags.jobID != "" {
		if err := checkJobID("--job-id", flags.jobID); err != nil {
			return spec, err
		}
	}
	switch {
	case flags.timeout < 0:
		return spec, usagef("--timeout %v: give a positive duration", flags.timeout)
	case flags.file != "" && flags.generate > 0:
		return spec, usagef("--file and --generate are both given: choose one")
	}
	if err := checkHeartbeat(flags.heartbeat); err != nil {
		return spec, err
	}
	if err := flags.checkCodec(&spec); err != nil {
		return spec, err
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

func checkJobID(what, id string) error {
	if !validJobID.MatchString(id) {
		return usagef("%s %q: give 1 to 64 of A-Z, a-z, 0-9, _ and -", what, id)
	}
	return nil
}

func checkHeartbeat(d time.Duration) error {
	if d < minHeartbeat || d > maxHeartbeat {
		return usagef("--heartbeat %v: give %v to %v", d, minHeartbeat, maxHeartbeat)
	}
	return nil
}

// levels are what --codec may be.
var levels = []client.Level{client.LevelAdaptive, client.LevelRaw, client.LevelFastest, client.LevelDefault, client.LevelBetter}

// checkCodec is for the flags that say how the payload is compressed.
func (f *callFlags) checkCodec(spec *callSpec) error {
	switch {
	case f.codec != "" && f.legacy:
		return usagef("--codec is not for --legacy, which has only one: use --compression")
	case f.compression != "" && !f.legacy:
		return usagef("--compression is only for --legacy: use --codec")
	case f.codec != "" && !slices.Contains(levels, client.Level(f.codec)):
		return usagef("--codec %q: choose adaptive, raw, fastest, default or better", f.codec)
	}
	spec.level = client.Level(f.codec)
	switch f.compression {
	case "":
		f.compression = codec.Gzip
	case "identity":
		f.compression = ""
	case codec.Gzip, codec.Zstd:
	default:
		return usagef("--compression %q: choose identity, gzip or zstd", f.compression)
	}
	return nil
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
	return a.follow(ctx, &following{
		conn: c, dial: &flags.dial, jobID: spec.jobID, out: flags.out, timeout: flags.timeout, again: true,
		showing: showing{fn: fn, size: spec.payload.size, heartbeat: spec.heartbeat, legacy: spec.legacy, json: flags.json},
		run: func(ctx context.Context, out io.Writer, watch func(client.Event)) (*client.Result, error) {
			if spec.legacy {
				result, err := newCaller(c, flags.compression, seedRetry(a.wait)).call(ctx, spec, watch)
				return &client.Result{JSON: result}, err
			}
			return c.run(ctx, spec, out, watch)
		},
	})
}

// run calls a function by JobService.
func (c *conn) run(ctx context.Context, spec callSpec, out io.Writer, watch func(client.Event)) (*client.Result, error) {
	return c.api.Run(ctx, client.Call{
		Func: spec.fn, Version: spec.version, Kwargs: spec.kwargs, Payload: spec.payload.payload, Metadata: metadata(c.header),
		JobID: spec.jobID, Heartbeat: spec.heartbeat, Level: spec.level, Output: out, Watch: watch,
	})
}
