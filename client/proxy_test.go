package client

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A fate is what becomes of a connection through a testProxy.
type fate struct {
	bytes  int64         // in both directions together, until it strikes; 0 is never
	within time.Duration // until it strikes; 0 is never
	silent bool          // the connection stays open, but nothing passes any more
	up     bool          // silent only towards the pod
}

// A testProxy passes on connections to a pod, and cuts them.
type testProxy struct {
	addr  string
	count atomic.Int64 // connections
	up    atomic.Int64 // bytes towards the pod

	mu     sync.Mutex
	target string
	fate   func(n int) fate // of the nth connection, from 1
	conns  map[net.Conn]struct{}
}

func startProxy(t *testing.T, target string, f func(n int) fate) *testProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &testProxy{addr: ln.Addr().String(), target: target, fate: f, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close() // it ends the goroutine
		p.cut()
		wg.Wait()
	})
	return p
}

// cut closes all connections.
func (p *testProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close() // that is what it is for
	}
}

func (p *testProxy) serve(client net.Conn) {
	p.mu.Lock()
	f := p.fate(int(p.count.Add(1)))
	target := p.target
	p.mu.Unlock()
	pod, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.Close() // as a proxy does
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[pod] = struct{}{}, struct{}{}
	p.mu.Unlock()
	closed := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(closed)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, client)
		delete(p.conns, pod)
		// A cut has no goodbye.
		for _, c := range []net.Conn{client, pod} {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // best effort
			}
			_ = c.Close() // that is what it is for
		}
	})
	defer end()
	var struck atomic.Bool
	strike := func() {
		struck.Store(true)
		if !f.silent {
			end()
		}
	}
	if f.within > 0 {
		defer time.AfterFunc(f.within, strike).Stop()
	}
	var total atomic.Int64
	pass := func(to, from net.Conn, up bool) error {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if f.bytes > 0 && !struck.Load() {
				if over := total.Add(int64(n)) - f.bytes; over >= 0 {
					n -= int(min(over, int64(n)))
					if n > 0 {
						_, _ = to.Write(buf[:n]) // the last bytes before the cut
					}
					strike()
					continue
				}
			}
			if struck.Load() && (up || !f.up) {
				if err != nil {
					return err
				}
				continue // swallowed
			}
			if up {
				p.up.Add(int64(n))
			}
			if n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					return werr
				}
			}
			if err != nil {
				return err
			}
		}
	}
	done := make(chan error, 2)
	go func() { done <- pass(pod, client, true) }()
	go func() { done <- pass(client, pod, false) }()
	_ = <-done // cut
	end()
	_ = <-done // the same
}

// never lets connections live.
func never(int) fate { return fate{} }
