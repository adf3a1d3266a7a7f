//go:build e2e

package e2e

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A relay passes TCP connections on and counts their bytes.
type relay struct {
	addr  string
	up    atomic.Int64 // bytes to the target
	conns atomic.Int64 // accepted

	mu   sync.Mutex
	open []net.Conn
}

// cut closes all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		_ = c.Close()
	}
}

func startRelay(t *testing.T, target string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	pump := func(dst net.Conn, src io.Reader) {
		_, _ = io.Copy(dst, src)
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.conns.Add(1)
			r.mu.Lock()
			r.open = append(r.open, client, server)
			r.mu.Unlock()
			wg.Go(func() { pump(server, io.TeeReader(client, counter{&r.up})) })
			wg.Go(func() { pump(client, server) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		r.cut()
		wg.Wait()
	})
	return r
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
