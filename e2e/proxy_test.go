//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/transport"
)

func TestNginxTakesTheShippedConfig(t *testing.T) {
	t.Parallel()
	binary := tool(t, "nginx")
	check := func(file, dir string) {
		t.Helper()
		out, err := exec.Command(binary, "-t", "-p", dir, "-c", file, "-e", "stderr").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "test is successful") || strings.Contains(string(out), "[warn]") {
			t.Errorf("nginx -t: %v\n%s", err, out)
		}
	}
	dir := t.TempDir()
	conf := &adaptation{t, shippedConfig(t)}
	conf.paths(dir)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf.text), 0o600); err != nil {
		t.Fatal(err)
	}
	check(file, dir)
	// Its own paths are root's.
	if os.Geteuid() == 0 {
		check(repoFile(t, "deploy/nginx.conf"), dir)
	}
}

func TestNginxChainBearsLongSilence(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	t.Run("sleep 15 s", func(t *testing.T) {
		t.Parallel()
		r := do(t.Context(), c.outer.grpc, request{fn: "sleep", kwargs: `{"seconds":15}`})
		if r.err != nil || string(r.result) != `{"slept":15}` {
			t.Fatalf("result %s, %v after %v", r.result, r.err, r.took)
		}
		if r.beats < 15 || r.beats > 17 || r.gap > cut || r.took > 16*time.Second {
			t.Errorf("%d beats, largest gap %v, took %v", r.beats, r.gap, r.took)
		}
	})
	// The same call without heartbeats, which shows that they are what keeps it.
	t.Run("sleep 15 s with a heartbeat of 30 s is cut", func(t *testing.T) {
		t.Parallel()
		r := do(t.Context(), c.outer.grpc, request{
			fn: "sleep", kwargs: `{"seconds":15}`, header: map[string]string{"x-heartbeat": "30s"},
		})
		if r.err == nil {
			t.Fatalf("result %s", r.result)
		}
		if r.took < cut-200*time.Millisecond || r.took > cut+1500*time.Millisecond {
			t.Errorf("it was cut after %v, want %v: %v", r.took, cut, r.err)
		}
		// The function ends with its caller, for the job has no name.
		c.pods["xxx"].mustRecord(t, 5*time.Second, "job ended", map[string]string{"func": "sleep", "state": "CANCELED"})
	})
	t.Run("sleep 6 s in Python", func(t *testing.T) {
		t.Parallel()
		r := seed(t, c.outer.grpc, seedCall{fn: "sleep", kwargs: `{"seconds":6}`})
		if r.Code != "OK" || string(r.Result) != `{"slept": 6}` || r.Beats < 6 {
			t.Errorf("got %v", r)
		}
	})
	t.Run("upload that stalls 5 s", func(t *testing.T) {
		t.Parallel()
		data := randomBytes(16 << 20)
		r := do(t.Context(), c.outer.grpc, request{fn: "sha256", payload: newStallingReader(data, 5*time.Second)})
		if r.err != nil {
			t.Fatalf("%v after %v", r.err, r.took)
		}
		expectDigest(t, r.result, digestOf(data))
		if r.took < 5*time.Second || r.beats < 5 || r.gap > cut {
			t.Errorf("%d beats, largest gap %v, took %v", r.beats, r.gap, r.took)
		}
	})
	t.Run("upload that stalls 5 s with a heartbeat of 30 s is cut", func(t *testing.T) {
		t.Parallel()
		r := do(t.Context(), c.outer.grpc, request{
			fn: "sha256", payload: newStallingReader(randomBytes(16<<20), 5*time.Second), header: map[string]string{"x-heartbeat": "30s"},
		})
		if r.err == nil || r.took < cut-200*time.Millisecond || r.took > cut+2*time.Second {
			t.Errorf("result %s, %v after %v, want a cut after %v", r.result, r.err, r.took, cut)
		}
	})
	t.Run("upload that stalls 5 s in Python", func(t *testing.T) {
		t.Parallel()
		data := randomBytes(16 << 20)
		r := seed(t, c.outer.grpc, seedCall{
			fn: "sha256", payload: writeFile(t, "random", data), stallAt: 8 << 20, stall: 5 * time.Second,
		})
		if r.Code != "OK" || r.Seconds < 5 || r.Beats < 5 || r.MaxGap > cut.Seconds() {
			t.Fatalf("got %v", r)
		}
		var got digest
		r.decodeResult(t, &got)
		if got != digestOf(data) {
			t.Errorf("the pod says %+v", got)
		}
	})
	for _, stack := range stacks {
		if stack.HTTP != "1.1" {
			continue
		}
		t.Run("sleep 6 s by "+stack.Name, func(t *testing.T) {
			t.Parallel()
			stack.Addr, stack.Func, stack.Kwargs = c.outer.web, "sleep", `{"seconds":6}`
			r := node(t, 30*time.Second, []nodeCall{stack})[0]
			if r.Code != "OK" || r.Result != `{"slept":6}` {
				t.Fatalf("%s %s, result %q", r.Code, r.Message, r.Result)
			}
			if r.Beats < 6 || r.MaxGap > cut.Seconds() || r.Seconds > 7 {
				t.Errorf("%d beats, largest gap %.2f s, took %.2f s", r.Beats, r.MaxGap, r.Seconds)
			}
		})
	}
	t.Run("sleep 6 s by connect-node with a heartbeat of 30 s is cut", func(t *testing.T) {
		t.Parallel()
		r := node(t, 30*time.Second, []nodeCall{{
			Name: "silent", Library: "connect-node", Protocol: "connect", HTTP: "1.1", Addr: c.outer.web,
			Func: "sleep", Kwargs: `{"seconds":6}`, Headers: map[string]string{"x-heartbeat": "30s"},
		}})[0]
		if r.Code == "OK" || r.Result != "" || r.Seconds < cut.Seconds()-0.2 || r.Seconds > cut.Seconds()+1.5 {
			t.Errorf("%s, result %q after %.2f s, want a cut after %v", r.Code, r.Result, r.Seconds, cut)
		}
	})
}

// TestNginxCutsAPlainCall sends a call to a server that is no pod: it sleeps
// silently and then answers, as any unary RPC does.
func TestNginxCutsAPlainCall(t *testing.T) {
	t.Parallel()
	addr := startSilent(t, cut+2*time.Second)
	n := startNginx(t, "of the silent server", map[string]group{"xxx": toAddrs(addr)})
	client := transport.NewHTTPClient(transport.ClientConfig{})
	t.Cleanup(client.CloseIdleConnections)
	opts, err := transport.ClientOptions(transport.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	call := func(base string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		res, err := connect.NewClient[ai.Raw, ai.Raw](client, base+aiconnect.AIChaosProcedure, opts...).
			CallUnary(ctx, connect.NewRequest(&ai.Raw{Data: []byte("{}")}))
		if err != nil {
			return "", err
		}
		return string(res.Msg.GetData()), nil
	}
	if got, err := call("http://" + addr); err != nil || got != `"silent"` {
		t.Fatalf("without nginx: %q, %v", got, err)
	}
	begun := time.Now()
	got, err := call("http://" + n.grpc)
	took := time.Since(begun)
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "no pod has answered the proxy in time") {
		t.Errorf("got %q, %v, want UNAVAILABLE", got, err)
	}
	if took < cut-200*time.Millisecond || took > cut+time.Second {
		t.Errorf("it was cut after %v, want %v", took, cut)
	}
	eventually(t, 2*time.Second, "the access log", func() error {
		if log := n.access(t); !strings.Contains(log, "pod_status=504") {
			return fmt.Errorf("no 504 in %q", log)
		}
		return nil
	})
	// Browsers see the 504 itself.
	res, err := http.Post("http://"+n.web+aiconnect.AIChaosProcedure, "application/proto", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a browser gets %s, want 504", res.Status)
	}
}

// startSilent starts a server for unary calls of chaos that say nothing for a
// while.
func startSilent(t *testing.T, silence time.Duration) string {
	t.Helper()
	return serve(t, connect.NewUnaryHandler(aiconnect.AIChaosProcedure,
		func(ctx context.Context, _ *connect.Request[ai.Raw]) (*connect.Response[ai.Raw], error) {
			select {
			case <-time.After(silence):
			case <-ctx.Done():
			}
			return connect.NewResponse(&ai.Raw{Data: []byte(`"silent"`)}), nil
		}))
}

// serve starts a server that is no pod, for HTTP/1.1 and HTTP/2.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := transport.NewServer(transport.ServerConfig{}, handler)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return ln.Addr().String()
}

func TestNginxChoosesByXUpstream(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	// hello's job id tells in which pod's log to look for it.
	for header, name := range map[string]string{"xxx": "xxx", "yyy": "yyy", "zzz": "zzz", "": "xxx"} {
		id := "to-" + header
		r := do(t.Context(), c.outer.grpc, request{fn: "hello", header: map[string]string{"x-upstream": header, "x-job-id": id}})
		if r.err != nil {
			t.Errorf("x-upstream %q: %v", header, r.err)
			continue
		}
		if got := r.header.Get("x-job-id"); got != id {
			t.Errorf("x-upstream %q: the job id is %q", header, got)
		}
		c.pods[name].mustRecord(t, 2*time.Second, "job ended", map[string]string{"job": id, "state": "SUCCEEDED"})
		for other, p := range c.pods {
			if other != name && len(p.records("job ended", map[string]string{"job": id})) > 0 {
				t.Errorf("x-upstream %q went to %s", header, other)
			}
		}
	}
	// No header at all, from the client that the configuration is for.
	if r := seed(t, c.outer.grpc, seedCall{fn: "hello", metadata: []string{"x-job-id=without"}}); r.Code != "OK" {
		t.Errorf("without x-upstream: %v", r)
	}
	c.pods["xxx"].mustRecord(t, 2*time.Second, "job ended", map[string]string{"job": "without"})

	// Browsers.
	for name, p := range c.pods {
		id := "web-" + name
		r := node(t, 20*time.Second, []nodeCall{{
			Name: name, Library: "connect-node", Protocol: "grpc-web", HTTP: "1.1", Addr: c.outer.web,
			Func: "hello", Headers: map[string]string{"x-upstream": name, "x-job-id": id},
		}})[0]
		if r.Code != "OK" {
			t.Errorf("%s: %s %s", name, r.Code, r.Message)
		}
		p.mustRecord(t, 2*time.Second, "job ended", map[string]string{"job": id})
	}
}

func TestNginxRefusesUnknownUpstreams(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	n := startNginx(t, "of one pod", map[string]group{"xxx": toAddrs(p.addr)})
	const reason = "the proxy knows no upstream of the name in x-upstream"
	// The second is the address of a pod that may be called by its name only.
	for _, name := range []string{"nope", p.addr, "xxx_web"} {
		r := do(t.Context(), n.grpc, request{fn: "hello", header: map[string]string{"x-upstream": name}})
		if r.code() != connect.CodeUnimplemented || !strings.Contains(r.err.Error(), reason) || r.took > time.Second {
			t.Errorf("%s: %v after %v", name, r.err, r.took)
		}
	}
	// The clients of the seed don't retry that, and don't wait for their upload.
	s := seed(t, n.grpc, seedCall{
		fn: "sha256", metadata: []string{"x-upstream=nope"},
		payload: writeFile(t, "random", randomBytes(1<<20)), stallAt: 64 << 10, stall: time.Minute,
	})
	if s.Code != "UNIMPLEMENTED" || s.Details != reason || s.Seconds > 1 {
		t.Errorf("Python: %v", s)
	}
	for _, r := range node(t, 20*time.Second, []nodeCall{
		{Name: "grpc-js", Library: "grpc-js", Addr: n.grpc, Func: "hello", Headers: map[string]string{"x-upstream": "nope"}},
		{
			Name: "connect HTTP/1.1", Library: "connect-node", Protocol: "connect", HTTP: "1.1", Addr: n.web,
			Func: "hello", Headers: map[string]string{"x-upstream": "nope"},
		},
		{
			Name: "grpc-web HTTP/1.1", Library: "connect-node", Protocol: "grpc-web", HTTP: "1.1", Addr: n.web,
			Func: "hello", Headers: map[string]string{"x-upstream": "nope"},
		},
	}) {
		if r.Code != "UNIMPLEMENTED" && r.Code != "Unimplemented" {
			t.Errorf("%s: %s %s", r.Name, r.Code, r.Message)
		}
	}
	// A browser that only looks gets words.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.web+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-upstream", "nope")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusNotFound || !bytes.Contains(body, []byte(reason)) {
		t.Errorf("a browser gets %s: %s", res.Status, body)
	}
	if len(p.records("job ended", nil)) > 0 {
		t.Error("the pod has got a call")
	}
}

func TestNginxSaysUnavailableWhenNoPodIsThere(t *testing.T) {
	t.Parallel()
	n := startNginx(t, "of nobody", nil)
	r := do(t.Context(), n.grpc, request{fn: "hello"})
	if r.code() != connect.CodeUnavailable || r.took > time.Second {
		t.Errorf("%v after %v, want UNAVAILABLE at once", r.err, r.took)
	}
}

func TestNginxPassesOnAllServices(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	if got := strings.Fields(mustGrpcurl(t, c.outer.grpc, "list")); strings.Join(got, " ") != strings.Join(allServices, " ") {
		t.Errorf("list: %v, want %v", got, allServices)
	}
	out := mustGrpcurl(t, c.outer.grpc, "-d", `{"list_services":""}`, "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	if !strings.Contains(out, `"name": "ai.AI"`) {
		t.Errorf("reflection v1alpha: %s", out)
	}
	if out := mustGrpcurl(t, c.outer.grpc, "-H", "x-upstream: yyy", "grpc.health.v1.Health/Check"); !strings.Contains(out, `"SERVING"`) {
		t.Errorf("health: %s", out)
	}
	if out := mustGrpcurl(t, c.outer.grpc, "-H", "x-upstream: zzz", "aipod.v1.JobService/ListFunctions"); !strings.Contains(out, `"model": "tabular"`) {
		t.Errorf("ListFunctions: %s", out)
	}
	_, err := grpcurl(t, c.outer.grpc, "-proto", repoFile(t, "e2e/testdata/other.proto"), "-import-path", repoFile(t, "e2e/testdata"), "other.Other/Call")
	expectGrpcurlError(t, err, "Unimplemented", "the proxy passes on no such service")
	if status, err := health(t.Context(), c.outer.web, "ai.AI"); err != nil || status != "SERVING" {
		t.Errorf("health for browsers: %s, %v", status, err)
	}
}

// The same job id leads to the same pod; calls without one are spread.
func TestNginxHashesByJobID(t *testing.T) {
	t.Parallel()
	pods := []*pod{startPod(t), startPod(t)}
	n := startNginx(t, "of two pods", map[string]group{"xxx": toAddrs(pods[0].addr, pods[1].addr)})
	where := func(id string) int {
		for i, p := range pods {
			if len(p.records("job ended", map[string]string{"job": id})) > 0 {
				return i
			}
		}
		return -1
	}
	find := func(id string) int { // the record may come after the answer
		eventually(t, 2*time.Second, "the job's record", func() error {
			if where(id) < 0 {
				return fmt.Errorf("no pod has %s", id)
			}
			return nil
		})
		return where(id)
	}
	seen := map[int]int{}
	for i := range 20 {
		r := do(t.Context(), n.grpc, request{fn: "hello"})
		if r.err != nil {
			t.Fatalf("call %d: %v", i, r.err)
		}
		seen[find(r.header.Get("x-job-id"))]++
	}
	// By chance all 20 would meet one pod in 2 of a million runs.
	if seen[0] == 0 || seen[1] == 0 {
		t.Errorf("20 calls without a job id: %v", seen)
	}
	spread := map[int]bool{}
	for i := range 20 {
		id := fmt.Sprintf("job-%d", i)
		for range 3 {
			if r := do(t.Context(), n.grpc, request{fn: "hello", header: map[string]string{"x-job-id": id}}); r.err != nil {
				t.Fatalf("%s: %v", id, r.err)
			}
		}
		spread[find(id)] = true
		// The pod that has the job answers the repeated calls with its result; the
		// other would have run it again.
		var counts [2]int
		for i, p := range pods {
			counts[i] = len(p.records("job ended", map[string]string{"job": id}))
		}
		if counts != [2]int{1, 0} && counts != [2]int{0, 1} {
			t.Errorf("%s was run %v times", id, counts)
		}
	}
	if len(spread) != 2 {
		t.Errorf("all job ids led to one pod")
	}
}

// One connection of a gRPC client is used for more calls than nginx allows by
// default.
func TestNginxKeepsConnectionsOver1000Calls(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	n := startNginx(t, "of one pod", map[string]group{"xxx": toAddrs(p.addr)})
	r := startRelay(t, n.grpc)
	client := transport.NewHTTPClient(transport.ClientConfig{})
	t.Cleanup(client.CloseIdleConnections)
	opts, err := transport.ClientOptions(transport.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	health := connect.NewClient[ai.Raw, ai.Raw](client, "http://"+r.addr+"/grpc.health.v1.Health/Check", opts...)
	for i := range 1100 {
		// An empty Raw is an empty HealthCheckRequest on the wire.
		if _, err := health.CallUnary(ctx, connect.NewRequest(&ai.Raw{})); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if got := r.conns.Load(); got != 1 {
		t.Errorf("%d connections were made, want 1", got)
	}
}

func TestNginxPassesOnOddMetadata(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "0")
	}))
	n := startNginx(t, "of a listener", map[string]group{"xxx": toAddrs(addr)})
	long := strings.Repeat("x", 20<<10)
	r := do(t.Context(), n.grpc, request{fn: "hello", header: map[string]string{"team_name": "a", "team.name": "b", "long": long}})
	select {
	case header := <-got:
		if header.Get("team_name") != "a" || header.Get("team.name") != "b" || header.Get("long") != long {
			t.Errorf("the pod would get %v", header)
		}
	default:
		t.Errorf("nothing arrived: %v", r.err)
	}
}
