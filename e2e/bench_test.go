//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

// benchRun runs a load on a pod and returns its only run.
func benchRun(t *testing.T, p *pod, args ...string) *measure.Run {
	t.Helper()
	binary, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	out := mustRun(t, 2*time.Minute, binary, append(append([]string{"bench"}, args...), "--json", "--addr", "http://"+p.addr)...)
	r := new(measure.Report)
	if err := json.Unmarshal([]byte(out), r); err != nil || len(r.Runs) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return r.Runs[0]
}

// TestBenchCuts sends 64 MiB through connections that carry 8 MiB each: no job is
// lost, and little is sent twice.
func TestBenchCuts(t *testing.T) {
	t.Parallel()
	const size, cut = 64 << 20, 8 << 20
	p := startPod(t)
	for _, protocol := range []string{"grpc", "connect", "grpcweb"} {
		run := benchRun(t, p, "cuts", "-n", "2", "--size", "64MiB", "--cut-bytes", "8MiB", "--protocol", protocol, "--assert", "lost==0,errors==0")
		c := run.Cuts
		if run.Calls != 2 || c.Lost != 0 || run.Sent != 2*size+c.Resent {
			t.Errorf("%s: %d calls, %d bytes sent, %+v", protocol, run.Calls, run.Sent, c)
		}
		// So many connections are full before all of it is there.
		if least := int64(2 * size / cut); c.Cut < least || c.Cut > 2*least {
			t.Errorf("%s: %d connections were cut, want %d or some more", protocol, c.Cut, least)
		}
		if c.Resent > size/2 {
			t.Errorf("%s: %d of %d bytes were sent again", protocol, c.Resent, run.Sent)
		}
	}
	p.expectNoPayloads(t)
}

// TestBenchMeasuresThePod finds the process of a pod and what it takes.
func TestBenchMeasuresThePod(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	run := benchRun(t, p, "upload", "-n", "8", "--size", "16MiB")
	if run.Pod == nil || run.Pod.PID != p.cmd.Process.Pid || run.Pod.CPU <= 0 {
		t.Fatalf("%+v, want the process %d", run.Pod, p.cmd.Process.Pid)
	}
	if peak := p.peakRSS(t); run.Pod.PeakRSS == 0 || run.Pod.PeakRSS > peak {
		t.Errorf("the peak RSS is %d, /proc says %d", run.Pod.PeakRSS, peak)
	}
}

// TestBenchThousandIdle lets calls wait on few connections: all get their
// heartbeats.
func TestBenchThousandIdle(t *testing.T) {
	t.Parallel()
	p := startPod(t, "--queue", "2000")
	for _, service := range []string{"job", "ai"} {
		run := benchRun(t, p, "idle", "--conns", "4", "--streams", "250", "-d", "4s", "--service", service, "--assert", "errors==0")
		if run.Canceled != 1000 || run.Beats < 3000 || run.MissedBeats > 10 {
			t.Errorf("%s: %d waited, %d heartbeats, %d missed", service, run.Canceled, run.Beats, run.MissedBeats)
		}
		t.Logf("%s: lateness p50 %v, p99 %v, max %v; longest silence %v", service, run.Lateness.Percentile(50),
			run.Lateness.Percentile(99), run.Lateness.Max(), run.Silence.Max())
	}
}
