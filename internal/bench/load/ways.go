package load

import "github.com/aipod/aipod/internal/bench/measure"

// A way is a worker's.
type way struct {
	caller caller
	shard  *measure.Shard
}

// ways are the connections and those who use them.
type ways struct {
	make  func(worker int, shard *measure.Shard) caller
	n     int
	close func()
}

// openWays makes the clients; they connect when they are used.
func openWays(p *plan, addr string) (*ways, error) {
	cfg := &p.cfg
	w := &ways{n: cfg.Conns * cfg.Streams}
	if cfg.Scenario == Cuts {
		var clients []func()
		w.close = func() {
			for _, c := range clients {
				c()
			}
		}
		all := make([]*cutCaller, cfg.Conns)
		for i := range all {
			api, err := newClient(cfg, addr)
			if err != nil {
				return nil, configf("%v", err)
			}
			clients = append(clients, api.Close)
			all[i] = &cutCaller{plan: p, api: api}
		}
		w.make = func(worker int, shard *measure.Shard) caller {
			return &cutCaller{plan: p, api: all[worker%cfg.Conns].api, shard: shard}
		}
		return w, nil
	}
	links := make([]*link, cfg.Conns)
	for i := range links {
		l, err := newLink(cfg)
		if err != nil {
			return nil, err
		}
		links[i] = l
	}
	w.close = func() {
		for _, l := range links {
			l.http.CloseIdleConnections()
		}
	}
	w.make = func(worker int, shard *measure.Shard) caller {
		l := links[worker%cfg.Conns]
		if cfg.Service == AI {
			return newAICaller(p, l, shard)
		}
		return newJobCaller(p, l, shard)
	}
	return w, nil
}
