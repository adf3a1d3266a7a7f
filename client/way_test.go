package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/transport"
)

// startHTTPProxy starts a proxy that speaks HTTP/1.1, and HTTP/2 if it is told to.
func startHTTPProxy(t *testing.T, http2 bool, handler http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(http2)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close() // it ends the goroutine
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func reverseProxy(t *testing.T, pod *testPod, http1 bool) *httputil.ReverseProxy {
	t.Helper()
	target, err := url.Parse("http://" + pod.addr)
	if err != nil {
		t.Fatal(err)
	}
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: http1})
	t.Cleanup(client.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     client.Transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, 0),
	}
}

// bufferRequests passes a request on when it is complete.
func bufferRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller has gone
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		next.ServeHTTP(w, r)
	})
}

// bufferAnswers passes an answer on when it is complete.
func bufferAnswers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &buffered{ResponseWriter: w}
		next.ServeHTTP(b, r)
		_, _ = w.Write(b.body.Bytes()) // the caller may have gone
	})
}

type buffered struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }

// Whatever a proxy does to streams, the job gets done.
func TestRunThroughProxies(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	pod.model.patient.Store(true)
	payload := noise(9 << 20) // more than may be on the way at first
	for name, test := range map[string]struct {
		proxy   func(t *testing.T) string
		half    int // HalfDuplex events
		polling bool
	}{
		"transparent": {proxy: func(t *testing.T) string {
			return startHTTPProxy(t, true, reverseProxy(t, pod, false))
		}},
		"buffers requests": {half: 1, proxy: func(t *testing.T) string {
			return startHTTPProxy(t, true, bufferRequests(reverseProxy(t, pod, false)))
		}},
		"buffers requests and answers": {half: 2, polling: true, proxy: func(t *testing.T) string {
			return startHTTPProxy(t, true, bufferRequests(bufferAnswers(reverseProxy(t, pod, false))))
		}},
		"HTTP/1.1 only": {half: 1, proxy: func(t *testing.T) string {
			return startHTTPProxy(t, false, reverseProxy(t, pod, true))
		}},
		"HTTP/1.1 only, buffers all": {half: 2, polling: true, proxy: func(t *testing.T) string {
			return startHTTPProxy(t, false, bufferRequests(bufferAnswers(reverseProxy(t, pod, true))))
		}},
		"refuses streams": {half: 1, proxy: func(t *testing.T) string {
			next := reverseProxy(t, pod, false)
			return startHTTPProxy(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength < 0 {
					http.Error(w, "no streams, please", http.StatusLengthRequired)
					return
				}
				next.ServeHTTP(w, r)
			}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := soonSilent(t, test.proxy(t), Config{})
			kwargs := `{"Wait": 250}`
			if test.polling { // it goes on when the client has found out, however slow that is
				kwargs = fmt.Sprintf(`{"Gate": %q}`, name)
			}
			for _, ephemeral := range []bool{true, false} {
				if !ephemeral && test.half > 0 {
					continue // it is found out in the same way
				}
				e := newEvents()
				watch := func(event Event) {
					e.watch(event)
					if half, ok := event.(HalfDuplex); ok && half.Polling {
						close(pod.model.gate(name))
					}
				}
				r, err := c.Run(ctx, Call{
					Func: "trickle", Kwargs: json.RawMessage(kwargs), Payload: Bytes(payload), Level: LevelRaw, Ephemeral: ephemeral, Heartbeat: minHeartbeat, Watch: watch,
				})
				if err != nil {
					t.Fatalf("%v%v", err, e)
				}
				if !bytes.Equal(r.Output, payload) {
					t.Errorf("%d bytes of output, want %d, or others", len(r.Output), len(payload))
				}
				half := all[HalfDuplex](e)
				if len(half) != test.half || test.half > 0 && half[len(half)-1].Polling != test.polling {
					t.Errorf("not the way that was expected:%v", e)
				}
			}
		})
	}
}

// What is no pod is not asked for long.
func TestRunNoPod(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	web := startHTTPProxy(t, true, http.NotFoundHandler())
	for name, addr := range map[string]string{
		"a web server":         web,
		"a pod without TLS":    "https://" + pod.addr,
		"nobody":               "127.0.0.1:1",
		"a host without a pod": "no-such-host.invalid",
	} {
		c := newClient(t, addr, Config{})
		start := time.Now()
		_, err := c.Run(t.Context(), Call{Func: "hello"})
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || time.Since(start) > 3*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
		t.Logf("%s: %v", name, err)
		if _, err := c.Functions(t.Context()); !errors.As(err, &unreachable) {
			t.Errorf("%s, functions: %v", name, err)
		}
	}
}

// A caller's own HTTP client is used, and not closed.
func TestRunWithHTTPClient(t *testing.T) {
	pod := startPod(t)
	proxy := startProxy(t, pod.addr, func(n int) fate {
		if n == 1 {
			return fate{bytes: 100 << 10, silent: true}
		}
		return fate{}
	})
	client := transport.NewHTTPClient(transport.ClientConfig{PingInterval: 100 * time.Millisecond, PingTimeout: 500 * time.Millisecond})
	defer client.CloseIdleConnections()
	c := soonSilent(t, proxy.addr, Config{HTTPClient: client})
	e := newEvents()
	payload := noise(1 << 20)
	r, err := c.Run(t.Context(), Call{Func: "sha256", Payload: Bytes(payload), Level: LevelRaw, Heartbeat: minHeartbeat, Watch: e.watch})
	if err != nil || string(r.JSON) != sum256(payload) {
		t.Errorf("%+v, %v%v", r, err, e)
	}
}
