//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"

	"github.com/aipod/aipod/client"
)

// A toxiproxy is a real one, a process with one proxy in front of a pod.
type toxiproxy struct {
	*process
	api  string // URL
	addr string // of the proxy, host:port
}

func startToxiproxy(t *testing.T, upstream string) *toxiproxy {
	t.Helper()
	binary := tool(t, "toxiproxy-server")
	for range 10 {
		port := strconv.Itoa(freePort(t))
		p := &toxiproxy{
			process: start(t, "toxiproxy", exec.Command(binary, "-host", "127.0.0.1", "-port", port)),
			api:     "http://127.0.0.1:" + port,
		}
		for deadline := time.Now().Add(5 * time.Second); p.running() && time.Now().Before(deadline); {
			var answer struct{ Listen string }
			if p.post("/proxies", map[string]any{"name": "pod", "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true}, &answer) == nil {
				p.addr = answer.Listen
				return p
			}
			time.Sleep(20 * time.Millisecond)
		}
		p.kill()
	}
	t.Fatal("toxiproxy does not start")
	return nil
}

func (p *toxiproxy) post(path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return p.do(http.MethodPost, path, bytes.NewReader(text), answer)
}

func (p *toxiproxy) do(method, path string, body io.Reader, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.api+path, body)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("toxiproxy: %s: %s", res.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// toxics are what a proxy can do, by toxiproxy's names.
type toxic struct {
	kind       string
	attributes map[string]any
}

// add applies a toxic in both directions.
func (p *toxiproxy) add(toxics ...toxic) error {
	for _, x := range toxics {
		for _, stream := range []string{"upstream", "downstream"} {
			err := p.post("/proxies/pod/toxics", map[string]any{
				"name": x.kind + "_" + stream, "type": x.kind, "stream": stream, "attributes": x.attributes,
			}, nil)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *toxiproxy) remove(toxics ...toxic) error {
	for _, x := range toxics {
		for _, stream := range []string{"upstream", "downstream"} {
			if err := p.do(http.MethodDelete, "/proxies/pod/toxics/"+x.kind+"_"+stream, nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// phases of a job, by the events that tell that it is in one.
var phases = map[string]func(client.Event) bool{
	"upload": func(e client.Event) bool {
		b, ok := e.(client.Heartbeat)
		return ok && b.State == aipodv1.State_STATE_RECEIVING && b.Committed > 4<<20
	},
	"run": func(e client.Event) bool {
		b, ok := e.(client.Heartbeat)
		return ok && b.State == aipodv1.State_STATE_RUNNING
	},
	"download": func(e client.Event) bool {
		r, ok := e.(client.Received)
		return ok && r.Offset > 4<<20
	},
}

// during applies a toxic for a while.
func during(d time.Duration, x toxic) func(*toxiproxy) error {
	return func(p *toxiproxy) error {
		if err := p.add(x); err != nil {
			return err
		}
		time.Sleep(d)
		return p.remove(x)
	}
}

// TestToxiproxy has one thing after the other go wrong between client and pod.
func TestToxiproxy(t *testing.T) {
	t.Parallel()
	faults := map[string]func(*toxiproxy) error{
		// Connections are reset, also those made meanwhile.
		"reset": during(500*time.Millisecond, toxic{"reset_peer", map[string]any{"timeout": 0}}),
		// Bytes vanish, and nobody is told.
		"drop": during(3*time.Second, toxic{"timeout", map[string]any{"timeout": 0}}),
		// Nothing moves, and then all of it does.
		"stall": func(p *toxiproxy) error {
			if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			time.Sleep(10 * time.Second)
			return p.cmd.Process.Signal(syscall.SIGCONT)
		},
	}
	for name, fault := range faults {
		for phase, in := range phases {
			t.Run(name+"/"+phase, func(t *testing.T) {
				t.Parallel()
				var once sync.Once
				// So slow that each phase lasts.
				always := toxic{"bandwidth", map[string]any{"rate": 16 << 10}}
				toxicJob(t, 24<<20, []toxic{always}, func(e client.Event, do func(func(*toxiproxy) error)) {
					if in(e) {
						once.Do(func() { do(fault) })
					}
				})
				fired := true
				once.Do(func() { fired = false })
				if !fired {
					t.Error("the fault never came: the test proves nothing")
				}
			})
		}
	}
	for name, x := range map[string]struct {
		size  int
		toxic toxic
	}{
		"slices":    {256 << 10, toxic{"slicer", map[string]any{"average_size": 1, "size_variation": 0, "delay": 0}}},
		"bandwidth": {8 << 20, toxic{"bandwidth", map[string]any{"rate": 2 << 10}}},
		"latency":   {24 << 20, toxic{"latency", map[string]any{"latency": 100, "jitter": 20}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			toxicJob(t, x.size, []toxic{x.toxic}, func(client.Event, func(func(*toxiproxy) error)) {})
		})
	}
}

// toxicJob echoes a payload through a proxy with toxics. watch may do more to the
// proxy, beside the job.
func toxicJob(t *testing.T, size int, toxics []toxic, watch func(e client.Event, do func(func(*toxiproxy) error))) {
	t.Helper()
	p := mustCounting(t, "", podConfig{MaxAttempts: 1})
	proxy := startToxiproxy(t, p.addr)
	if err := proxy.add(toxics...); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	do := func(fault func(*toxiproxy) error) {
		wg.Go(func() {
			if err := fault(proxy); err != nil {
				t.Error(err)
			}
		})
	}
	job := jobCase{fn: "echo", payload: randomBytes(size), kwargs: countingKwargs{Millis: 1500}}
	kwargs, err := json.Marshal(job.kwargs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var trace []string
	c := newClient(t, client.Config{Addr: "http://" + proxy.addr})
	res, err := c.Run(ctx, client.Call{
		Func: "echo", Kwargs: kwargs, JobID: "toxic", Heartbeat: 200 * time.Millisecond,
		Payload: client.ReaderAt(bytes.NewReader(job.payload), int64(size)),
		Watch: func(e client.Event) {
			watch(e, do)
			if _, ok := e.(client.Reconnecting); ok {
				trace = append(trace, fmt.Sprintf("%+v", e))
			}
		},
	})
	if err == nil {
		err = job.check(res.JSON, res.Output)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(trace, "\n"))
	}
	t.Logf("%d streams, %.3f times the payload sent", res.Stats.Streams, float64(res.Stats.Sent)/float64(size))
	if n := runs(t, p.dir)["toxic"]; n != 1 {
		t.Errorf("the function ran %d times", n)
	}
	if over := res.Stats.Sent - int64(size) - int64(res.Stats.Streams)*mostResent; over > 0 {
		t.Errorf("%d bytes too many were sent", over)
	}
}
