package doctor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/tabular"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// newPod serves a pod and returns its URL.
func newPod(t *testing.T) string {
	t.Helper()
	pod, err := service.Open(service.Config{
		OpenModel: func(dir string) (worker.Model, error) { return tabular.Open(dir) },
		DataDir:   t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Close(); err != nil {
			t.Error(err)
		}
	})
	return serve(t, transport.ServerConfig{}, pod.Handler())
}

func serve(t *testing.T, cfg transport.ServerConfig, handler http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	server := transport.NewServer(cfg, handler)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

// A proxy is a real one with limits. Those that are zero don't hold.
type proxy struct {
	maxBody      int64         // bytes of a request
	idle         time.Duration // of an answer
	uploadIdle   time.Duration // of a request
	total        time.Duration // of a call
	holdRequest  bool          // until its end
	holdResponse bool
	other        string // URL of another pod, which gets every second request
	http         transport.ServerConfig
}

// start serves the proxy in front of a pod and returns its URL.
func (p *proxy) start(t *testing.T, pod string) string {
	t.Helper()
	to, err := url.Parse(pod)
	if err != nil {
		t.Fatal(err)
	}
	client := transport.NewHTTPClient(transport.ClientConfig{})
	t.Cleanup(client.CloseIdleConnections)
	tos := []*url.URL{to}
	if p.other != "" {
		other, err := url.Parse(p.other)
		if err != nil {
			t.Fatal(err)
		}
		tos = append(tos, other)
	}
	var turn atomic.Int64
	pass := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(tos[int(turn.Add(1))%len(tos)]) }, Transport: client.Transport, FlushInterval: -1,
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	return serve(t, p.http, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.ProtoMajor == 1 {
			_ = rc.EnableFullDuplex()
		}
		ctx, stop := context.WithCancel(r.Context())
		defer stop()
		cancel := func() {
			_ = rc.SetReadDeadline(time.Unix(1, 0)) // or what reads the request would wait on
			stop()
		}
		if p.maxBody > 0 && r.ContentLength > p.maxBody {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		if p.total > 0 {
			defer time.AfterFunc(p.total, cancel).Stop()
		}
		body := &watchedBody{ReadCloser: r.Body, left: p.maxBody, end: cancel}
		if p.uploadIdle > 0 && r.ContentLength < 0 {
			body.idle, body.timer = p.uploadIdle, time.AfterFunc(p.uploadIdle, cancel)
			defer body.timer.Stop()
		}
		r.Body = body
		if p.holdRequest {
			all, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(all)), int64(len(all))
		}
		watched := &watchedWriter{ResponseWriter: w, hold: p.holdResponse && strings.HasSuffix(r.URL.Path, "/WatchJob")}
		if p.idle > 0 {
			watched.idle, watched.timer = p.idle, time.AfterFunc(p.idle, cancel)
			defer watched.timer.Stop()
		}
		pass.ServeHTTP(watched, r.WithContext(ctx))
	}))
}

// A watchedBody ends the call when too much comes, or nothing.
type watchedBody struct {
	io.ReadCloser
	left  int64 // bytes; 0 at the start is no limit
	end   func()
	idle  time.Duration
	timer *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil && n > 0 {
		b.timer.Reset(b.idle)
	}
	if b.timer != nil && errors.Is(err, io.EOF) {
		b.timer.Stop()
	}
	if b.left != 0 {
		if b.left -= int64(n); b.left < 0 {
			b.end()
			return 0, errors.New("too large")
		}
		b.left = max(b.left, 1)
	}
	return n, err
}

// A watchedWriter ends the call when nothing is written, or writes nothing.
type watchedWriter struct {
	http.ResponseWriter
	hold  bool
	idle  time.Duration
	timer *time.Timer
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if w.timer != nil {
		w.timer.Reset(w.idle)
	}
	if w.hold {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

func (w *watchedWriter) FlushError() error {
	if w.hold {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *watchedWriter) Unwrap() http.ResponseWriter {
	if w.hold {
		return nil
	}
	return w.ResponseWriter
}
