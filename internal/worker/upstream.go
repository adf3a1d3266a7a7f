package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/aipod/aipod/internal/spool"
)

// UpstreamConfig is a model that is an HTTP server. URL is required.
type UpstreamConfig struct {
	// URL is where its functions are: POST URL/FUNCTION.
	URL string
	// Functions are those that it has, default "predict".
	Functions []string
	// Allow are the hosts, besides this machine, that it may be on: "host" or
	// "host:port".
	Allow []string
}

// An Upstream is a model whose functions are those of an HTTP server that runs
// already. The payload is the body of a POST; kwargs that are no lists or objects
// are in the query, and all of them as JSON in the header Aipod-Kwargs. A JSON
// answer up to a MiB is the result, any other the output, which streams.
type Upstream struct {
	cfg       UpstreamConfig
	base      *url.URL
	allowed   bool            // to be on another machine
	transport *http.Transport // which, unlike a client, follows no redirects
}

var _ Model = (*Upstream)(nil)

const (
	// maxUpstreamResult is the largest JSON answer that is a result, in bytes.
	maxUpstreamResult = 1 << 20
	// maxUpstreamError is how much of an error's body is quoted, in bytes.
	maxUpstreamError = 4 << 10
	// maxKwargsHeader is the most kwargs that a header has room for, in bytes.
	maxKwargsHeader = 8 << 10
	dialTimeout     = 10 * time.Second
	// upstreamIdle is how long a connection is kept for the next call. It is shorter
	// than what servers keep, or a call could be sent to one that is just being closed.
	upstreamIdle = time.Second
)

// OpenUpstream makes the model; it connects to nothing yet.
func OpenUpstream(cfg UpstreamConfig) (*Upstream, error) {
	if len(cfg.Functions) == 0 {
		cfg.Functions = []string{"predict"}
	}
	if err := checkFunctions(cfg.Functions); err != nil {
		return nil, err
	}
	base, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("upstream: %w", err)
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("upstream %q: give a URL such as http://127.0.0.1:8000", cfg.URL)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("upstream %q: give a URL without user, query and fragment", base.Redacted())
	}
	m := &Upstream{cfg: cfg, base: base, allowed: allows(cfg.Allow, base)}
	if !m.allowed && !isLoopback(base.Hostname()) {
		return nil, fmt.Errorf("upstream %s is not on this machine: allow it with --upstream-allow %s", base, base.Hostname())
	}
	dialer := &net.Dialer{Timeout: dialTimeout, ControlContext: m.control}
	m.transport = &http.Transport{ // without the environment's proxy, and without limits on time
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &patientConn{Conn: conn, heard: make(chan struct{})}, nil
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     upstreamIdle,
		DisableCompression:  true,
	}
	return m, nil
}

// allows says whether a URL's host is in the list.
func allows(list []string, base *url.URL) bool {
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	for _, host := range []string{base.Hostname(), net.JoinHostPort(base.Hostname(), port)} {
		if slices.ContainsFunc(list, func(entry string) bool { return strings.EqualFold(entry, host) }) {
			return true
		}
	}
	return false
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// An elsewhereError is a name that leads to another machine.
type elsewhereError struct{ host, address string }

func (e *elsewhereError) Error() string {
	return fmt.Sprintf("the upstream %s is %s, which is not on this machine: allow it with --upstream-allow %s", e.host, e.address, e.host)
}

// control refuses to connect a host that isn't allowed to another machine,
// whatever its name has been resolved to.
func (m *Upstream) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	if m.allowed {
		return nil
	}
	if addr, err := netip.ParseAddrPort(address); err != nil || !addr.Addr().IsLoopback() {
		return &elsewhereError{m.base.Hostname(), address}
	}
	return nil
}

// A patientConn tells that it can't be written to only when there is nothing more
// to read: an upstream may answer and hang up before it has read the payload, and
// http.Transport drops what it has not read yet when a write fails.
type patientConn struct {
	net.Conn
	heard chan struct{} // closed when there is nothing more to read
	once  sync.Once
}

func (c *patientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(func() { close(c.heard) })
	}
	return n, err
}

func (c *patientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		<-c.heard
	}
	return n, err
}

func (c *patientConn) Close() error {
	c.once.Do(func() { close(c.heard) })
	return c.Conn.Close()
}

// Describe implements [Model].
func (m *Upstream) Describe() Description {
	d := describeAll(m.base.Host, "", m.cfg.Functions)
	for i, f := range d.Functions {
		d.Functions[i].Doc = "POST " + m.base.JoinPath(f.Name).String()
	}
	return d
}

// Load implements [Model].
func (m *Upstream) Load(_ context.Context, version string) (Instance, error) {
	return upstreamInstance{model: m, version: version}, nil
}

// Close lets go of the connections.
func (m *Upstream) Close() error {
	m.transport.CloseIdleConnections()
	return nil
}

type upstreamInstance struct {
	Lasting
	model   *Upstream
	version string
}

// Close implements [Instance].
func (i upstreamInstance) Close() error { return i.model.Close() }

// Call implements [Instance].
func (i upstreamInstance) Call(ctx context.Context, c *Call) (json.RawMessage, error) {
	sent := &sentPayload{input: c.Input}
	defer sent.open.Wait() // once the answer is read, nothing more is sent
	value, err := i.call(ctx, c, sent)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var crash *CrashError
	if failed := sent.failed(); failed != nil && errors.As(err, &crash) {
		return nil, failed
	}
	return value, err
}

func (i upstreamInstance) call(ctx context.Context, c *Call, sent *sentPayload) (json.RawMessage, error) {
	req, err := i.request(ctx, c, sent)
	if err != nil {
		return nil, err
	}
	res, err := i.model.transport.RoundTrip(req)
	if err != nil {
		return nil, i.model.lost(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return nil, i.model.refused(res, c)
	}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode == http.StatusNoContent {
		return json.RawMessage("null"), nil
	}
	if kind != "application/json" && !strings.HasSuffix(kind, "+json") || res.ContentLength > maxUpstreamResult {
		return nil, i.model.stream(c, res.Body)
	}
	value, err := io.ReadAll(io.LimitReader(res.Body, maxUpstreamResult+1))
	switch {
	case err != nil:
		return nil, i.model.lost(err)
	case len(value) > maxUpstreamResult:
		return nil, i.model.stream(c, io.MultiReader(bytes.NewReader(value), res.Body))
	case !json.Valid(value) || !utf8.Valid(value):
		return nil, &FailedError{Func: c.Func, Reason: fmt.Sprintf("the upstream's answer says that it is %s, but isn't: %.200q", kind, value)}
	}
	return value, nil
}

// A sentPayload is a call's payload while it is sent, which another goroutine
// does.
type sentPayload struct {
	input *spool.Blob
	open  sync.WaitGroup // of readers

	mu  sync.Mutex
	err error // of reading
}

// reader reads the payload from its start.
func (s *sentPayload) reader() (io.ReadCloser, error) {
	r, err := s.input.Open()
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &payloadReader{ReadCloser: r, sent: s}, nil
}

// failed is why the payload could not be read, or nil.
func (s *sentPayload) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

type payloadReader struct {
	io.ReadCloser
	sent *sentPayload
	once sync.Once
}

func (r *payloadReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.sent.mu.Lock()
		r.sent.err = fmt.Errorf("read payload: %w", err)
		r.sent.mu.Unlock()
	}
	return n, err
}

func (r *payloadReader) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(r.sent.open.Done)
	return err
}

// request makes the call's request.
func (i upstreamInstance) request(ctx context.Context, c *Call, sent *sentPayload) (*http.Request, error) {
	var kwargs map[string]json.RawMessage
	if len(c.Kwargs) > 0 {
		if err := json.Unmarshal(c.Kwargs, &kwargs); err != nil {
			return nil, Invalidf("kwargs of %q: %s", c.Func, err)
		}
	}
	header := asciiJSON(c.Kwargs)
	if len(header) > maxKwargsHeader {
		return nil, Invalidf("the kwargs have %d bytes, more than the %d that fit into a header: send them as the payload", len(header), maxKwargsHeader)
	}
	query := url.Values{}
	for key, raw := range kwargs {
		var text string
		switch {
		case raw[0] == '[', raw[0] == '{', string(raw) == "null":
		case json.Unmarshal(raw, &text) == nil:
			query.Set(key, text)
		default:
			query.Set(key, string(raw))
		}
	}
	target := *i.model.base.JoinPath(c.Func)
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for key, value := range c.Metadata {
		switch key {
		case "x-upstream", "x-job-id", "x-heartbeat", "x-func-name": // aipod's own
		default:
			if strings.HasPrefix(key, "x-") && httpguts.ValidHeaderFieldName(key) && httpguts.ValidHeaderFieldValue(value) {
				req.Header.Set(key, value)
			}
		}
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Aipod-Kwargs", cmp.Or(header, "{}"))
	req.Header.Set("Aipod-Job-Id", c.JobID)
	req.Header.Set("Aipod-Attempt", strconv.Itoa(c.Attempt))
	if version := cmp.Or(c.Version, i.version); version != "" {
		if !httpguts.ValidHeaderFieldValue(version) {
			return nil, Invalidf("the version %q can't be put into a header", version)
		}
		req.Header.Set("Aipod-Version", version)
	}
	if c.Input != nil && c.Input.Size() > 0 {
		req.ContentLength = c.Input.Size()
		req.GetBody = sent.reader // for a connection that was closed while idle
		if req.Body, err = sent.reader(); err != nil {
			return nil, err
		}
	}
	return req, nil
}

// asciiJSON writes JSON on one line without what isn't ASCII, as headers need it.
func asciiJSON(raw json.RawMessage) string {
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case r == '\n' || r == '\r' || r == '\t': // only between values
			b.WriteByte(' ')
		case r < utf8.RuneSelf && r != 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

var upstreamBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// stream makes the call's output of an answer, as it comes.
func (m *Upstream) stream(c *Call, body io.Reader) error {
	w, err := c.OpenOutput()
	if err != nil {
		return err
	}
	buf := upstreamBuffers.Get().(*[64 << 10]byte)
	defer upstreamBuffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return m.lost(err)
		}
	}
}

// lost is the error of a request that was cut: the call can be begun again.
func (m *Upstream) lost(err error) error {
	var elsewhere *elsewhereError
	if errors.As(err, &elsewhere) {
		return elsewhere
	}
	return &CrashError{What: "the upstream " + m.base.String(), How: err.Error()}
}

// refused is what an answer means that is no success.
func (m *Upstream) refused(res *http.Response, c *Call) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxUpstreamError)) // what of it has come
	reason := res.Status
	if message := upstreamMessage(text); message != "" {
		reason += ": " + message
	}
	switch code := res.StatusCode; {
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		return &FunctionError{Model: m.base.Host, Func: c.Func}
	case code == http.StatusTooManyRequests, code == http.StatusInsufficientStorage:
		return &ResourceError{Reason: reason}
	case code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return &CrashError{What: "the upstream " + m.base.String(), How: reason}
	case code/100 == 3:
		return &FailedError{Func: c.Func, Reason: fmt.Sprintf("the upstream redirects (%s) to %q, which is not followed: give that as --upstream", res.Status, res.Header.Get("Location"))}
	case code/100 == 4:
		return &InputError{Reason: reason}
	}
	return &FailedError{Func: c.Func, Reason: reason}
}

// upstreamMessage is the text of an error: what frameworks call error, detail or
// message, or all of it.
func upstreamMessage(body []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) == nil {
		for _, key := range []string{"error", "detail", "message"} {
			var text string
			if json.Unmarshal(fields[key], &text) == nil && text != "" {
				return text
			}
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(body), "\uFFFD"))
}
