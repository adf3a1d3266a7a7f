// Package doctor finds out what stands between this machine and a pod, by trying:
// which protocols pass, when silent or long streams are cut, how large requests
// may be, what is buffered on the way, and what the first HTTP/2 hop says of
// itself. Each finding says what it costs and which line of nginx, HAProxy or
// Envoy mends it.
//
// It is for people who set up proxies, not for monitoring: it keeps some streams
// open for a minute, sends some 100 MiB, and takes what it measures from one or
// two trials. It never runs a function, and leaves no job behind.
//
// Run may be called from several goroutines. All that it starts has ended when it
// returns.
package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// Config says where the pod is and how long to try. URL is required.
type Config struct {
	// URL is http:// or https://, with a path if the pod is below one.
	URL string
	// Header is sent with each request.
	Header http.Header
	// TLS is for https, default the system's roots.
	TLS *tls.Config
	// Silence is the longest idle timeout that is looked for, 1s to 30s, default
	// 30s: no caller of a pod can ask for heartbeats that are rarer.
	Silence time.Duration
	// Max is how long streams are held to find a limit of their total time,
	// default 1m.
	Max time.Duration
	// Upload is how many bytes are streamed to find a limit of uploads, default
	// 64 MiB; less if that takes longer than 8 s.
	Upload int64
	// Progress, if not nil, gets the names of the probes that run whenever they
	// change. It is not called from two goroutines at a time.
	Progress func(running []string)

	// patience is how long nothing may come before it is taken for held back,
	// besides some round trips; default 2.5s. Tests shorten it.
	patience time.Duration
	// requests is how many calls one connection gets, default floodRequests. Tests
	// make less of it where it doesn't matter.
	requests int
}

// MaxSilence is the most that Config.Silence can be: the rarest heartbeat of a
// pod.
const MaxSilence = 30 * time.Second

// A NoPodError says that something listens, but no pod answers through it.
type NoPodError struct {
	// Why is what came instead, by HTTP version.
	Why map[string]error
}

func (e *NoPodError) Error() string {
	return fmt.Sprintf("no pod answers: over HTTP/2: %s; over HTTP/1.1: %s", why(e.Why[overHTTP2]), why(e.Why[overHTTP1]))
}

// Run probes the way to a pod and returns what it found, in the order of a report.
// The error is that of ctx, a *NoPodError, or that of the connection.
func Run(ctx context.Context, cfg Config) ([]Finding, error) {
	cfg.Silence = cmp.Or(cfg.Silence, MaxSilence)
	cfg.Max = cmp.Or(cfg.Max, time.Minute)
	cfg.Upload = cmp.Or(cfg.Upload, 64<<20)
	cfg.requests = cmp.Or(cfg.requests, floodRequests)
	cfg.patience = cmp.Or(cfg.patience, 2500*time.Millisecond)
	if cfg.TLS == nil {
		cfg.TLS = new(tls.Config)
	}
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the pod's URL: %w", err)
	case u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, fmt.Errorf("%q is not a URL of http or https", cfg.URL)
	case cfg.Silence < time.Second || cfg.Silence > MaxSilence:
		return nil, fmt.Errorf("silence is %v: give 1s to %v", cfg.Silence, MaxSilence)
	case cfg.Max < time.Second:
		return nil, fmt.Errorf("max is %v: give 1s or more", cfg.Max)
	}
	d := &doctor{cfg: &cfg, url: u, found: new(findings)}
	if err := d.run(ctx); err != nil {
		// What a canceled probe says of itself is of no use.
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return d.found.sorted(), context.Cause(ctx)
}

// A doctor is one run.
type doctor struct {
	cfg   *Config
	url   *url.URL
	found *findings
	addr  string        // that the URL's host has; set once, by reach
	tcp   time.Duration // the least that a connection took; set once, by probeRTT

	mu      sync.Mutex
	running []string // probes, guarded by mu
}

// during tells that a probe runs, and returns what to call at its end.
func (d *doctor) during(probe string) (done func()) {
	change := func(edit func()) {
		d.mu.Lock()
		defer d.mu.Unlock()
		edit()
		if d.cfg.Progress != nil {
			d.cfg.Progress(slices.Clone(d.running))
		}
	}
	change(func() { d.running = append(d.running, probe) })
	return func() {
		change(func() {
			i := slices.Index(d.running, probe)
			d.running = slices.Delete(d.running, i, i+1)
		})
	}
}

func (d *doctor) run(ctx context.Context) error {
	proxied, err := d.reach(ctx)
	if err != nil {
		return err
	}
	ways, err := d.probeProtocols(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, w := range ways {
		// These wait nearly all the time and disturb no one.
		wg.Go(func() { d.probeStreams(ctx, w) })
	}
	// The others measure times or fill the link, so they take turns.
	rtt := d.probeRTT(ctx, ways, proxied)
	if !proxied && slices.ContainsFunc(ways, func(w *way) bool { return w.over == overHTTP2 }) {
		rtt = d.probeHop(ctx, ways, rtt)
	}
	var buffering sync.WaitGroup
	for _, w := range ways {
		buffering.Go(func() { d.probeBuffering(ctx, w, rtt) })
	}
	buffering.Wait()
	for _, w := range ways {
		d.probeSizes(ctx, w)
	}
	return nil
}

// reach connects once, to have the plain error if nobody is there. proxied says
// that the environment names a proxy for the URL; nothing is then tried without
// HTTP.
func (d *doctor) reach(ctx context.Context) (proxied bool, err error) {
	defer d.during("connection")()
	if p, err := http.ProxyFromEnvironment(&http.Request{URL: d.url}); err == nil && p != nil {
		d.found.add(Finding{
			Level: OK, Kind: Unprobed,
			Text: "HTTP_PROXY or HTTPS_PROXY is set: " + p.Redacted() + " is the first hop; its TCP and HTTP/2 are not looked at",
		}, "")
		return true, nil
	}
	conn, err := d.dial(ctx, "")
	if err != nil {
		return false, err
	}
	// From now on without the time of DNS, and always to the same machine.
	d.addr = conn.RemoteAddr().String()
	return false, ignoreClosed(conn.Close())
}

// errNoALPN is a TLS server that has chosen no protocol, or another one.
var errNoALPN = errors.New("the server's TLS doesn't offer h2 (ALPN)")

// dial opens a connection for which alpn, if not empty, is negotiated over TLS.
func (d *doctor) dial(ctx context.Context, alpn string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, unaryLimit)
	defer cancel()
	conn, err := d.dialTCP(ctx)
	if err != nil || d.url.Scheme != "https" {
		return conn, err
	}
	config := d.cfg.TLS.Clone()
	config.ServerName = cmp.Or(config.ServerName, d.url.Hostname())
	config.NextProtos = nil
	if alpn != "" {
		config.NextProtos = []string{alpn}
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	if alpn != "" && secure.ConnectionState().NegotiatedProtocol != alpn {
		return nil, errors.Join(errNoALPN, ignoreClosed(secure.Close()))
	}
	return secure, nil
}

// dialTCP opens a connection and sends nothing.
func (d *doctor) dialTCP(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, unaryLimit)
	defer cancel()
	addr := d.addr
	switch {
	case addr != "":
	case d.url.Port() != "":
		addr = d.url.Host
	default:
		addr = net.JoinHostPort(d.url.Hostname(), map[string]string{"http": "80", "https": "443"}[d.url.Scheme])
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// ignoreClosed drops the error of closing what a peer may have closed.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
