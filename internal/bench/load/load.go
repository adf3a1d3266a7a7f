package load

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/codec"
)

// Run makes load as cfg says. The end of ctx ends it early: the Run, which is then
// Interrupted, has what was measured so far. The error says why there was no load,
// and is a *ConfigError if cfg is at fault.
func Run(ctx context.Context, cfg Config) (*measure.Run, error) {
	cfg, err := cfg.Check()
	if err != nil {
		return nil, err
	}
	p := &plan{cfg: cfg, wanted: math.MaxInt64}
	if cfg.shape() == Chaos {
		p.wanted = 0 // the others are too short for heartbeats to mean anything
	}
	if p.payload, err = newPayload(&cfg); err != nil {
		return nil, err
	}
	defer func() { _ = p.payload.close() }()
	if err := p.makeExpectation(); err != nil {
		return nil, err
	}
	if p.kwargs, err = codec.EncodeKwargs(cfg.Kwargs, p.payload.size, cfg.Service == AI && cfg.Level != codec.LevelRaw); err != nil {
		return nil, configf("%v", err)
	}
	if cfg.shape() == Download && cfg.Service == Job {
		remove, err := p.prepare(ctx)
		if err != nil {
			return nil, err
		}
		defer remove()
	}
	addr := cfg.Addr
	if cfg.Scenario == Cuts {
		cutter, through, err := newCutter(cfg.Addr, cfg.CutEvery, cfg.CutBytes, &p.cuts)
		if err != nil {
			return nil, err
		}
		defer cutter.close()
		addr = through
	}
	ways, err := openWays(p, addr)
	if err != nil {
		return nil, err
	}
	defer ways.close()
	if cfg.Warmup > 0 {
		warm := &runner{plan: p, recorder: measure.NewRecorder(cfg.Conns * cfg.Streams), until: cfg.Warmup, warmup: true, rest: sleepRest}
		if cfg.Rate > 0 {
			warm.pacer = &Pacer{Rate: cfg.Rate}
		}
		warm.run(ctx, ways)
	}
	return p.measure(ctx, ways), nil
}

// measure is the part of Run that counts.
func (p *plan) measure(ctx context.Context, w *ways) *measure.Run {
	cfg := &p.cfg
	p.cuts.reset() // of the warm-up
	r := &runner{plan: p, recorder: measure.NewRecorder(cfg.Conns * cfg.Streams), until: cfg.Duration, limit: cfg.Count, rest: sleepRest}
	if cfg.Rate > 0 {
		r.pacer = &Pacer{Rate: cfg.Rate, Ramp: cfg.Ramp}
	}
	if cfg.Scenario == Idle {
		p.wanted = int64(cfg.Conns * cfg.Streams)
		r.limit = p.wanted
	}
	run := &measure.Run{Protocol: string(cfg.Protocol), Repeat: 1, Rate: cfg.Rate, Started: time.Now().UTC()}
	self := measure.Self()
	pid := cfg.PID
	if pid == 0 {
		pid = podPID(cfg.Addr)
	}
	pod := measure.Process(pid)
	took := r.run(ctx, w)
	run.Seconds = took.Seconds()
	run.Self = *self.Usage()
	run.Pod = pod.Usage()
	r.recorder.Fill(run)
	run.Interrupted = ctx.Err() != nil
	if r.pacer != nil {
		planned := r.pacer.Count(r.stopped)
		if r.limit > 0 {
			planned = min(planned, r.limit)
		}
		run.Unsent = max(0, planned-r.started.Load())
	}
	if cfg.Scenario == Cuts {
		run.Cuts = &measure.Cuts{
			Cut: p.cuts.cut.Load(), Lost: p.cuts.lost.Load(), Reconnect: p.cuts.reconnects.Load(),
			Resent: p.cuts.resent.Load(), Wire: p.cuts.wire.Load(),
		}
	}
	run.Warnings = warnings(run)
	return run
}

// The limits beyond which the numbers tell more of this process than of the pod.
const (
	busyShare = 0.8                   // of the processors
	lagLimit  = 10 * time.Millisecond // of the 99th percentile of starts
)

// warnings say why the numbers may not be the pod's.
func warnings(run *measure.Run) []string {
	var all []string
	procs := runtime.GOMAXPROCS(0)
	if share := run.Self.CPU / (run.Seconds * float64(procs)); run.Seconds > 0 && share >= busyShare {
		all = append(all, fmt.Sprintf("the generator is the bottleneck: it took %.0f %% of the %d CPUs that it may use", 100*share, procs))
	} else if run.Pod != nil && run.Seconds > 0 {
		if both := (run.Self.CPU + run.Pod.CPU) / (run.Seconds * float64(runtime.NumCPU())); both >= 0.9 {
			all = append(all, fmt.Sprintf("generator and pod share this machine's %d CPUs and took %.0f %% of them: each slows the other down",
				runtime.NumCPU(), 100*both))
		}
	}
	if lag := run.Lag.Percentile(99); lag > lagLimit {
		all = append(all, fmt.Sprintf("the generator lags: 1 %% of the calls began %v or more late though a stream was free", lag.Round(time.Millisecond)))
	}
	return all
}

// podPID is the process that listens at a URL, if it runs on this machine.
func podPID(addr string) int {
	u, err := url.Parse(addr)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !isOurs(ip) {
		return 0
	}
	return measure.Listener(netip.AddrPortFrom(ip, uint16(port)))
}

// isOurs says whether an address is one of this machine.
func isOurs(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.String() == ip.String() {
			return true
		}
	}
	return false
}
