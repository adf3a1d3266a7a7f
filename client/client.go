// Package client gets jobs done on a pod, whatever happens to the connections in
// between: it goes on with an upload where it was cut, attaches to the job again,
// notices silence, and does without full duplex where a proxy has none.
//
// Run makes a job and follows it to its end; Attach follows one that is there
// already. The rest are thin calls of the pod's JobService.
//
// A Client is safe for concurrent use. What Run starts has ended when it returns,
// with one exception: see [Reader].
package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aipod/aipod/internal/transport"
)

// Config says where the pod is and how to talk to it. Addr is required.
type Config struct {
	// Addr is the pod's URL, like http://127.0.0.1:50051; a plain host:port means
	// http.
	Addr string
	// Protocol is grpc, grpcweb or connect, default grpc.
	Protocol string
	// HTTP1 makes the client speak HTTP/1.1, for proxies that know no HTTP/2. It
	// implies HalfDuplex.
	HTTP1 bool
	// HalfDuplex makes the client send jobs in single requests, for proxies that
	// pass a request on only when it is complete. gRPC-Web implies it. A client
	// that is not told finds out by itself, within some seconds.
	HalfDuplex bool
	// TLS is for https, default the system's roots.
	TLS *tls.Config
	// Header is sent with each request.
	Header http.Header
	// HTTPClient is used instead of an own one. A connection that is dead but not
	// closed is then only left alone, not closed.
	HTTPClient *http.Client
}

// A Client talks to one pod. It is safe for concurrent use.
type Client struct {
	cfg      Config
	addr     string // base URL
	main     *links
	fallback *links // over HTTP/1.1
	pace     pace
}

// pace is how long things take. Tests shorten it.
type pace struct {
	connect   backoff       // until a job is accepted
	reconnect backoff       // afterwards
	silence   time.Duration // the least that counts as silence
	stall     time.Duration // that no more of the input is stored, though it was sent
	takeOver  time.Duration // that no more of the input comes from who superseded us
	unary     time.Duration // for a request, besides its payload
	probe     time.Duration // for a request that shows whether the pod is there
	cleanup   time.Duration // for the removal of a job
}

func defaultPace() pace {
	return pace{
		connect:   backoff{first: time.Second, max: 30 * time.Second},
		reconnect: backoff{first: 80 * time.Millisecond, max: 10 * time.Second},
		silence:   2 * time.Second,
		stall:     time.Minute,
		takeOver:  10 * time.Second,
		unary:     10 * time.Second,
		probe:     5 * time.Second,
		cleanup:   2 * time.Second,
	}
}

// New makes a Client. It does not connect.
func New(cfg Config) (*Client, error) {
	addr, err := baseURL(cfg.Addr)
	if err != nil {
		return nil, err
	}
	protocol := transport.Protocol(cfg.Protocol)
	if protocol == "" {
		protocol = transport.GRPC
	}
	if protocol == transport.GRPCWeb || cfg.HTTP1 {
		cfg.HalfDuplex = true
	}
	cfg.Header = cfg.Header.Clone()
	c := &Client{cfg: cfg, addr: addr, pace: defaultPace()}
	if c.main, err = newLinks(addr, protocol, cfg.HTTP1, cfg); err != nil {
		return nil, err
	}
	// Connect's is the protocol that asks least of a proxy.
	if c.fallback, err = newLinks(addr, transport.Connect, true, cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// Close closes the connections that nobody uses, and the others as soon as that
// is so. Call it last.
func (c *Client) Close() {
	c.main.close()
	c.fallback.close()
}

// baseURL checks an address.
func baseURL(addr string) (string, error) {
	text := addr
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is not the address of a pod: write it like http://127.0.0.1:50051", addr)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

var errClosed = errors.New("the client is closed: make another with New")
