//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	_ "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/client"
)

// TestSeedModel has the first aipod's client call a class of the first aipod,
// which nobody has changed, through nginx, by metadata, in two versions.
func TestSeedModel(t *testing.T) {
	t.Parallel()
	p := startPod(t, "--", python, "../sdk/python/aipod.py", "../examples/hello/model.py")
	other := startPod(t)
	n := startNginx(t, "in front of a Python model", map[string]group{"xxx": toAddrs(p.addr), "yyy": toAddrs(other.addr)})
	payload := writeFile(t, "payload", []byte("a payload of some bytes"))
	for _, version := range []string{"", "v2"} {
		// chaos has no field for it: it is a kwarg.
		kwargs := fmt.Sprintf(`{"name":"Ada","version":%q}`, version)
		r := seed(t, n.grpc, seedCall{fn: "hello", kwargs: kwargs, payload: payload, metadata: []string{"x-upstream=xxx", "x-user=ada"}})
		if r.Code != "OK" || !strings.Contains(string(r.Result), "Ada") {
			t.Errorf("hello of version %q: %v", version, r)
		}
		// Without x-func-name the function is chaos.
		r = seed(t, n.grpc, seedCall{kwargs: kwargs, payload: payload, metadata: []string{"x-upstream=xxx"}})
		if r.Code != "OK" {
			t.Errorf("chaos of version %q: %v", version, r)
		}
	}
	r := seed(t, n.grpc, seedCall{fn: "no_such", metadata: []string{"x-upstream=xxx"}})
	if r.Code != "UNIMPLEMENTED" || !strings.HasSuffix(r.Details, `.no_such" not implemented yet`) {
		t.Errorf("an unknown function: %v", r)
	}
	// Each version has a process of its own.
	if workers := p.workers(t); len(workers) != 2 {
		t.Errorf("the pod has the workers %v, want one for each version", workers)
	}
}

// TestDigits trains scikit-learn through a pod, twice, has both versions predict,
// and restarts the pod.
func TestDigits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustRun(t, time.Minute, python, "../examples/digits/data.py", dir)
	train, test := filepath.Join(dir, "train.csv"), filepath.Join(dir, "test.csv")
	pod := func(data string) *pod {
		t.Helper()
		p, err := tryPod(t, "127.0.0.1:0", data, "--", python, "../examples/digits/model.py")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	data := t.TempDir()
	p := pod(data)
	call := func(fn, file, version, kwargs string, dst any) {
		t.Helper()
		c := client.Call{Func: fn, Version: version, Kwargs: json.RawMessage(kwargs)}
		if file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c.Payload = client.ReaderAt(bytes.NewReader(text), int64(len(text)))
		}
		res, err := callResult(t.Context(), t, p, c)
		if err != nil {
			t.Fatalf("%s of version %s: %v", fn, version, err)
		}
		if err := json.Unmarshal(res.JSON, dst); err != nil {
			t.Fatalf("%s of version %s gives %.200s: %v", fn, version, res.JSON, err)
		}
	}
	type prediction struct {
		Labels   []int
		Accuracy float64
		Version  string
	}
	var ignored, log any
	call("train", train, "sharp", `{}`, &ignored)
	call("train", train, "dull", `{"C":0.0001}`, &ignored)
	check := func() (sharp, dull prediction) {
		t.Helper()
		call("predict", test, "sharp", `{}`, &sharp)
		call("predict", test, "dull", `{}`, &dull)
		for name, got := range map[string]prediction{"sharp": sharp, "dull": dull} {
			call("log", "", name, `{}`, &log)
			if got.Version != name || len(got.Labels) < 100 || log == nil {
				t.Errorf("version %s: %d labels of version %q, log %v", name, len(got.Labels), got.Version, log)
			}
		}
		if sharp.Accuracy < 0.94 {
			t.Errorf("accuracy %.4f on held-out rows, want at least 0.94", sharp.Accuracy)
		}
		if dull.Accuracy >= sharp.Accuracy {
			t.Errorf("accuracy %.4f of what was hardly trained, and %.4f: they are one version", dull.Accuracy, sharp.Accuracy)
		}
		return sharp, dull
	}
	sharp, dull := check()
	t.Logf("accuracy on %d held-out rows: %.4f, hardly trained %.4f", len(sharp.Labels), sharp.Accuracy, dull.Accuracy)
	p.kill()
	p = pod(data)
	again, _ := check()
	if again.Accuracy != sharp.Accuracy {
		t.Errorf("accuracy %.4f after a restart, %.4f before", again.Accuracy, sharp.Accuracy)
	}
	// Trained anew, the version that is loaded is the new one.
	call("train", train, "sharp", `{"C":0.0001}`, &ignored)
	var retrained prediction
	call("predict", test, "sharp", `{}`, &retrained)
	if retrained.Accuracy != dull.Accuracy {
		t.Errorf("accuracy %.4f after training anew, want %.4f", retrained.Accuracy, dull.Accuracy)
	}
}

// TestServerCheck tests the workers that come with aipod.
func TestServerCheck(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"python": {python, "../sdk/python/check_worker.py"},
		"node":   {tool(t, "node"), "../examples/node/worker.mjs"},
	} {
		for _, slots := range []string{"1", "3"} {
			t.Run(name+" "+slots, func(t *testing.T) {
				out, err := run(t, 3*time.Minute, serverBinary, append([]string{"check", "--slots", slots, "--"}, command...)...)
				skipped := 1
				if slots != "1" {
					skipped = 0
				}
				if err != nil || !strings.Contains(out, fmt.Sprintf("%d passed, 0 failed, %d skipped\n", 11-skipped, skipped)) {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
	t.Run("a worker that is none", func(t *testing.T) {
		out, err := run(t, time.Minute, serverBinary, "check", "--", "sh", "-c", "echo not JSON >&3; cat")
		if err == nil || !strings.Contains(err.Error(), "not of the protocol") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestSDK runs the tests of the Python SDK.
func TestSDK(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(python, "-m", "unittest", "discover", "-s", "../sdk/python")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	p := start(t, "the SDK's tests", cmd)
	if code := p.wait(t, 3*time.Minute); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestExecExample has ImageMagick make an image smaller.
func TestExecExample(t *testing.T) {
	t.Parallel()
	const convert = "/usr/bin/convert"
	picture := filepath.Join(t.TempDir(), "picture.jpg")
	mustRun(t, time.Minute, convert, "-size", "640x480", "gradient:red-blue", picture)
	p := startPod(t, "--exec", "--func", "resize", "--", convert, "-", "-resize", "{size}", "png:-")
	text, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	res, err := callResult(t.Context(), t, p, client.Call{
		Func: "resize", Kwargs: json.RawMessage(`{"size":"320x320"}`), Payload: client.ReaderAt(bytes.NewReader(text), int64(len(text))),
	})
	if err != nil {
		t.Fatal(err)
	}
	config, format, err := image.DecodeConfig(bytes.NewReader(res.Output))
	if err != nil || format != "png" || config.Width != 320 || config.Height != 240 {
		t.Errorf("%s of %d x %d: %v", format, config.Width, config.Height, err)
	}
	_, err = callResult(t.Context(), t, p, client.Call{
		Func: "resize", Kwargs: json.RawMessage(`{"size":"320x320"}`), Payload: client.Bytes([]byte("not an image")),
	})
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "convert") {
		t.Errorf("no image: %v", err)
	}
}

// TestUpstreamExample serves the functions of an HTTP server.
func TestUpstreamExample(t *testing.T) {
	t.Parallel()
	server := start(t, "the upstream", exec.Command(python, "-u", "../examples/upstream/server.py", "0"))
	line, err := server.waitLine(10*time.Second, func(line string) bool { return strings.Contains(line, "http://") })
	if err != nil {
		t.Fatal(err)
	}
	_, url, _ := strings.Cut(line, "http://")
	url = "http://" + strings.TrimRight(url, "/ ")
	p := startPod(t, "--upstream", url, "--func", "predict", "--func", "echo")
	job := jobCase{fn: "echo", payload: randomBytes(20 << 20)}
	payload := client.ReaderAt(bytes.NewReader(job.payload), int64(len(job.payload)))
	res, err := callResult(t.Context(), t, p, client.Call{Func: "predict", Kwargs: json.RawMessage(`{"k":"é","n":1}`), Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Bytes  int
		SHA256 string
		Kwargs map[string]any
	}
	if err := json.Unmarshal(res.JSON, &got); err != nil || got.Bytes != len(job.payload) || got.SHA256 != hexDigest(job.payload) ||
		fmt.Sprint(got.Kwargs) != "map[k:é n:1]" {
		t.Errorf("%s, %v", res.JSON, err)
	}
	res, err = callResult(t.Context(), t, p, client.Call{Func: "echo", Payload: payload, JobID: "echo"})
	if err == nil {
		err = job.check(res.JSON, res.Output)
	}
	if err != nil {
		t.Error(err)
	}
	server.kill()
	_, err = callResult(t.Context(), t, p, client.Call{Func: "predict"})
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens: %v", err)
	}
}
