package load

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/bench/measure"
)

func TestWarnings(t *testing.T) {
	procs, cpus := float64(runtime.GOMAXPROCS(0)), float64(runtime.NumCPU())
	lagging := measure.NewHistogram()
	for i := range 100 {
		lagging.Record(time.Duration(i) * time.Millisecond)
	}
	for name, test := range map[string]struct {
		run  measure.Run
		want string // empty is no warning
	}{
		"idle":       {measure.Run{Seconds: 10, Self: measure.Usage{CPU: 7.9 * procs}}, ""},
		"busy":       {measure.Run{Seconds: 10, Self: measure.Usage{CPU: 8.1 * procs}}, "the generator is the bottleneck: it took 81 %"},
		"both":       {measure.Run{Seconds: 10, Self: measure.Usage{CPU: 4 * cpus}, Pod: &measure.Usage{CPU: 5.5 * cpus}}, "took 95 %"},
		"both, half": {measure.Run{Seconds: 10, Self: measure.Usage{CPU: 2 * cpus}, Pod: &measure.Usage{CPU: 3 * cpus}}, ""},
		"lag":        {measure.Run{Seconds: 10, Lag: lagging}, "the generator lags"},
		"nothing":    {measure.Run{}, ""},
	} {
		got := strings.Join(warnings(&test.run), "\n")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestPodPID(t *testing.T) {
	for _, addr := range []string{"http://192.0.2.1:80", "http://pod.example:80", "http://127.0.0.1", "://", "http://127.0.0.1:1"} {
		if pid := podPID(addr); pid != 0 {
			t.Errorf("%s is the process %d", addr, pid)
		}
	}
}
