// Package service is the pod as its callers see it: the handlers of its RPC
// services, what the wire says in terms of jobs and back, the one table from
// errors to codes, health, reflection, and the pod's life from start to drain.
//
// It holds no job state of its own: a stream is a view of a job.
//
// A Pod is safe for concurrent use. Each handler's goroutine is the only sender
// of its stream.
package service

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/gofrs/flock"

	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
	"github.com/aipod/aipod/web"
)

// Config is what a Pod needs. OpenModel and DataDir are required.
type Config struct {
	// OpenModel makes the model that the pod serves. dir is a directory below
	// DataDir that is the model's own, and the pod's alone: it is locked. A model
	// that is an io.Closer is closed when its instances are.
	OpenModel func(dir string) (worker.Model, error)
	// DataDir holds the spool, the model's directory and a lock: one pod a
	// directory.
	DataDir string

	// Heartbeat is the longest silence in an answer, default 1s; callers
	// override it with x-heartbeat.
	Heartbeat time.Duration
	// MaxPayload is the largest input or output of a job in bytes, default no
	// limit but the spool's budget.
	MaxPayload int64
	// MaxMessage is the largest single message in bytes, default 64 MiB.
	MaxMessage int
	// SpoolBudget is the most bytes that all payloads together may take, default
	// no limit but the disk.
	SpoolBudget int64
	// JobTTL is how long a durable job is kept after its end, default 1h.
	JobTTL time.Duration
	// MaxAttempts is how often the function of a durable job may be begun when the
	// process dies under it, default 2; train only once. Jobs override it.
	MaxAttempts int
	// StreamAge is how long a stream of JobService may last before the pod ends
	// it and the caller attaches again, default forever. Only durable jobs.
	StreamAge time.Duration
	// Pool sizes the worker pool; see worker.Config.
	Pool worker.Config

	// DrainDelay is how long a pod that was told to stop still takes calls while
	// health says NOT_SERVING, default 0: the time that proxies need to notice.
	DrainDelay time.Duration
	// DrainTimeout is how long it then waits for running jobs, default 30s.
	DrainTimeout time.Duration

	// CORSOrigins are the origins, besides the pod's own, whose pages may call it:
	// "https://app.example", "https://*.example", or "*" for all, which then send no
	// credentials.
	CORSOrigins []string
	// Transport tunes HTTP; see transport.ServerConfig. ConnContext and Logger
	// are set by the pod.
	Transport transport.ServerConfig
	// TLSCert and TLSKey are PEM files; without them the pod serves plain text.
	TLSCert, TLSKey string

	// Logger takes what the pod has to say, default slog.Default().
	Logger *slog.Logger
}

// maxRequest is the largest message of JobService in bytes: a full chunk that
// doesn't compress, with what is around it; or in JSON, as base64.
const maxRequest = 6 << 20

const chaosProcedure = aiconnect.AIChaosProcedure

// services are those that health and reflection know.
var services = []string{aiconnect.AIName, aipodv1connect.JobServiceName}

// A Pod serves one model.
type Pod struct {
	cfg     Config
	started time.Time
	certs   []tls.Certificate // none for plain text
	log     *slog.Logger
	lock    *flock.Flock
	spool   *spool.Spool
	model   worker.Model
	pool    *worker.Pool
	table   *job.Table
	health  *grpchealth.StaticChecker
	mux     http.Handler
	// stopped is closed when the pod waits for jobs no longer.
	stopped chan struct{}
}

// Open makes a pod that is ready to Serve. Close it, unless Serve is called.
func Open(cfg Config) (*Pod, error) {
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, time.Second)
	cfg.MaxMessage = cmp.Or(cfg.MaxMessage, 64<<20)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch {
	case cfg.OpenModel == nil:
		return nil, errors.New("open pod: no model given")
	case cfg.DataDir == "":
		return nil, errors.New("open pod: no data directory given")
	case cfg.Heartbeat < minHeartbeat || cfg.Heartbeat > maxHeartbeat:
		return nil, fmt.Errorf("open pod: the heartbeat is %v: give %v to %v", cfg.Heartbeat, minHeartbeat, maxHeartbeat)
	case (cfg.TLSCert == "") != (cfg.TLSKey == ""):
		return nil, errors.New("open pod: a TLS certificate needs its key and the key its certificate: give both files")
	}
	if err := checkOrigins(cfg.CORSOrigins); err != nil {
		return nil, fmt.Errorf("open pod: %w", err)
	}
	var certs []tls.Certificate
	if cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("open pod: TLS certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open pod: %w", err)
	}
	lock := flock.New(filepath.Join(cfg.DataDir, "lock"))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("open pod: lock data directory: %w", err)
	case !locked:
		return nil, fmt.Errorf("open pod: another pod uses the data directory %s: stop it or choose another one", cfg.DataDir)
	}
	p := &Pod{cfg: cfg, started: time.Now(), certs: certs, log: cfg.Logger, lock: lock, stopped: make(chan struct{})}
	var err error
	p.spool, err = spool.Open(spool.Config{Dir: filepath.Join(cfg.DataDir, "spool"), Budget: cfg.SpoolBudget})
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	p.model, err = cfg.OpenModel(filepath.Join(cfg.DataDir, "versions"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open model: %w", err), lock.Unlock())
	}
	p.health = grpchealth.NewStaticChecker(services...)
	cfg.Pool.Logger, cfg.Pool.OnVersion = cfg.Logger, p.onVersion
	p.pool = worker.NewPool(p.model, cfg.Pool)
	p.table, err = job.NewTable(job.Config{
		Spool: p.spool, Runner: p.pool, Store: filepath.Join(cfg.DataDir, "jobs.db"),
		Explain: func(err error) *job.ExplainedError { return explain(err, cfg.Logger) },
		TTL:     cfg.JobTTL, MaxAttempts: cfg.MaxAttempts, MaxPayload: cfg.MaxPayload, Logger: cfg.Logger,
		Digest: p.wantsDigest,
	})
	if err != nil {
		return nil, errors.Join(err, p.pool.Close(context.Background()), p.closeModel(), lock.Unlock())
	}
	p.setHealth(grpchealth.StatusServing)
	p.mux = p.routes()
	p.table.Resume()
	return p, nil
}

func (p *Pod) routes() http.Handler {
	mux := http.NewServeMux()
	opts := HandlerOptions(p.log)
	mux.Handle(transport.Bulk(func(more ...connect.HandlerOption) (string, http.Handler) {
		return aiconnect.NewAIHandler(&aiHandler{p}, more...)
	}, append(opts, connect.WithReadMaxBytes(p.cfg.MaxMessage))...))
	mux.Handle(transport.Bulk(func(more ...connect.HandlerOption) (string, http.Handler) {
		return aipodv1connect.NewJobServiceHandler(&jobHandler{p}, more...)
	}, append(opts, connect.WithReadMaxBytes(maxRequest))...))
	// Requests outside of ai.AI and JobService are small.
	opts = append(opts, connect.WithReadMaxBytes(4<<20))
	mux.Handle(grpchealth.NewHandler(p.health, opts...))
	reflector := grpcreflect.NewStaticReflector(append(services,
		grpchealth.HealthV1ServiceName, grpcreflect.ReflectV1ServiceName, grpcreflect.ReflectV1AlphaServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, opts...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, opts...))
	mux.Handle("/", web.Handler())
	return withCORS(p.cfg.CORSOrigins, transport.Middleware(mux))
}

func (p *Pod) setHealth(status grpchealth.Status) {
	for _, service := range append([]string{""}, services...) {
		p.health.SetStatus(service, status)
	}
}

// versionService is the prefix of the health of a version: its name comes next,
// none for the default version.
const versionService = "aipod.version/"

// onVersion tells health of a version that goes down or up. One that never went
// down is unknown to health.
func (p *Pod) onVersion(version string, up bool) {
	status := grpchealth.StatusNotServing
	if up {
		status = grpchealth.StatusServing
	}
	p.health.SetStatus(versionService+version, status)
}

// wantsDigest says whether a function wants the SHA-256 of its payload.
func (p *Pod) wantsDigest(fn string) bool {
	f, err := p.pool.Describe().Function(fn)
	return err == nil && f.Digest
}

// closeModel lets go of what the model has besides its instances.
func (p *Pod) closeModel() error {
	if c, ok := p.model.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Handler is the whole pod as an http.Handler, for servers other than Serve's.
func (p *Pod) Handler() http.Handler { return p.mux }

// Spool tells what the pod's jobs hold now.
func (p *Pod) Spool() spool.Usage { return p.spool.Usage() }

// goodbye is how long connections have to close after the last job: long enough
// for answers that are on their way, short enough for whoever waits.
const goodbye = time.Second

// Serve serves on the listener until ctx ends, then drains: health says
// NOT_SERVING; after DrainDelay new calls get UNAVAILABLE; running ones finish,
// for at most DrainTimeout. The error is nil when the pod was drained, also when
// jobs were cut off.
func (p *Pod) Serve(ctx context.Context, ln net.Listener) error {
	cfg := p.cfg.Transport
	cfg.ConnContext, cfg.Logger = withBeats, p.log
	server := transport.NewServer(cfg, p.mux)
	served := make(chan error, 1)
	go func() {
		if len(p.certs) > 0 {
			server.TLSConfig = &tls.Config{Certificates: p.certs, MinVersion: tls.VersionTLS12}
			served <- server.ServeTLS(ln, "", "")
			return
		}
		served <- server.Serve(ln)
	}()
	p.log.Info("listening", "addr", ln.Addr().String(), "model", p.pool.Describe().Model)
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve: %w", err), p.Close())
	case <-ctx.Done():
	}
	p.drain()
	bye, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if err := server.Shutdown(bye); err != nil {
		// What is still open after this waits for nothing that will come.
		p.log.Debug("closing connections", "err", err)
		_ = server.Close()
	}
	err := p.Close()
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve: %w", serr))
	}
	p.log.Info("stopped")
	return err
}

func (p *Pod) drain() {
	p.setHealth(grpchealth.StatusNotServing)
	p.log.Info("draining", "jobs", p.table.Len(), "delay", p.cfg.DrainDelay, "timeout", p.cfg.DrainTimeout)
	if p.cfg.DrainDelay > 0 {
		time.Sleep(p.cfg.DrainDelay)
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout)
	defer cancel()
	if err := p.table.Drain(ctx); err != nil {
		p.log.Warn("drain timeout", "err", err)
	}
	close(p.stopped)
}

// Close releases the model's instances and the data directory. Functions that
// still run have the time of goodbye. Durable jobs that have not ended go on when
// the directory is opened again.
func (p *Pod) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye/4)
	defer cancel()
	err := p.pool.Close(ctx)
	if err != nil {
		p.log.Warn("functions cut off", "err", err)
	}
	return errors.Join(p.table.Close(), p.closeModel(), p.lock.Unlock())
}
