//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNodeJobs runs jobs in half-duplex steps with connect-node, which is what a
// browser can do.
func TestNodeJobs(t *testing.T) {
	t.Parallel()
	p := mustCounting(t, "", podConfig{})
	stubs, err := makeNodeStubs()
	if err != nil {
		t.Fatal(err)
	}
	payload := randomBytes(5<<20 + 3)
	path := writeFile(t, "payload", payload)
	for _, s := range []struct{ name, protocol, http string }{
		{"connect HTTP/1.1", "connect", "1.1"},
		{"grpc-web HTTP/1.1", "grpc-web", "1.1"},
		{"grpc-web HTTP/2", "grpc-web", "2"},
	} {
		for _, fn := range []string{"digest", "echo"} {
			t.Run(s.name+"/"+fn, func(t *testing.T) {
				t.Parallel()
				id := strings.NewReplacer(" ", "-", "/", "-", ".", "").Replace(s.name) + "-" + fn
				input, err := json.Marshal(map[string]any{
					"stubs": stubs, "addr": p.addr, "protocol": s.protocol, "http": s.http,
					"job": id, "func": fn, "kwargs": `{"millis": 500}`, "payload": path, "piece": 1 << 20,
				})
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(tool(t, "node"), "node/job.mjs")
				cmd.Stdin = strings.NewReader(string(input))
				node := start(t, "the Node client", cmd)
				if code := node.wait(t, time.Minute); code != 0 {
					t.Fatalf("the Node client's exit code is %d", code)
				}
				var got struct {
					States         []string
					Result, Output string
					Seqs           []int
					Watches        int
				}
				all, _ := node.output.from(0)
				if err := json.Unmarshal([]byte(all[len(all)-1]), &got); err != nil {
					t.Fatal(err)
				}
				output, err := base64.StdEncoding.DecodeString(got.Output)
				if err == nil {
					err = jobCase{fn: fn, payload: payload}.check(json.RawMessage(got.Result), output)
				}
				if err != nil {
					t.Error(err)
				}
				if !slices.IsSorted(got.Seqs) || len(slices.Compact(slices.Clone(got.Seqs))) != len(got.Seqs) {
					t.Errorf("events came twice or out of order: %v", got.Seqs)
				}
				if last := len(got.States) - 1; last < 0 || got.States[0] != "RECEIVING" || got.States[last] != "SUCCEEDED" {
					t.Errorf("the states were %v", got.States)
				}
				if got.Watches < 3 {
					t.Errorf("only %d streams of events: the test proves nothing", got.Watches)
				}
				if n := runs(t, p.dir)[id]; n != 1 {
					t.Errorf("the function ran %d times", n)
				}
			})
		}
	}
}
