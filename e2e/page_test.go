//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench"
)

// browser runs a scenario of node/page/scenarios.mjs in Chromium. setup is what it
// needs besides; answers are what it may ask for while it runs. What the scenario
// returns is read into done.
func browser(t *testing.T, scenario string, setup map[string]any, answers map[string]func(), done any) {
	t.Helper()
	setup["scenario"] = scenario
	setup["profile"] = browserProfile(t)
	setup["artifacts"] = repoFile(t, "e2e/artifacts/page")
	setup["iris"] = repoFile(t, "internal/tabular/iris.csv")
	first, err := json.Marshal(setup)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "node"), "node/page/main.mjs")
	w, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "the browser", cmd)
	say := func(line string) {
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say(string(first))
	for seen, limit := 0, time.After(5*time.Minute); ; {
		all, more := p.output.from(seen)
		for _, line := range all {
			seen++
			var said struct {
				Ask  string
				Done json.RawMessage
			}
			if json.Unmarshal([]byte(line), &said) != nil {
				continue
			}
			if said.Ask != "" {
				answers[said.Ask]()
				say("done")
			}
			if said.Done != nil {
				if err := json.Unmarshal(said.Done, done); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
		select {
		case <-more:
		case <-p.done:
			if all, _ := p.output.from(seen); len(all) == 0 {
				t.Fatalf("the scenario %s failed", scenario)
			}
		case <-limit:
			t.Fatalf("the scenario %s takes too long", scenario)
		}
	}
}

// browserProfile is a directory for a browser, which leads a process group of its own
// and outlives a scenario that is killed.
func browserProfile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(workDir, "chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("pkill", "-KILL", "-f", dir).Run() }) // fails when none is left
	return dir
}

func TestPage(t *testing.T) {
	t.Parallel()
	for _, scenario := range []string{"hello", "iris", "cancel"} {
		t.Run(scenario, func(t *testing.T) {
			p := startPod(t)
			var nothing any
			browser(t, scenario, map[string]any{"url": "http://" + p.addr + "/"}, nil, &nothing)
		})
	}
}

// Outputs are shown as what they are.
func TestPageKinds(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	dir := t.TempDir()
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 320, 200))); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"a.png":  picture.Bytes(),
		"a.wav":  wave(8000),
		"a.csv":  []byte("name,count\n\"say \"\"a, b\"\"\",1\r\n,2\n"),
		"a.txt":  []byte("plain, but of several lines\nof text\n"),
		"a.json": []byte(`{"a": [1, 2, {"b": null}]}`),
		"a.bin":  {0, 1, 2, 3, 0xff},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var nothing any
	browser(t, "kinds", map[string]any{"url": "http://" + p.addr + "/", "files": dir}, nil, &nothing)
}

// wave is a WAV file of silence: 8 bits, 8000 samples a second.
func wave(samples int) []byte {
	var b bytes.Buffer
	b.WriteString("RIFF")
	_ = binary.Write(&b, binary.LittleEndian, uint32(36+samples))
	b.WriteString("WAVEfmt ")
	_ = binary.Write(&b, binary.LittleEndian, []uint32{16, 1 | 1<<16, 8000, 8000, 1 | 8<<16})
	b.WriteString("data")
	_ = binary.Write(&b, binary.LittleEndian, uint32(samples))
	return append(b.Bytes(), bytes.Repeat([]byte{128}, samples)...)
}

// newGate gives a file that a model waits for, and a function that makes it: what a
// scenario has to see meanwhile may take as long as it likes.
func newGate(t *testing.T) (path string, open func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gate")
	return path, func() {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestPageFailure(t *testing.T) {
	t.Parallel()
	gate, open := newGate(t)
	p := startPod(t, "--exec", "--func", "fail", "--", "sh", "-c",
		`echo "looking for the cable" >&2; until [ -e "$0" ]; do sleep 0.1; done; echo "the cable is unplugged" >&2; exit 3`, gate)
	var nothing any
	browser(t, "failure", map[string]any{"url": "http://" + p.addr + "/"}, map[string]func(){"open": open}, &nothing)
}

// An uploaded is what scenarios that upload return.
type uploaded struct {
	digest
	Before int64   // bytes that an earlier page had sent
	Growth float64 // of the page's memory, in bytes
}

func TestPageUploadSurvivesKill(t *testing.T) {
	t.Parallel()
	p := startPodBelow(t)
	relay := startRelay(t, p.addr)
	const size = 512 << 20
	path, want := writePayload(t, bench.Random, size)
	var got uploaded
	browser(t, "upload", map[string]any{"url": "http://" + relay.addr + "/", "file": path}, map[string]func(){
		"kill": p.kill,
		"restart": func() {
			if _, err := tryPod(t, p.addr, p.dir); err != nil {
				t.Error(err)
			}
		},
	}, &got)
	if got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
	ratio := float64(relay.up.Load()) / size
	t.Logf("%.3fx the bytes over %d connections", ratio, relay.conns.Load())
	if ratio > 1.10 {
		t.Errorf("%.3fx the bytes were sent, want at most 1.10x", ratio)
	}
}

func TestPageReload(t *testing.T) {
	t.Parallel()
	gate, open := newGate(t)
	p := startModel(t)
	var nothing any
	browser(t, "reload", map[string]any{"url": "http://" + p.addr + "/", "gate": gate}, map[string]func(){"open": open}, &nothing)
}

func TestPageReopen(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	relay := startRelay(t, p.addr)
	const size = 256 << 20
	path, want := writePayload(t, bench.Random, size)
	var got uploaded
	browser(t, "reopen", map[string]any{"url": "http://" + relay.addr + "/", "file": path}, nil, &got)
	if got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
	if ratio := float64(relay.up.Load()) / size; ratio > 1.10 {
		t.Errorf("%.3fx the bytes were sent, want at most 1.10x: the upload has not gone on from %d", ratio, got.Before)
	}
}

func TestPageAsleep(t *testing.T) {
	t.Parallel()
	gate, open := newGate(t)
	p := startModel(t)
	relay := startRelay(t, p.addr)
	var nothing any
	browser(t, "asleep", map[string]any{"url": "http://" + relay.addr + "/", "gate": gate}, map[string]func(){"cut": relay.cut, "open": open}, &nothing)
}

func TestPageQueue(t *testing.T) {
	t.Parallel()
	gate, open := newGate(t)
	open() // for the pod's start
	p := startPod(t, "--instances", "1", "--worker-max-calls", "1", "--", "sh", "-c",
		`until rm "$0" 2>/dev/null; do sleep 0.1; done; exec node ../examples/node/worker.mjs`, gate)
	var nothing any
	browser(t, "queue", map[string]any{"url": "http://" + p.addr + "/"}, map[string]func(){"open": open}, &nothing)
}

// The page of a pod behind nginx, with timeouts of 2 s, on HTTP/1.1.
func TestPageThroughNginx(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	n := startNginx(t, "nginx", map[string]group{"xxx": toAddrs(p.addr)})
	var got struct{ Failed []string }
	browser(t, "patient", map[string]any{"url": "http://" + n.web + "/"}, nil, &got)
	if len(got.Failed) > 0 {
		t.Errorf("requests that failed: %v", got.Failed)
	}
}

// defaultConfig is what people have who have not thought of jobs: all of nginx's own
// choices, and little time.
const defaultConfig = `%s
pid %[2]s/pid;
error_log stderr notice;
events {}
http {
    access_log off;
    client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy;
    fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
    proxy_read_timeout 5s;
    server {
        listen %[3]s;
        location / { proxy_pass http://%[4]s; }
    }
}
`

// Behind an nginx as it is by default: bodies up to 1 MiB, requests and answers held
// back until they are complete.
func TestPageThroughDefaultNginx(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	n := &nginx{dir: t.TempDir(), name: "default", web: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	n.conf = filepath.Join(n.dir, "nginx.conf")
	if err := os.WriteFile(n.conf, fmt.Appendf(nil, defaultConfig, user, n.dir, n.web, p.addr), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.launch(t, tool(t, "nginx")); err != nil {
		t.Fatal(err)
	}
	data := randomBytes(20 << 20)
	var got uploaded
	browser(t, "unfriendly", map[string]any{"url": "http://" + n.web + "/", "file": writeFile(t, "data", data)}, nil, &got)
	if want := digestOf(data); got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
}

// Over a link of 2 MiB/s text goes in gzip.
func TestPageCompresses(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	relay := startRelay(t, p.addr)
	slow := startToxiproxy(t, relay.addr)
	if err := slow.add(toxic{"bandwidth", map[string]any{"rate": 2 << 10}}); err != nil {
		t.Fatal(err)
	}
	data := textBytes(48 << 20)
	var got uploaded
	browser(t, "slow", map[string]any{"url": "http://" + slow.addr + "/", "file": writeFile(t, "text", data)}, nil, &got)
	if want := digestOf(data); got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
	ratio := float64(relay.up.Load()) / float64(len(data))
	t.Logf("%.2fx the bytes", ratio)
	if ratio > 0.7 {
		t.Errorf("%.2fx the bytes were sent of a text over a slow link", ratio)
	}
}

func TestPageMemory(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	const size = 2 << 30
	path, want := writePayload(t, bench.Random, size)
	var got uploaded
	browser(t, "heap", map[string]any{"url": "http://" + p.addr + "/", "file": path}, nil, &got)
	if got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
	t.Logf("the page's memory grew by %.1f MiB", got.Growth/(1<<20))
	if got.Growth > 64<<20 {
		t.Errorf("the page's memory grew by %.1f MiB, want at most 64", got.Growth/(1<<20))
	}
}

// Nothing runs at the same time.
func TestPagePaint(t *testing.T) {
	p := startPod(t)
	var got struct {
		Shifts []struct {
			Value float64
			What  []string
		}
		First float64 `json:"first-contentful-paint"` // ms
	}
	browser(t, "paint", map[string]any{"url": "http://" + p.addr + "/"}, nil, &got)
	t.Logf("first contentful paint after %.0f ms", got.First)
	if got.First == 0 || got.First > 1000 {
		t.Errorf("first contentful paint after %.0f ms, want at most 1000", got.First)
	}
	sum := 0.0
	for _, s := range got.Shifts {
		sum += s.Value
	}
	if sum > 0.01 {
		t.Errorf("the layout shifts by %.3f: %v", sum, got.Shifts)
	}
}

// packedExample is the example's page, built by Vite against the package that npm
// packs of the module.
func packedExample(t *testing.T) string {
	t.Helper()
	web, dir := repoFile(t, "web"), t.TempDir()
	npm := func(args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	npm("npm", "pack", "--silent", "--pack-destination", dir, web)
	packages := filepath.Join(dir, "node_modules")
	if err := os.MkdirAll(filepath.Join(packages, "aipod"), 0o700); err != nil {
		t.Fatal(err)
	}
	tar, err := filepath.Glob(filepath.Join(dir, "aipod-*.tgz"))
	if err != nil || len(tar) != 1 {
		t.Fatalf("npm pack has made %v, %v", tar, err)
	}
	npm("tar", "-xzf", tar[0], "-C", filepath.Join(packages, "aipod"), "--strip-components", "1")
	for _, name := range []string{"@bufbuild", "@connectrpc"} { // as npm would install them
		if err := os.Symlink(filepath.Join(web, "node_modules", name), filepath.Join(packages, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"index.html", "main.ts"} {
		data, err := os.ReadFile(repoFile(t, "examples/browser/"+name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(web, "node_modules", ".bin")
	npm(filepath.Join(bin, "tsc"), "--noEmit", "--strict", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "main.ts")
	npm(filepath.Join(bin, "vite"), "build", "--logLevel", "warn")
	return filepath.Join(dir, "dist")
}

// A page of another origin, made with the module as a package: the browser lets it
// call the pod if the pod allows that, and doesn't otherwise.
func TestPageOfAnotherOrigin(t *testing.T) {
	t.Parallel()
	files := http.FileServer(http.Dir(packedExample(t)))
	allowed, other := httptest.NewServer(files), httptest.NewServer(files)
	defer allowed.Close()
	defer other.Close()
	p := startPod(t, "--cors-origin", allowed.URL)
	data := randomBytes(5 << 20)
	var got uploaded
	browser(t, "elsewhere", map[string]any{
		"pod": "http://" + p.addr, "allowed": allowed.URL, "other": other.URL, "file": writeFile(t, "data", data),
	}, nil, &got)
	if want := digestOf(data); got.digest != want {
		t.Errorf("the digest is %+v, want %+v", got.digest, want)
	}
}
