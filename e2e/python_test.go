//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/tabular"
)

// python is the one that Debian's packages are for; another one on PATH would
// not see them.
const python = "/usr/bin/python3"

// A seedCall is one call by the first aipod's Python client; see
// python/seed_client.py.
type seedCall struct {
	method   string // default chaos
	fn       string // x-func-name
	kwargs   string // JSON
	version  string
	payload  string // file
	metadata []string
	timeout  time.Duration
	stallAt  int
	stall    time.Duration
	cancelAt int // beats
}

// A seedResponse is what the client prints at the end.
type seedResponse struct {
	Code      string
	Details   string
	Result    json.RawMessage
	Beats     int
	MaxGap    float64 `json:"max_gap"` // seconds
	Seconds   float64
	BytesSent int64 `json:"bytes_sent"`
	Size      int64
	SHA256    string
	Headers   map[string]string
}

func (r seedResponse) String() string {
	return fmt.Sprintf("%s %q, result %s, %d beats, largest gap %.2f s, %.2f s, %d bytes sent",
		r.Code, r.Details, r.Result, r.Beats, r.MaxGap, r.Seconds, r.BytesSent)
}

var makeStubs = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(workDir, "python-stubs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	plugin, err := exec.LookPath("grpc_python_plugin")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("protoc", "-I", "../proto", "--python_out="+dir, "--grpc_python_out="+dir,
		"--plugin=protoc-gen-grpc_python="+plugin, "../proto/ai/ai.proto").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("protoc: %w: %s", err, out)
	}
	return dir, nil
})

// startSeedCall starts the client; the returned function waits for its end.
func startSeedCall(t *testing.T, addr string, c seedCall) (*process, func() seedResponse) {
	t.Helper()
	tool(t, "protoc")
	tool(t, "grpc_python_plugin")
	stubs, err := makeStubs()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"python/seed_client.py", "--addr", addr, "--stubs", stubs}
	add := func(name, value string) {
		if value != "" {
			args = append(args, name+"="+value)
		}
	}
	add("--method", c.method)
	add("--func", c.fn)
	add("--kwargs", c.kwargs)
	add("--version", c.version)
	add("--payload", c.payload)
	for _, m := range c.metadata {
		add("--metadata", m)
	}
	if c.timeout > 0 {
		add("--timeout", fmt.Sprint(c.timeout.Seconds()))
	}
	if c.stall > 0 {
		add("--stall", fmt.Sprint(c.stall.Seconds()))
		add("--stall-at", fmt.Sprint(c.stallAt))
	}
	if c.cancelAt > 0 {
		add("--cancel-after-beats", fmt.Sprint(c.cancelAt))
	}
	cmd := exec.Command(python, args...)
	// A proxy of the machine's is not what is being tested.
	cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1", "PYTHONDONTWRITEBYTECODE=1")
	p := start(t, "the Python client", cmd)
	return p, func() seedResponse {
		t.Helper()
		line, err := p.waitLine(60*time.Second, func(line string) bool {
			r := parseRecord(line)
			return r != nil && r["event"] == "end"
		})
		if err != nil {
			t.Fatal(err)
		}
		var r seedResponse
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(t, 10*time.Second); code != 0 {
			t.Errorf("the Python client's exit code is %d", code)
		}
		return r
	}
}

func seed(t *testing.T, addr string, c seedCall) seedResponse {
	t.Helper()
	_, end := startSeedCall(t, addr, c)
	return end()
}

// decodeResult decodes the result of a call that must have succeeded.
func (r seedResponse) decodeResult(t *testing.T, dst any) {
	t.Helper()
	if r.Code != "OK" {
		t.Fatal(r)
	}
	dec := json.NewDecoder(bytes.NewReader(r.Result))
	if err := dec.Decode(dst); err != nil {
		t.Fatalf("result %s: %v", r.Result, err)
	}
}

func TestPythonUploads64MiB(t *testing.T) {
	const size = 64 << 20
	for _, kind := range []bench.Kind{bench.Random, bench.Text} {
		t.Run(string(kind), func(t *testing.T) {
			path, want := writePayload(t, kind, size)
			p := startPod(t)
			r := seed(t, p.addr, seedCall{fn: "sha256", payload: path})
			var got digest
			r.decodeResult(t, &got)
			if got != want {
				t.Errorf("the pod says %+v, want %+v", got, want)
			}
			if r.SHA256 != want.SHA256 || r.Size != want.Size {
				t.Errorf("the client read %s, %d bytes", r.SHA256, r.Size)
			}
			if r.Beats < 1 || r.MaxGap > 2.5 {
				t.Error("too few heartbeats:", r)
			}
			if kind == bench.Text && r.BytesSent > size/2 {
				t.Errorf("zstd left %d of %d bytes", r.BytesSent, size)
			}
			for _, header := range []string{"x-job-id", "x-func-name"} {
				if r.Headers[header] == "" {
					t.Errorf("no %s in the response's headers %v", header, r.Headers)
				}
			}
			// A pod that kept the payload would have more than its size.
			if rss := p.peakRSS(t); rss > 60<<20 && os.Getenv("AIPOD_E2E_RACE") == "" {
				t.Errorf("the pod took %d MiB of memory", rss>>20)
			} else {
				t.Logf("%.2f s, peak RSS %d MiB", r.Seconds, rss>>20)
			}
			p.expectNoPayloads(t)
		})
	}
}

func TestPythonHello(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	r := seed(t, p.addr, seedCall{fn: "hello", kwargs: `{"name":"aipod"}`})
	var hello struct{ Hello, Model string }
	r.decodeResult(t, &hello)
	if hello.Hello != "aipod" || hello.Model != "tabular" {
		t.Errorf("hello said %s", r.Result)
	}
	if r.Headers["x-func-name"] != "hello" {
		t.Errorf("x-func-name is %q", r.Headers["x-func-name"])
	}
	// The seed's default function is chaos, an echo here.
	r = seed(t, p.addr, seedCall{payload: writeFile(t, "echo", []byte("text for the echo"))})
	var echo string
	r.decodeResult(t, &echo)
	if echo != "text for the echo" {
		t.Errorf("chaos answered %s", r.Result)
	}
}

func TestPythonTrainPredictLog(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	iris := writeFile(t, "iris.csv", tabular.Iris())

	var trained struct {
		Version  string
		Rows     int
		Accuracy float64
	}
	seed(t, p.addr, seedCall{method: "train", version: "iris", kwargs: `{"target":"species"}`, payload: iris}).decodeResult(t, &trained)
	if trained.Version != "iris" || trained.Rows != 150 || trained.Accuracy < 0.9 {
		t.Errorf("trained %+v", trained)
	}

	var predicted struct {
		Version  string
		Labels   []string
		Accuracy float64
	}
	seed(t, p.addr, seedCall{method: "predict", version: "iris", payload: iris}).decodeResult(t, &predicted)
	if predicted.Version != "iris" || len(predicted.Labels) != 150 || predicted.Accuracy < 0.9 {
		t.Errorf("predicted %d labels with %s, accuracy %v", len(predicted.Labels), predicted.Version, predicted.Accuracy)
	}

	var log struct {
		Version string
		Lines   []struct{ Line string }
	}
	seed(t, p.addr, seedCall{method: "log", version: "iris"}).decodeResult(t, &log)
	if log.Version != "iris" || len(log.Lines) < 3 {
		t.Errorf("the log of %q has %d lines", log.Version, len(log.Lines))
	}

	if r := seed(t, p.addr, seedCall{method: "predict", version: "nope", payload: iris}); r.Code != "NOT_FOUND" {
		t.Errorf("predict with a version that nobody trained: %v", r)
	}
}

func TestPythonUnknownFunctionBeforeUpload(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	// The upload would take a minute.
	r := seed(t, p.addr, seedCall{
		fn: "nope", payload: writeFile(t, "random", randomBytes(1<<20)), stallAt: 64 << 10, stall: time.Minute,
	})
	if r.Code != "UNIMPLEMENTED" || r.Details != `"tabular.nope" not implemented yet` {
		t.Errorf("got %v", r)
	}
	if r.Seconds > 1 || r.Beats > 0 {
		t.Errorf("the refusal was not at once: %v", r)
	}
	p.expectNoPayloads(t)
}

// The refusal of a pod that is draining is what retryPolicy is for.
func TestPythonRetryPolicyMakesAllAttempts(t *testing.T) {
	t.Parallel()
	p := startPod(t, "--drain-timeout", "60s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := goDo(t, ctx, p.addr, request{fn: "sleep", kwargs: `{"seconds":60}`})
	p.signal(t, syscall.SIGTERM)
	p.mustRecord(t, 5*time.Second, "draining", nil)

	r := seed(t, p.addr, seedCall{fn: "hello"})
	if r.Code != "UNAVAILABLE" || r.Beats > 0 {
		t.Errorf("got %v", r)
	}
	// The pod's log has a record for each attempt that arrived.
	if got := len(p.records("call refused or failed", map[string]string{"code": "unavailable"})); got != 5 {
		t.Errorf("the pod has seen %d attempts, want 5", got)
	}
	// 1 + 2 + 4 + 8 seconds, each with up to 20 % of jitter.
	if r.Seconds < 11 || r.Seconds > 20 {
		t.Errorf("the attempts took %.1f s, want 15", r.Seconds)
	}
	cancel()
	<-running
	expectExit(t, p, 0, time.Now(), 1500*time.Millisecond)
}

func TestPythonRetryPolicyMeetsTheNextPod(t *testing.T) {
	t.Parallel()
	p := startPodBelow(t, "--drain-timeout", "60s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := goDo(t, ctx, p.addr, request{fn: "sleep", kwargs: `{"seconds":60}`})
	p.signal(t, syscall.SIGTERM)
	p.mustRecord(t, 5*time.Second, "draining", nil)

	_, end := startSeedCall(t, p.addr, seedCall{fn: "hello", kwargs: `{"name":"next"}`})
	// After the third refusal there are at least 3.2 s until the next attempt:
	// time for the old pod to go and for the new one to come.
	refused := map[string]string{"code": "unavailable"}
	eventually(t, 20*time.Second, "three refusals", func() error {
		if n := len(p.records("call refused or failed", refused)); n < 3 {
			return fmt.Errorf("there were %d", n)
		}
		return nil
	})
	cancel()
	<-running
	expectExit(t, p, 0, time.Now(), 1500*time.Millisecond)
	next, err := tryPod(t, p.addr, p.dir)
	if err != nil {
		t.Fatal(err)
	}

	r := end()
	var hello struct{ Hello string }
	r.decodeResult(t, &hello)
	if hello.Hello != "next" {
		t.Errorf("result %s", r.Result)
	}
	if n := len(p.records("call refused or failed", refused)); n != 3 {
		t.Errorf("the old pod has refused %d attempts, want 3", n)
	}
	if n := len(next.records("job ended", map[string]string{"func": "hello", "state": "SUCCEEDED"})); n != 1 {
		t.Errorf("the new pod has run %d calls, want 1", n)
	}
}

// expectCanceled says that the pod's function ended soon after the caller left.
func expectCanceled(t *testing.T, p *pod, r seedResponse) {
	t.Helper()
	end := p.mustRecord(t, 2*time.Second, "job ended", map[string]string{"job": r.Headers["x-job-id"]})
	if end["state"] != "CANCELED" {
		t.Errorf("the job ended as %v", end)
	}
	// The slots are free again only when the function has returned.
	now := time.Now()
	p.signal(t, syscall.SIGTERM)
	expectExit(t, p, 0, now, 1500*time.Millisecond)
}

func TestPythonDeadlineCancelsTheFunction(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	r := seed(t, p.addr, seedCall{fn: "sleep", kwargs: `{"seconds":30}`, timeout: 2 * time.Second})
	if r.Code != "DEADLINE_EXCEEDED" {
		t.Errorf("got %v", r)
	}
	if r.Seconds < 1.9 || r.Seconds > 3 || r.Beats < 2 {
		t.Errorf("the deadline was 2 s: %v", r)
	}
	expectCanceled(t, p, r)
}

func TestPythonCancelCancelsTheFunction(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	r := seed(t, p.addr, seedCall{fn: "sleep", kwargs: `{"seconds":30}`, cancelAt: 2})
	if r.Code != "CANCELLED" {
		t.Errorf("got %v", r)
	}
	expectCanceled(t, p, r)
}

// A client that is killed can't cancel; its connection does, unless the job has a
// name.
func TestPythonKilledCancelsTheFunction(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	kill := func(c seedCall) {
		client, _ := startSeedCall(t, p.addr, c)
		if _, err := client.waitLine(10*time.Second, func(line string) bool { return parseRecord(line)["event"] == "first" }); err != nil {
			t.Fatal(err)
		}
		client.kill()
	}
	named := seedCall{fn: "sleep", kwargs: `{"seconds":4}`, metadata: []string{"x-job-id=named"}}
	kill(named)
	kill(seedCall{fn: "sleep", kwargs: `{"seconds":30}`})
	canceled := p.mustRecord(t, 2*time.Second, "job ended", map[string]string{"func": "sleep", "state": "CANCELED"})
	if canceled["job"] == "named" {
		t.Error("the job with a name was canceled")
	}
	r := seed(t, p.addr, named)
	if r.Code != "OK" || string(r.Result) != `{"slept": 4}` {
		t.Errorf("called again, the job with a name ends with %v", r)
	}
	if n := len(p.records("job ended", map[string]string{"job": "named", "state": "SUCCEEDED"})); n != 1 {
		t.Errorf("it was run %d times", n)
	}
}

func TestPythonHeartbeats(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	r := seed(t, p.addr, seedCall{fn: "sleep", kwargs: `{"seconds":3}`, metadata: []string{"x-heartbeat=500ms"}})
	var slept struct{ Slept float64 }
	r.decodeResult(t, &slept)
	if r.Beats < 6 || r.Beats > 8 || r.MaxGap > 1.5 {
		t.Errorf("want a beat at once and then each 0.5 s: %v", r)
	}
}
