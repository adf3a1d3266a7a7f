//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/transport"
)

// A pod is a real server process.
type pod struct {
	*process
	addr string // host:port
	dir  string // --data-dir
}

// startPod starts a pod on a port of its own, with an empty data directory, and
// waits until it listens.
func startPod(t *testing.T, args ...string) *pod {
	t.Helper()
	p, err := tryPod(t, "127.0.0.1:0", t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startPodBelow is startPod on a port that no outgoing connection can take, so
// that another pod can take it over.
func startPodBelow(t *testing.T, args ...string) *pod {
	t.Helper()
	var err error
	for range 10 {
		var p *pod
		if p, err = tryPod(t, fmt.Sprintf("127.0.0.1:%d", freePort(t)), t.TempDir(), args...); err == nil {
			return p
		}
	}
	t.Fatal(err)
	return nil
}

func tryPod(t *testing.T, listen, dir string, args ...string) (*pod, error) {
	t.Helper()
	return podOf(t, dir, exec.Command(serverBinary, podArgs(listen, dir, args)...))
}

func podArgs(listen, dir string, args []string) []string {
	return append([]string{"--listen", listen, "--data-dir", dir, "--log-format", "json", "--log-level", "debug"}, args...)
}

// podOf is the pod that a command starts.
func podOf(t *testing.T, dir string, cmd *exec.Cmd) (*pod, error) {
	t.Helper()
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	p := &pod{process: start(t, "the pod", cmd), dir: dir}
	record, err := p.waitRecord(20*time.Second, "listening", nil)
	if err != nil {
		return nil, err
	}
	p.addr, _ = record["addr"].(string)
	return p, nil
}

// A record is a line of a pod's log.
type record map[string]any

func parseRecord(line string) record {
	var r record
	if json.Unmarshal([]byte(line), &r) != nil {
		return nil
	}
	return r
}

// has says whether the record has the attributes, given as text.
func (r record) has(attrs map[string]string) bool {
	for key, value := range attrs {
		if fmt.Sprint(r[key]) != value {
			return false
		}
	}
	return true
}

// waitRecord waits for a record with a message and attributes.
func (p *pod) waitRecord(limit time.Duration, msg string, attrs map[string]string) (record, error) {
	line, err := p.waitLine(limit, func(line string) bool {
		r := parseRecord(line)
		return r != nil && r["msg"] == msg && r.has(attrs)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the log record %q %v: %w", msg, attrs, err)
	}
	return parseRecord(line), nil
}

// mustRecord is waitRecord for what has to come.
func (p *pod) mustRecord(t *testing.T, limit time.Duration, msg string, attrs map[string]string) record {
	t.Helper()
	r, err := p.waitRecord(limit, msg, attrs)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// records are all records so far with a message and attributes.
func (p *pod) records(msg string, attrs map[string]string) []record {
	var found []record
	all, _ := p.output.from(0)
	for _, line := range all {
		if r := parseRecord(line); r != nil && r["msg"] == msg && r.has(attrs) {
			found = append(found, r)
		}
	}
	return found
}

// peakRSS is the most memory that the pod ever had, in bytes.
func (p *pod) peakRSS(t *testing.T) int64 {
	t.Helper()
	peak, err := peakRSS(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return peak
}

// peakRSS is the most memory that a running process ever had, in bytes.
func peakRSS(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0, errors.New("no VmHWM in /proc")
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kib << 10, err
}

// payloads are the files in the pod's spool.
func (p *pod) payloads(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(p.dir, "spool", "payload-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// expectNoPayloads gives the pod a moment to remove what its jobs held.
func (p *pod) expectNoPayloads(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Second, "the spool to be empty", func() error {
		if left := p.payloads(t); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
}

// health asks for a service's health: SERVING, NOT_SERVING, or an error.
func health(ctx context.Context, addr, service string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body := strings.NewReader(fmt.Sprintf(`{"service":%q}`, service))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", body)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	// A connection of its own, as a prober has.
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: true})
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	var status struct{ Status string }
	if err := json.Unmarshal(data, &status); err != nil || res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("health check: %s: %s", res.Status, data)
	}
	return strings.TrimPrefix(status.Status, "SERVING_STATUS_"), nil
}

// eventually tries check until it succeeds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// freePort is a port below those of outgoing connections that was free just now
// and that no other test has got. Whoever binds it must be ready to try another
// one.
func freePort(t *testing.T) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if ports.given[port] {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = ln.Close()
		ports.given[port] = true
		return port
	}
	t.Fatal("no free port from 20000 to 32000")
	return 0
}
