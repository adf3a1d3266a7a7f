package client

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
)

// links are the ways to the pod of one kind. At any time one of them is in use;
// when it proves bad, new streams get another one, with connections of its own.
type links struct {
	make func() *link

	mu      sync.Mutex
	current *link // nil until needed
	closed  bool
}

// A link is a pool of connections to the pod. net/http would send the next
// request over an HTTP/2 connection that is silently dead; a new link doesn't
// know that connection.
type link struct {
	api  aipodv1connect.JobServiceClient
	http *http.Client
	born time.Time // what conn.heard counts from

	mu      sync.Mutex
	users   int
	retired bool // not for new users
	conns   map[*conn]struct{}
}

// newLinks checks what links are made of.
func newLinks(addr string, protocol transport.Protocol, http1 bool, cfg Config) (*links, error) {
	options, err := transport.ClientOptions(protocol)
	if err != nil {
		return nil, err
	}
	return &links{make: func() *link {
		l := &link{http: cfg.HTTPClient, born: time.Now(), conns: map[*conn]struct{}{}}
		if l.http == nil {
			l.http = l.client(http1, cfg)
		}
		l.api = aipodv1connect.NewJobServiceClient(l.http, addr, options...)
		return l
	}}, nil
}

// client is an HTTP client that knows its connections.
func (l *link) client(http1 bool, cfg Config) *http.Client {
	client := transport.NewHTTPClient(transport.ClientConfig{TLS: cfg.TLS})
	t, ok := client.Transport.(*http.Transport)
	if !ok {
		return client
	}
	if http1 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return l.adopt(nc)
	}
	return client
}

// take returns the current link. Leave it.
func (s *links) take() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.current == nil {
		s.current = s.make()
	}
	s.current.mu.Lock()
	defer s.current.mu.Unlock()
	s.current.users++
	return s.current, nil
}

// retire keeps new users from a link. Those that it has go on.
func (s *links) retire(l *link) {
	s.mu.Lock()
	if s.current == l {
		s.current = nil
	}
	s.mu.Unlock()
	l.mu.Lock()
	l.retired = true
	unused := l.users == 0
	l.mu.Unlock()
	if unused {
		l.closeConns(0)
	}
}

func (s *links) close() {
	s.mu.Lock()
	s.closed = true
	l := s.current
	s.mu.Unlock()
	if l != nil {
		s.retire(l)
	}
}

// leave ends one use.
func (l *link) leave() {
	l.mu.Lock()
	l.users--
	unused := l.retired && l.users == 0
	l.mu.Unlock()
	if unused {
		l.closeConns(0)
	}
}

// closeConns closes the connections that nothing was heard of for that long. Of
// an HTTP client that isn't ours it closes those without requests.
func (l *link) closeConns(silent time.Duration) {
	var dead []*conn
	l.mu.Lock()
	now := time.Since(l.born)
	for c := range l.conns {
		if now-time.Duration(c.heard.Load()) >= silent {
			dead = append(dead, c)
		}
	}
	l.mu.Unlock()
	for _, c := range dead {
		_ = c.Close() // it is given up
	}
	l.http.CloseIdleConnections()
}

// adopt takes charge of a connection.
func (l *link) adopt(nc net.Conn) (net.Conn, error) {
	c := &conn{Conn: nc, link: l}
	c.heard.Store(int64(time.Since(l.born)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired && l.users == 0 {
		_ = nc.Close() // nobody waits for it any more
		return nil, net.ErrClosed
	}
	l.conns[c] = struct{}{}
	return c, nil
}

// A conn is a connection that knows when it last heard of its peer.
type conn struct {
	net.Conn
	link  *link
	heard atomic.Int64 // time.Duration since link.born
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.link.born)))
	}
	return n, err
}

func (c *conn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}
