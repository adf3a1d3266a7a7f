package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aipod/aipod/bench/peers/peer"
)

// A sample is one run of one side.
type sample struct {
	Seconds   float64            `json:"seconds"`
	Bytes     int64              `json:"bytes,omitempty"`
	ServerCPU float64            `json:"server_cpu"` // seconds, while the client ran
	ClientCPU float64            `json:"client_cpu"` // seconds, of its whole life
	ServerRSS int64              `json:"server_rss"` // bytes, the most ever
	ClientRSS int64              `json:"client_rss"` // bytes, the most ever
	More      map[string]float64 `json:"more,omitempty"`
}

// measureRow measures all tables of a row.
func (l *lab) measureRow(ctx context.Context, r row, pairs int) (*result, error) {
	res := newResult(r.name)
	for _, t := range r.tables {
		measured := measuredTable{Name: t.name, Sides: map[string][]sample{}}
		rounds := pairs * max(t.times, 1)
		if t.rounds > 0 {
			rounds = min(t.rounds, pairs*t.rounds)
		}
		for round := range rounds {
			for _, s := range t.sides {
				if s.most > 0 && round >= s.most {
					continue
				}
				got, err := l.measure(ctx, s)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", t.name, s.name, err)
				}
				measured.Sides[s.name] = append(measured.Sides[s.name], got)
				fmt.Fprintf(l.log, "%s: %s %d/%d: %s: %s\n", r.name, t.name, round+1, rounds, s.name, brief(t, got))
			}
		}
		res.Tables = append(res.Tables, measured)
	}
	res.finish()
	return res, nil
}

// brief shows a sample while measuring.
func brief(t table, s sample) string {
	var parts []string
	for _, m := range t.metrics {
		parts = append(parts, fmt.Sprintf("%s %s", m.name, m.format(m.of(s))))
	}
	return strings.Join(parts, ", ")
}

// measure runs a side once: a new server, what has to be there beforehand, and a
// new client.
func (l *lab) measure(ctx context.Context, s side) (sample, error) {
	dir, err := os.MkdirTemp(l.dir, "run-")
	if err != nil {
		return sample{}, err
	}
	// A limit for what hangs: the longest run takes two minutes.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	got, err := l.measureIn(ctx, s, dir)
	return got, errors.Join(err, os.RemoveAll(dir))
}

func (l *lab) measureIn(ctx context.Context, s side, dir string) (sample, error) {
	began := time.Now()
	server, err := start(ctx, l.serverArgs(s, dir))
	if err != nil {
		return sample{}, err
	}
	defer server.kill()
	addr, err := server.address()
	if err != nil {
		return sample{}, err
	}
	if s.client == nil {
		return l.serving(ctx, addr, began, server)
	}
	if s.setup != nil {
		if _, err := l.client(ctx, s.setup, s, addr, server, new(sample)); err != nil {
			return sample{}, fmt.Errorf("before: %w", err)
		}
	}
	if s.delay > 0 {
		relay, err := start(ctx, []string{filepath.Join(l.bin, "relay"), "serve", "-addr", addr, "-delay", s.delay.String()})
		if err != nil {
			return sample{}, err
		}
		defer relay.kill()
		if addr, err = relay.address(); err != nil {
			return sample{}, err
		}
	}
	var got sample
	r, err := l.client(ctx, s.client, s, addr, server, &got)
	if err != nil {
		return sample{}, err
	}
	got.Seconds, got.Bytes, got.More = r.Seconds, r.Bytes, r.More
	if cpu, ok := r.More["server_cpu"]; ok { // the client has measured it more exactly
		got.ServerCPU = cpu
		delete(r.More, "server_cpu")
	}
	return got, nil
}

// client runs a client to its end, and notes what it and the server have used.
func (l *lab) client(ctx context.Context, args []string, s side, addr string, server *process, got *sample) (peer.Result, error) {
	args, err := l.clientArgs(args, s, addr, server.cmd.Process.Pid)
	if err != nil {
		return peer.Result{}, err
	}
	before, err := peer.CPU(server.cmd.Process.Pid)
	if err != nil {
		return peer.Result{}, err
	}
	c, err := start(ctx, args)
	if err != nil {
		return peer.Result{}, err
	}
	r, err := c.result()
	if err != nil {
		return r, errors.Join(err, errors.New("server: "+server.stderr.String()))
	}
	after, err1 := peer.CPU(server.cmd.Process.Pid)
	cpu, err2 := peer.CPU(c.cmd.Process.Pid)
	_, clientRSS, err3 := peer.Memory(c.cmd.Process.Pid)
	_, serverRSS, err4 := peer.Memory(server.cmd.Process.Pid)
	got.ServerCPU, got.ClientCPU, got.ServerRSS, got.ClientRSS = (after - before).Seconds(), cpu.Seconds(), serverRSS, clientRSS
	return r, errors.Join(err1, err2, err3, err4, c.finish())
}

// serving measures the start of a server: until it answers that it is healthy.
func (l *lab) serving(ctx context.Context, addr string, began time.Time, server *process) (sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", strings.NewReader("{}"))
	if err != nil {
		return sample{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return sample{}, err
	}
	defer res.Body.Close()
	took := time.Since(began)
	if res.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("health says %s", res.Status)
	}
	cpu, err := peer.CPU(server.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	_, rss, err := peer.Memory(server.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	info, err := os.Stat(server.cmd.Path)
	if err != nil {
		return sample{}, err
	}
	return sample{Seconds: took.Seconds(), ServerCPU: cpu.Seconds(), ServerRSS: rss, More: map[string]float64{"binary_mb": float64(info.Size()) / 1e6}}, nil
}

// serverArgs are the command line of a side's server.
func (l *lab) serverArgs(s side, dir string) []string {
	var args []string
	switch s.server[0] {
	case "server":
		args = []string{filepath.Join(l.bin, "server"), "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--log-format", "json"}
	case "seed/server.py":
		args = []string{python, s.server[0], "--stubs", l.stubs, "--dir", dir}
	default:
		args = []string{filepath.Join(l.bin, s.server[0]), "serve", "-dir", dir}
	}
	return append(args, s.server[1:]...)
}

// clientArgs are the command line of a client.
func (l *lab) clientArgs(client []string, s side, addr string, pid int) ([]string, error) {
	var args []string
	if strings.HasSuffix(client[0], ".py") {
		args = []string{python, client[0], "--addr", addr, "--stubs", l.stubs}
	} else {
		args = []string{filepath.Join(l.bin, client[0]), client[1], "-addr", addr, "-pid", fmt.Sprint(pid)}
		client = client[1:]
	}
	args = append(args, client[1:]...)
	for i, arg := range args {
		if arg == payloadArg {
			path, err := l.payload(s.payload)
			if err != nil {
				return nil, err
			}
			args[i] = path
		}
	}
	return args, nil
}
