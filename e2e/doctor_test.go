//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/doctor"
)

// doctorBinary is the client, built once.
var doctorBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(workDir, "client")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/client").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the client: %w: %s", err, out)
	}
	return path, nil
})

// A diagnosis is what client doctor says of an address.
type diagnosis struct {
	t     *testing.T
	found []doctor.Finding
}

// diagnose runs the doctor, which has to exit with a code.
func diagnose(t *testing.T, addr string, exit int, args ...string) *diagnosis {
	t.Helper()
	binary, err := doctorBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "client doctor "+addr, exec.Command(binary, append([]string{"doctor", "http://" + addr, "--json"}, args...)...))
	code := p.wait(t, 50*time.Second)
	d := &diagnosis{t: t}
	lines, _ := p.output.from(0)
	for _, line := range lines {
		var f doctor.Finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("not a finding: %q", line)
		}
		d.found = append(d.found, f)
	}
	if code != exit {
		t.Errorf("%s: exit %d, want %d", addr, code, exit)
		for _, f := range d.found {
			if f.Level != doctor.OK {
				t.Logf("%s %s %s: %s", f.Level, f.Kind, f.Over, f.Text)
			}
		}
	}
	return d
}

// problem expects a problem whose value is near what it should be, as a share, and
// whose advice has a line of nginx.
func (d *diagnosis) problem(over string, kind doctor.Kind, want, near float64, nginx string) {
	d.t.Helper()
	for _, f := range d.found {
		if f.Level == doctor.Problem && f.Kind == kind && f.Over == over {
			if math.Abs(f.Value-want) > want*near {
				d.t.Errorf("%s over %s is %v %s, want %v", kind, over, f.Value, f.Unit, want)
			}
			if !strings.Contains(f.Nginx, nginx) || f.Costs == "" || f.HAProxy == "" || f.Envoy == "" {
				d.t.Errorf("%s has no advice, or not %q: %+v", kind, nginx, f)
			}
			return
		}
	}
	d.t.Errorf("the problem %s over %s was not found", kind, over)
}

// problems are the kinds of all of them.
func (d *diagnosis) problems() map[doctor.Kind]bool {
	kinds := map[doctor.Kind]bool{}
	for _, f := range d.found {
		if f.Level == doctor.Problem {
			kinds[f.Kind] = true
		}
	}
	return kinds
}

// only expects that nothing else is a problem.
func (d *diagnosis) only(kinds ...doctor.Kind) {
	d.t.Helper()
	got := d.problems()
	for _, kind := range kinds {
		delete(got, kind)
	}
	if len(got) > 0 {
		d.t.Errorf("there are other problems: %v", got)
	}
}

// startDeployed starts nginx with the shipped file, its timeouts included, in front
// of a pod, with changes.
func startDeployed(t *testing.T, name string, p *pod, change func(*adaptation)) *nginx {
	t.Helper()
	for range 10 {
		n := &nginx{
			dir: t.TempDir(), name: name,
			grpc: fmt.Sprintf("127.0.0.1:%d", freePort(t)), web: fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		}
		conf := &adaptation{t, shippedConfig(t)}
		conf.paths(n.dir)
		conf.addresses(n.grpc, n.web, map[string]group{"xxx": toAddrs(p.addr)})
		if change != nil {
			change(conf)
		}
		n.conf = filepath.Join(n.dir, "nginx.conf")
		if err := os.WriteFile(n.conf, []byte(conf.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := n.launch(t, tool(t, "nginx"))
		if err == nil {
			return n
		}
		if _, busy := n.waitLine(0, func(line string) bool { return strings.Contains(line, "Address already in use") }); busy != nil {
			t.Fatal(err)
		}
		n.kill()
	}
	t.Fatal("no free ports for nginx")
	return nil
}

// TestDoctor has the doctor look at proxies that are set up well and badly.
func TestDoctor(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	short := []string{"--silence", "6s", "--max", "7s"}
	t.Run("a bad nginx", func(t *testing.T) {
		t.Parallel()
		n := startDeployed(t, "bad", p, func(a *adaptation) {
			a.replace(2, `(?m)^(    (?:grpc|proxy)_read_timeout\s+)600s;`, "${1}3s;")
			a.replace(1, `client_max_body_size 0;`, "client_max_body_size 1m;")
			a.replace(1, `proxy_buffering off;`, "proxy_buffering on;")
			a.replace(1, `proxy_request_buffering off;`, "proxy_request_buffering on;")
			// Its default. With 1.1, small messages pass buffering at once.
			a.replace(1, `proxy_http_version 1\.1;`, "proxy_http_version 1.0;")
			a.replace(1, `keepalive_requests 1000000;`, "keepalive_requests 100;")
		})
		t.Run("h2", func(t *testing.T) {
			t.Parallel()
			d := diagnose(t, n.grpc, 1, short...)
			d.problem("h2", doctor.IdleTimeout, 3, 0.2, "grpc_read_timeout")
			d.problem("h2", doctor.MessageLimit, 1<<20, 0.004, "client_max_body_size 0;")
			d.problem("h2", doctor.UploadLimit, 1<<20, 0.004, "client_max_body_size 0;")
			d.problem("h2", doctor.Goaway, 100, 0, "keepalive_requests")
			d.only(doctor.IdleTimeout, doctor.MessageLimit, doctor.UploadLimit, doctor.Goaway)
		})
		t.Run("HTTP/1.1", func(t *testing.T) {
			t.Parallel()
			d := diagnose(t, n.web, 1, short...)
			d.problem("http/1.1", doctor.IdleTimeout, 3, 0.2, "proxy_read_timeout")
			d.problem("http/1.1", doctor.MessageLimit, 1<<20, 0.004, "client_max_body_size 0;")
			d.problem("http/1.1", doctor.UploadLimit, 1<<20, 0.004, "client_max_body_size 0;")
			d.problem("http/1.1", doctor.RequestBuffering, 0, 0, "proxy_request_buffering off;")
			d.problem("http/1.1", doctor.ResponseBuffering, 0, 0, "proxy_buffering off;")
			d.only(doctor.IdleTimeout, doctor.MessageLimit, doctor.UploadLimit, doctor.RequestBuffering, doctor.ResponseBuffering)
		})
	})
	t.Run("a good nginx", func(t *testing.T) {
		t.Parallel()
		n := startDeployed(t, "good", p, nil)
		for _, addr := range []string{n.grpc, n.web} {
			t.Run(addr, func(t *testing.T) {
				t.Parallel()
				diagnose(t, addr, 0, short...).only()
			})
		}
	})
	t.Run("a pod", func(t *testing.T) {
		t.Parallel()
		diagnose(t, p.addr, 0, short...).only()
	})
	t.Run("uploads must not stall", func(t *testing.T) {
		t.Parallel()
		n := startDeployed(t, "stall", p, func(a *adaptation) {
			a.replace(1, `(?m)^    client_body_timeout 600s;`, "    client_body_timeout 2s;")
		})
		d := diagnose(t, n.web, 1, short...)
		d.problem("http/1.1", doctor.UploadIdleTimeout, 2, 0.2, "client_body_timeout")
		d.only(doctor.UploadIdleTimeout)
	})
	t.Run("far away", func(t *testing.T) {
		t.Parallel()
		const rtt = 80.0 // ms
		proxy := startToxiproxy(t, p.addr)
		if err := proxy.add(toxic{"latency", map[string]any{"latency": rtt / 2}}); err != nil {
			t.Fatal(err)
		}
		d := diagnose(t, proxy.addr, 0, short...)
		facts := map[string]float64{}
		for _, f := range d.found {
			for name, value := range f.Facts {
				if f.Over == "h2" {
					facts[name] = value
				}
			}
		}
		for _, name := range []string{"ping_least_ms", "call_least_ms"} {
			if got := facts[name]; math.Abs(got-rtt) > rtt*0.2 {
				t.Errorf("%s is %v, want %v", name, got, rtt)
			}
		}
		if got, want := facts["window_bytes_per_second"], float64(8<<20)/(rtt/1000); math.Abs(got-want) > want*0.2 {
			t.Errorf("windows allow %v bytes/s, want %v", got, want)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		binary, err := doctorBinary()
		if err != nil {
			t.Fatal(err)
		}
		c := start(t, "client doctor of nobody", exec.Command(binary, "doctor", "127.0.0.1:1"))
		if code := c.wait(t, 10*time.Second); code != 3 {
			t.Errorf("exit %d, want 3", code)
		}
	})
	t.Cleanup(func() {
		if len(p.records("job created", nil)) == 0 {
			t.Error("no jobs were made: that none are left proves nothing")
		}
		binary, err := doctorBinary()
		if err != nil {
			t.Fatal(err)
		}
		if jobs, err := exec.Command(binary, "jobs", "ls", "--json", "--addr", p.addr).Output(); err != nil || strings.Contains(string(jobs), "doctor-") {
			t.Errorf("jobs are left behind: %s, %v", jobs, err)
		}
	})
}
