package load

import (
	"context"

	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/transport"
)

// A Series is several runs that are to be compared.
type Series struct {
	Config
	// Protocols and Rates are tried one after the other, default those of Config.
	Protocols []transport.Protocol
	Rates     []float64
	// Repeat is how often all of it is done, default once: the runs that are to be
	// compared come in turns, so that what changes meanwhile hits all of them.
	Repeat int
	// Begin and End are told of each run; nil is nobody.
	Begin func(protocol transport.Protocol, rate float64, repeat int)
	End   func(*measure.Run)
}

// Run makes the runs. The Report has those that were made even if there is an
// error. An end of ctx is none.
func (s Series) Run(ctx context.Context) (*measure.Report, error) {
	cfg, err := s.Check()
	if err != nil {
		return nil, err
	}
	if len(s.Protocols) == 0 {
		s.Protocols = []transport.Protocol{cfg.Protocol}
	}
	if len(s.Rates) == 0 {
		s.Rates = []float64{cfg.Rate}
	}
	report := &measure.Report{Format: measure.Format, Config: s.describe(cfg), Machine: measure.ThisMachine()}
	for repeat := range max(1, s.Repeat) {
		for _, rate := range s.Rates {
			for _, protocol := range s.Protocols {
				one := s.Config
				one.Protocol, one.Rate = protocol, rate
				if s.Begin != nil {
					s.Begin(protocol, rate, repeat+1)
				}
				run, err := Run(ctx, one)
				if err != nil {
					return report, err
				}
				run.Repeat = repeat + 1
				report.Runs = append(report.Runs, run)
				if s.End != nil {
					s.End(run)
				}
				if run.Interrupted {
					return report, nil
				}
			}
		}
	}
	return report, nil
}

// describe is what a report says of a Config that was checked.
func (s Series) describe(cfg Config) map[string]any {
	m := map[string]any{
		"scenario": string(cfg.Scenario), "addr": cfg.Addr, "service": string(cfg.Service), "func": cfg.Func,
		"kwargs": string(cfg.Kwargs), "kind": string(cfg.Kind), "size": cfg.Size, "chunk": cfg.Chunk, "codec": cfg.Level.String(),
		"conns": cfg.Conns, "streams": cfg.Streams, "heartbeat": cfg.Heartbeat.Seconds(), "repeat": max(1, s.Repeat),
	}
	optional := func(name string, value any, given bool) {
		if given {
			m[name] = value
		}
	}
	optional("of", string(cfg.Of), cfg.Scenario == Cuts)
	optional("duration", cfg.Duration.Seconds(), cfg.Duration > 0)
	optional("calls", cfg.Count, cfg.Count > 0)
	optional("warmup", cfg.Warmup.Seconds(), cfg.Warmup > 0)
	optional("ramp", cfg.Ramp.Seconds(), cfg.Ramp > 0)
	optional("timeout", cfg.Timeout.Seconds(), cfg.Timeout > 0)
	optional("hold", cfg.Hold.Seconds(), cfg.shape() == Chaos)
	optional("cut_every", cfg.CutEvery.Seconds(), cfg.CutEvery > 0)
	optional("cut_bytes", cfg.CutBytes, cfg.CutBytes > 0)
	optional("version", cfg.Version, cfg.Version != "")
	optional("file", cfg.File, cfg.File != "")
	return m
}
