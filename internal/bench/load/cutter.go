package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A cutter is a TCP proxy that cuts each connection, without a goodbye, after a
// time or a number of bytes.
type cutter struct {
	target string // host:port
	every  time.Duration
	bytes  int64
	counts *cutCounts

	listener net.Listener
	wg       sync.WaitGroup
	ctx      context.Context //nolint:containedctx // ends what the cutter has started
	cancel   context.CancelFunc
}

// cutCounts count what the cutter and the clients behind it do.
type cutCounts struct {
	cut, wire                atomic.Int64
	lost, reconnects, resent atomic.Int64
}

// reset forgets what was counted.
func (c *cutCounts) reset() {
	for _, n := range []*atomic.Int64{&c.cut, &c.wire, &c.lost, &c.reconnects, &c.resent} {
		n.Store(0)
	}
}

// newCutter starts a cutter in front of a URL and returns the URL to use instead.
func newCutter(addr string, every time.Duration, bytes int64, counts *cutCounts) (*cutter, string, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return nil, "", fmt.Errorf("start cutter: %w", err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("start cutter: %w", err)
	}
	c := &cutter{target: net.JoinHostPort(u.Hostname(), port), every: every, bytes: bytes, counts: counts, listener: listener}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	u.Host = listener.Addr().String()
	c.wg.Go(c.accept)
	return c, u.String(), nil
}

// close ends all connections and waits for what the cutter has started.
func (c *cutter) close() {
	c.cancel()
	_ = c.listener.Close()
	c.wg.Wait()
}

func (c *cutter) accept() {
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // too many open files, for instance
			continue
		}
		c.wg.Go(func() { c.serve(conn.(*net.TCPConn)) })
	}
}

// serve passes on bytes both ways until the cut.
func (c *cutter) serve(down *net.TCPConn) {
	defer func() { _ = down.Close() }() // nothing is kept back that could be lost
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(c.ctx, "tcp", c.target)
	if err != nil {
		return // to the client, a cut
	}
	up := conn.(*net.TCPConn)
	defer func() { _ = up.Close() }()
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	if c.every > 0 {
		timer := time.AfterFunc(c.every, func() { cancel(errTimeToCut) })
		defer timer.Stop()
	}
	// A reset instead of an orderly end, and for those who wait in Read.
	defer context.AfterFunc(ctx, func() {
		for _, side := range []*net.TCPConn{down, up} {
			_ = side.SetLinger(0)
			_ = side.Close()
		}
	})()
	var left atomic.Int64
	left.Store(c.bytes)
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{up, down}, {down, up}} {
		wg.Go(func() {
			err := c.copy(way[0], way[1], &left)
			if errors.Is(err, errTimeToCut) {
				cancel(err)
				return
			}
			_ = way[0].CloseWrite()
		})
	}
	wg.Wait()
	if errors.Is(context.Cause(ctx), errTimeToCut) {
		c.counts.cut.Add(1)
	}
}

// errTimeToCut says that a connection has reached its age or its bytes.
var errTimeToCut = errors.New("time to cut")

// copy passes bytes on, as many as may be.
func (c *cutter) copy(dst, src *net.TCPConn, left *atomic.Int64) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		over := false
		if c.bytes > 0 {
			rest := left.Add(-int64(n))
			if over = rest <= 0; over {
				n = max(0, n+int(rest))
			}
		}
		c.counts.wire.Add(int64(n))
		if _, werr := dst.Write(buf[:n]); werr != nil && err == nil {
			err = werr
		}
		switch {
		case over:
			return errTimeToCut
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
