package main

import (
	"crypto/tls"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/bench/load"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/flagenv"
	"github.com/aipod/aipod/internal/transport"
)

// benchFlags are the flags of a scenario.
type benchFlags struct {
	scenario  load.Scenario
	dial      dialFlags
	protocols string
	service   string
	fn        string
	pairs     []string
	kwargs    string
	version   string

	conns, streams       int
	rate                 float64
	ramp, duration       time.Duration
	warmup, timeout      time.Duration
	steps                string
	calls                int64
	repeat               int
	kind, file, codec    string
	size                 *optionalSize
	chunk                flagenv.Size
	hold, heartbeat      time.Duration
	of                   string
	cutEvery             time.Duration
	cutBytes             flagenv.Size
	pid                  int
	json                 bool
	output, html, assert string
}

// has says whether the scenario is one of those.
func (f *benchFlags) has(scenarios ...load.Scenario) bool {
	return slices.Contains(scenarios, f.scenario)
}

func (f *benchFlags) register(fs *pflag.FlagSet) {
	f.size = &optionalSize{}
	fs.IntVar(&f.conns, "conns", 1, "connections")
	fs.IntVar(&f.streams, "streams", 1, "calls that each connection has at a time")
	fs.DurationVarP(&f.duration, "duration", "d", 10*time.Second, "how long, for each run")
	if f.scenario != load.Idle {
		fs.Int64VarP(&f.calls, "calls", "n", 0, "end after so many calls; then -d only counts if it is given")
		fs.Float64Var(&f.rate, "rps", 0, "begin so many calls a second, whatever became of those before; 0 is as fast as they go")
		fs.DurationVar(&f.ramp, "ramp", 0, "get to --rps from 0 in this time")
		fs.StringVar(&f.steps, "step", "", "instead of --rps a `list` of them, each a run, such as 100,200,400")
		fs.DurationVar(&f.warmup, "warmup", 0, "the same load for this time before anything is measured")
		fs.StringVar(&f.kind, "kind", "", "payload: zero, random, json, csv, text or file")
		fs.StringVarP(&f.file, "file", "f", "", "the payload of --kind file")
		fs.Var(f.size, "size", "of the payload")
		fs.Var(&f.chunk, "chunk", "how much of it goes into a message, up to 4MiB")
		fs.StringVar(&f.codec, "codec", "raw", "how hard the payload is compressed: raw, fastest, default, better or adaptive")
	}
	if f.has(load.Chaos, load.Cuts) {
		fs.DurationVar(&f.hold, "hold", time.Second, "how long the function takes")
	}
	if f.has(load.Cuts) {
		fs.StringVar(&f.of, "of", string(load.Upload), "what is cut: upload, download or chaos")
		fs.DurationVar(&f.cutEvery, "cut-every", 0, "cut each connection at this age")
		fs.Var(&f.cutBytes, "cut-bytes", "cut each connection after so many bytes, both ways together")
	} else {
		fs.StringVar(&f.service, "service", string(load.Job), "job (aipod.v1.JobService) or ai (ai.AI)")
	}
	fs.DurationVar(&f.heartbeat, "heartbeat", time.Second, "how long the pod may be silent, 200ms to 30s")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up a call after this time; 0 is never")
	fs.StringVar(&f.fn, "func", "", "call this `function` instead, whose result isn't checked")
	fs.StringArrayVarP(&f.pairs, "kwarg", "k", nil, "add a kwarg `key=value`; the value is JSON if it reads as JSON, else a string")
	fs.StringVar(&f.kwargs, "kwargs", "", "the kwargs, a `JSON` object; -k adds to it")
	fs.StringVar(&f.version, "version", "", "`version` of the model")
	fs.IntVar(&f.repeat, "repeat", 1, "make all runs so often, in turns")
	fs.StringVar(&f.assert, "assert", "", "exit 1 unless it `holds` in each run, such as p99<10ms,errors==0,up>100")
	fs.BoolVar(&f.json, "json", false, "print the report as one line of JSON, with all histograms")
	fs.StringVarP(&f.output, "output", "o", "", "write the JSON to this `file`, too")
	fs.StringVar(&f.html, "html", "", "write a page with plots to this `file`")
	fs.IntVar(&f.pid, "pid", 0, "the pod's process, to measure it; 0 looks for it on this machine")
	f.dial.registerHeader(fs)
	dial := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.dial.register(dial)
	dial.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "protocol" {
			fs.AddFlag(flag)
		}
	})
	fs.StringVar(&f.protocols, "protocol", string(transport.GRPC), "RPC protocol: grpc, grpcweb or connect; several are tried in turns: grpc,connect")
	f.duration = 10 * time.Second
}

// optionalSize is a size that may be left to the scenario.
type optionalSize struct {
	flagenv.Size
	given bool
}

// Set is for pflag.Value.
func (s *optionalSize) Set(text string) error {
	s.given = true
	return s.Size.Set(text)
}

// String is for pflag.Value.
func (s *optionalSize) String() string {
	if s == nil || !s.given {
		return ""
	}
	return s.Size.String()
}

// bytes are what load.Config wants.
func (s *optionalSize) bytes() int64 {
	if s.given && s.Size == 0 {
		return -1
	}
	return int64(s.Size)
}

// series checks the flags.
func (f *benchFlags) series() (load.Series, error) {
	s := load.Series{Repeat: f.repeat, Config: load.Config{
		Scenario: f.scenario, Of: load.Scenario(f.of), Service: load.Service(f.service), Func: f.fn, Version: f.version,
		Kind: bench.Kind(f.kind), File: f.file, Size: f.size.bytes(), Chunk: int(f.chunk), Hold: f.hold, Heartbeat: f.heartbeat,
		Conns: f.conns, Streams: f.streams, Rate: f.rate, Ramp: f.ramp, Count: f.calls, Duration: f.duration,
		Warmup: f.warmup, Timeout: f.timeout, CutEvery: f.cutEvery, CutBytes: int64(f.cutBytes), PID: f.pid,
	}}
	if f.codec == "" {
		f.codec = codec.LevelRaw.String()
	}
	var err error
	if s.Level, err = codec.ParseLevel(f.codec); err != nil {
		return s, usagef("--codec: %v", err)
	}
	for name, n := range map[string]int{"conns": f.conns, "streams": f.streams, "repeat": f.repeat} {
		if n < 1 {
			return s, usagef("--%s %d: give 1 or more", name, n)
		}
	}
	if f.file != "" && f.kind == "" {
		s.Kind = load.File
	}
	if f.kwargs != "" || len(f.pairs) > 0 {
		if s.Kwargs, err = parseKwargs(f.kwargs, f.pairs, "", false); err != nil {
			return s, err
		}
	}
	for _, name := range strings.Split(f.protocols, ",") {
		if !slices.Contains(transport.Protocols, transport.Protocol(name)) {
			return s, usagef("unknown protocol %q: choose grpc, grpcweb or connect", name)
		}
		s.Protocols = append(s.Protocols, transport.Protocol(name))
	}
	s.Protocol = s.Protocols[0]
	if f.steps != "" {
		if f.rate > 0 {
			return s, usagef("--rps and --step are both given: choose one")
		}
		for _, text := range strings.Split(f.steps, ",") {
			rate, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil || rate <= 0 {
				return s, usagef("--step %q: give rates like 100,200,400", f.steps)
			}
			s.Rates = append(s.Rates, rate)
		}
		s.Rate = s.Rates[0]
	}
	return s, nil
}

// tls is what the flags say of certificates.
func (c *conn) tls() *tls.Config {
	if t, ok := c.http.Transport.(*http.Transport); ok {
		return t.TLSClientConfig
	}
	return nil
}
