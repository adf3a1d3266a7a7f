//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A nodeCall is one call by node/client.mjs, which says what the fields mean.
type nodeCall struct {
	Name     string            `json:"name"`
	Addr     string            `json:"addr"`
	Library  string            `json:"library"`
	Protocol string            `json:"protocol"`
	HTTP     string            `json:"http"`
	Gzip     bool              `json:"gzip"`
	Func     string            `json:"func"`
	Kwargs   string            `json:"kwargs"`
	Payload  string            `json:"payload"`
	Headers  map[string]string `json:"headers"`
}

type nodeResponse struct {
	Name, Code, Message, Result string
	Beats                       int
	MaxGap                      float64 `json:"max_gap"` // seconds
	Seconds                     float64
}

// makeNodeStubs has buf run protoc-gen-es; what it makes finds the runtime through a
// link to the installed modules.
var makeNodeStubs = sync.OnceValues(func() (string, error) {
	modules, err := filepath.Abs("node/node_modules")
	if err != nil {
		return "", err
	}
	plugin := filepath.Join(modules, ".bin", "protoc-gen-es")
	if !isExecutable(plugin) {
		return "", fmt.Errorf("%s is missing: run e2e/install.sh", plugin)
	}
	dir := filepath.Join(workDir, "node-stubs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type":"module"}`), 0o600); err != nil {
		return "", err
	}
	template, err := json.Marshal(map[string]any{"version": "v2", "plugins": []map[string]any{
		{"local": plugin, "out": dir, "opt": "target=js"},
	}})
	if err != nil {
		return "", err
	}
	cmd := exec.Command("buf", "generate", "--template", string(template))
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("buf generate: %w: %s", err, out)
	}
	return dir, nil
})

// node makes the calls one after the other, in one process.
func node(t *testing.T, limit time.Duration, calls []nodeCall) []nodeResponse {
	t.Helper()
	tool(t, "buf")
	stubs, err := makeNodeStubs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		if calls[i].Kwargs == "" {
			calls[i].Kwargs = "{}"
		}
	}
	input, err := json.Marshal(map[string]any{"stubs": stubs, "proto": repoFile(t, "proto"), "calls": calls})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "node"), "node/client.mjs")
	cmd.Stdin = bytes.NewReader(input)
	p := start(t, "the Node client", cmd)
	if code := p.wait(t, limit); code != 0 {
		t.Fatalf("the Node client's exit code is %d", code)
	}
	var responses []nodeResponse
	all, _ := p.output.from(0)
	for _, line := range all {
		var r nodeResponse
		if json.Unmarshal([]byte(line), &r) == nil && r.Name != "" {
			responses = append(responses, r)
		}
	}
	if len(responses) != len(calls) {
		t.Fatalf("%d responses to %d calls", len(responses), len(calls))
	}
	return responses
}

// stacks are the ways from Node to a pod.
var stacks = []nodeCall{
	{Name: "grpc-js", Library: "grpc-js", Protocol: "grpc", HTTP: "2"},
	{Name: "connect-node grpc", Library: "connect-node", Protocol: "grpc", HTTP: "2"},
	{Name: "connect-node grpc-web", Library: "connect-node", Protocol: "grpc-web", HTTP: "2"},
	{Name: "connect-node connect", Library: "connect-node", Protocol: "connect", HTTP: "2"},
	// Half-duplex: all of the request goes out before the response is read.
	{Name: "connect-node grpc-web HTTP/1.1", Library: "connect-node", Protocol: "grpc-web", HTTP: "1.1"},
	{Name: "connect-node connect HTTP/1.1", Library: "connect-node", Protocol: "connect", HTTP: "1.1"},
}

func TestNodeUploads8MiB(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	data := textBytes(8 << 20)
	path := writeFile(t, "text", data)
	var calls []nodeCall
	var relays []*relay
	for _, stack := range stacks {
		for _, gzip := range []bool{false, true} {
			r := startRelay(t, p.addr)
			call := stack
			call.Addr, call.Gzip, call.Func, call.Payload = r.addr, gzip, "sha256", path
			if gzip {
				call.Name += " gzip"
			}
			calls, relays = append(calls, call), append(relays, r)
		}
	}
	for i, r := range node(t, 2*time.Minute, calls) {
		t.Run(r.Name, func(t *testing.T) {
			if r.Code != "OK" {
				t.Fatalf("%s %s", r.Code, r.Message)
			}
			expectDigest(t, []byte(r.Result), digestOf(data))
			if r.Beats < 1 || r.MaxGap > 2.5 {
				t.Errorf("%d beats, largest gap %.2f s", r.Beats, r.MaxGap)
			}
			// What went over the wire says whether it was compressed.
			sent := relays[i].up.Load()
			if calls[i].Gzip && sent > int64(len(data))/2 || !calls[i].Gzip && sent < int64(len(data)) {
				t.Errorf("%d bytes were sent for %d", sent, len(data))
			}
			t.Logf("%.2f s, %d bytes sent", r.Seconds, sent)
		})
	}
	p.expectNoPayloads(t)
}

func TestNodeHeartbeats(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	for _, stack := range stacks {
		t.Run(stack.Name, func(t *testing.T) {
			t.Parallel()
			stack.Addr, stack.Func, stack.Kwargs = p.addr, "sleep", `{"seconds":2}`
			stack.Headers = map[string]string{"x-heartbeat": "500ms"}
			refused := stack
			refused.Name, refused.Func = "refused", "nope"
			responses := node(t, 30*time.Second, []nodeCall{stack, refused})
			r := responses[0]
			if r.Code != "OK" || r.Result != `{"slept":2}` {
				t.Fatalf("%s %s, result %q", r.Code, r.Message, r.Result)
			}
			if r.Beats < 4 || r.Beats > 6 || r.MaxGap > 1.2 {
				t.Errorf("%d beats in 2 s, largest gap %.2f s, want one each 0.5 s", r.Beats, r.MaxGap)
			}
			if r.Seconds < 2 || r.Seconds > 3 {
				t.Errorf("sleeping 2 s took %.2f s", r.Seconds)
			}
			r = responses[1]
			if (r.Code != "Unimplemented" && r.Code != "UNIMPLEMENTED") || r.Message != `"tabular.nope" not implemented yet` {
				t.Errorf("an unknown function: %s %s", r.Code, r.Message)
			}
		})
	}
}
