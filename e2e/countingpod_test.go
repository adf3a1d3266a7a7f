//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// A counting pod is a real pod, in a process of its own, whose functions write
// down each of their runs. The process is the test binary again.

// The environment of a counting pod.
const (
	envPod    = "AIPOD_E2E_POD"    // the address to listen on: be a pod
	envDir    = "AIPOD_E2E_DIR"    // its data directory, and beside it the file of runs
	envCut    = "AIPOD_E2E_CUT"    // cut each stream after a duration, or a number of bytes
	envConfig = "AIPOD_E2E_CONFIG" // podConfig as JSON
)

// podConfig is what tests may set of a counting pod.
type podConfig struct {
	MaxAttempts int
	Slots       int
	StreamAge   time.Duration
	JobTTL      time.Duration
	SpoolBudget int64
}

// startCounting starts a counting pod.
func startCounting(t *testing.T, addr, dir, cut string, cfg podConfig) (*pod, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envPod+"="+addr, envDir+"="+dir, envCut+"="+cut, envConfig+"="+string(config))
	p := &pod{process: start(t, "the counting pod", cmd), dir: dir}
	record, err := p.waitRecord(20*time.Second, "listening", nil)
	if err != nil {
		return nil, err
	}
	p.addr, _ = record["addr"].(string)
	return p, nil
}

func mustCounting(t *testing.T, cut string, cfg podConfig) *pod {
	t.Helper()
	p, err := startCounting(t, "127.0.0.1:0", t.TempDir(), cut, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runsFile is where the functions of a pod with a data directory write their
// runs.
func runsFile(dir string) string { return filepath.Join(dir, "runs") }

// runs counts the runs of each job.
func runs(t *testing.T, dir string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(runsFile(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(text)) {
		count[strings.TrimSpace(line)]++
	}
	return count
}

// countingPodMain is the process of a counting pod.
func countingPodMain(addr string) int {
	dir := os.Getenv(envDir)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err := func() error {
		var cfg podConfig
		if err := json.Unmarshal([]byte(os.Getenv(envConfig)), &cfg); err != nil {
			return err
		}
		cut, err := parseCut(os.Getenv(envCut))
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		pod, err := service.Open(service.Config{
			OpenModel:   func(string) (worker.Model, error) { return &countingModel{file: runsFile(dir)}, nil },
			DataDir:     filepath.Join(dir, "data"),
			Heartbeat:   200 * time.Millisecond,
			MaxAttempts: cfg.MaxAttempts,
			StreamAge:   cfg.StreamAge,
			JobTTL:      cfg.JobTTL,
			SpoolBudget: cfg.SpoolBudget,
			Pool:        worker.Config{Slots: cfg.Slots},
			Logger:      log,
		})
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return errors.Join(err, pod.Close())
		}
		if cut == (cutter{}) {
			return pod.Serve(ctx, ln)
		}
		server := transport.NewServer(transport.ServerConfig{Logger: log}, cut.around(pod.Handler()))
		log.Info("listening", "addr", ln.Addr().String())
		context.AfterFunc(ctx, func() { _ = server.Close() })
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return pod.Close()
	}()
	if err != nil {
		log.Error("the counting pod did not run", "err", err)
		return 1
	}
	return 0
}

// A cutter cuts each stream, requests and answers alike, after a time or after so
// many bytes in one direction.
type cutter struct {
	after time.Duration
	bytes int64
}

func parseCut(s string) (cutter, error) {
	if s == "" {
		return cutter{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return cutter{after: d}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return cutter{bytes: n}, err
}

func (c cutter) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream := &cutStream{ResponseWriter: w, body: r.Body, rc: http.NewResponseController(w)}
		stream.left.Store(c.bytes)
		stream.counts = c.bytes > 0
		if c.after > 0 {
			timer := time.AfterFunc(c.after, stream.cut)
			defer timer.Stop()
		}
		r.Body = stream
		next.ServeHTTP(stream, r)
		if stream.isCut.Load() {
			panic(http.ErrAbortHandler) // a reset, and no trailers
		}
	})
}

// A cutStream is a stream that will be cut.
type cutStream struct {
	http.ResponseWriter
	body   io.ReadCloser
	rc     *http.ResponseController
	counts bool
	left   atomic.Int64
	isCut  atomic.Bool
}

var errStreamCut = errors.New("the test has cut the stream")

func (s *cutStream) cut() {
	s.isCut.Store(true)
	past := time.Unix(1, 0)
	_ = s.rc.SetReadDeadline(past)
	_ = s.rc.SetWriteDeadline(past)
}

// take counts n bytes and cuts the stream when there have been enough.
func (s *cutStream) take(n int) error {
	if s.counts && s.left.Add(-int64(n)) < 0 {
		s.cut()
	}
	if s.isCut.Load() {
		return errStreamCut
	}
	return nil
}

func (s *cutStream) Read(p []byte) (int, error) {
	if s.counts {
		p = p[:min(int64(len(p)), max(s.left.Load(), 0)+1)]
	}
	n, err := s.body.Read(p)
	if terr := s.take(n); terr != nil {
		return 0, terr
	}
	return n, err
}

func (s *cutStream) Close() error { return s.body.Close() }

func (s *cutStream) Write(p []byte) (int, error) {
	if err := s.take(len(p)); err != nil {
		return 0, err
	}
	return s.ResponseWriter.Write(p)
}

func (s *cutStream) Flush() { _ = s.rc.Flush() }

func (s *cutStream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// countingModel writes down its runs.
type countingModel struct {
	worker.Lasting
	file string
}

func (m *countingModel) Describe() worker.Description {
	d := worker.Description{Model: "counting"}
	for _, name := range []string{"big", "digest", "echo", "train"} {
		d.Functions = append(d.Functions, worker.Function{Name: name})
	}
	return d
}

func (m *countingModel) Load(context.Context, string) (worker.Instance, error) { return m, nil }
func (*countingModel) Close() error                                            { return nil }

// countingKwargs are those of all functions.
type countingKwargs struct {
	// Millis is how long the function takes, besides its work.
	Millis int `json:"millis"`
	// Bytes is how large the result of big is.
	Bytes int `json:"bytes"`
}

func (m *countingModel) Call(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
	f, err := os.OpenFile(m.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, c.JobID)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	var kwargs countingKwargs
	if err := c.DecodeKwargs(&kwargs); err != nil {
		return nil, err
	}
	for done := 0; done < kwargs.Millis; done += 50 {
		c.Progress(int64(done), int64(kwargs.Millis), "ms", "")
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	switch c.Func {
	case "echo":
		return nil, echo(c)
	case "big":
		return json.Marshal(strings.Repeat("0123456789", kwargs.Bytes/10))
	}
	return inputDigest(c)
}

func inputDigest(c *worker.Call) (json.RawMessage, error) {
	r, err := c.Input.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		return nil, err
	}
	return json.Marshal(hex.EncodeToString(hash.Sum(nil)))
}

func echo(c *worker.Call) error {
	r, err := c.Input.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := c.OpenOutput()
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 64<<10))
	return err
}
