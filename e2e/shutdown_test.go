//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
)

// expectRefused makes a call that a pod that shuts down must not take.
func expectRefused(t *testing.T, addr string) {
	t.Helper()
	r := do(t.Context(), addr, request{fn: "hello"})
	if r.code() != connect.CodeUnavailable || r.beats > 0 {
		t.Errorf("a new call: %v after %d beats, want UNAVAILABLE before any", r.err, r.beats)
	}
	if r.took > time.Second {
		t.Errorf("a new call was refused only after %v", r.took)
	}
}

func expectHealth(t *testing.T, addr, want string) {
	t.Helper()
	for _, service := range []string{"", "ai.AI", "aipod.v1.JobService"} {
		got, err := health(t.Context(), addr, service)
		if err != nil || got != want {
			t.Errorf("health of %q: %s, %v, want %s", service, got, err, want)
		}
	}
}

// expectExit waits for the pod's end, which has to come within a time after
// another event.
func expectExit(t *testing.T, p *pod, code int, after time.Time, within time.Duration) {
	t.Helper()
	if got := p.wait(t, within+10*time.Second); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if took := p.ended.Sub(after); took > within {
		t.Errorf("the pod ended %v later, want at most %v", took, within)
	}
	if conn, err := net.DialTimeout("tcp", p.addr, time.Second); err == nil {
		_ = conn.Close()
		t.Error("somebody still listens on the pod's port")
	}
}

func TestSIGTERMWith20RunningCalls(t *testing.T) {
	t.Parallel()
	p := startPod(t, "--slots", "32", "--drain-timeout", "30s")
	var calls []<-chan response
	for range 20 {
		calls = append(calls, goDo(t, t.Context(), p.addr, request{fn: "sleep", kwargs: `{"seconds":3}`}))
	}
	// An upload that is under way is a running call, too.
	data := randomBytes(3 << 20)
	upload := goDo(t, t.Context(), p.addr, request{fn: "sha256", payload: newStallingReader(data, 2*time.Second)})
	expectHealth(t, p.addr, "SERVING")

	p.signal(t, syscall.SIGTERM)
	p.mustRecord(t, 5*time.Second, "draining", map[string]string{"jobs": "21"})
	expectHealth(t, p.addr, "NOT_SERVING")
	expectRefused(t, p.addr)

	var last time.Time
	for i, call := range append(calls, upload) {
		r := <-call
		switch {
		case r.err != nil:
			t.Errorf("call %d: %v", i, r.err)
		case i == len(calls):
			expectDigest(t, r.result, digestOf(data))
		case string(r.result) != `{"slept":3}`:
			t.Errorf("call %d: result %s", i, r.result)
		}
		if r.gap > 2500*time.Millisecond {
			t.Errorf("call %d: silence of %v", i, r.gap)
		}
		if r.ended.After(last) {
			last = r.ended
		}
	}
	expectExit(t, p, 0, last, 1500*time.Millisecond)
	p.expectNoPayloads(t)
}

func TestSignalsThatDrain(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			p := startPod(t)
			call := goDo(t, t.Context(), p.addr, request{fn: "sleep", kwargs: `{"seconds":2}`})
			p.signal(t, s)
			p.mustRecord(t, 5*time.Second, "draining", nil)
			expectHealth(t, p.addr, "NOT_SERVING")
			expectRefused(t, p.addr)
			r := <-call
			if r.err != nil || string(r.result) != `{"slept":2}` {
				t.Errorf("the running call: %s, %v", r.result, r.err)
			}
			expectExit(t, p, 0, r.ended, 1500*time.Millisecond)
		})
	}
}

// Connections without calls don't hold the pod up.
func TestSIGTERMOfAnIdlePod(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	silent, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	if r := do(t.Context(), p.addr, request{fn: "hello"}); r.err != nil {
		t.Fatal(r.err)
	}
	now := time.Now()
	p.signal(t, syscall.SIGTERM)
	expectExit(t, p, 0, now, 1500*time.Millisecond)
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	p := startPod(t, "--drain-timeout", timeout.String())
	var calls []<-chan response
	for range 3 {
		calls = append(calls, goDo(t, t.Context(), p.addr, request{fn: "sleep", kwargs: `{"seconds":60}`}))
	}
	// Larger than what stays in memory, and never complete.
	calls = append(calls, goDo(t, t.Context(), p.addr, request{fn: "sha256", payload: newStallingReader(randomBytes(6<<20), 5*time.Second)}))
	eventually(t, 5*time.Second, "the upload to reach the disk", func() error {
		if len(p.payloads(t)) == 0 {
			return fmt.Errorf("no file in the spool")
		}
		return nil
	})
	now := time.Now()
	p.signal(t, syscall.SIGTERM)
	for i, call := range calls {
		r := <-call
		if r.code() != connect.CodeUnavailable {
			t.Errorf("call %d: %v, want UNAVAILABLE", i, r.err)
		}
		if took := r.ended.Sub(now); took < timeout || took > timeout+time.Second {
			t.Errorf("call %d ended %v after the signal, want %v", i, took, timeout)
		}
	}
	expectExit(t, p, 0, now, timeout+2500*time.Millisecond)
	p.expectNoPayloads(t)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := startPod(t, "--drain-timeout", "60s")
	call := goDo(t, t.Context(), p.addr, request{fn: "sleep", kwargs: `{"seconds":60}`})
	p.signal(t, syscall.SIGTERM)
	p.mustRecord(t, 5*time.Second, "draining", nil)
	if !p.running() {
		t.Fatal("the pod did not wait for its call")
	}
	now := time.Now()
	p.signal(t, syscall.SIGINT)
	expectExit(t, p, 130, now, 500*time.Millisecond)
	if r := <-call; r.err == nil {
		t.Errorf("the call that was cut off has the result %s", r.result)
	}
}

func TestDrainDelayTakesCallsWhileHealthSaysNo(t *testing.T) {
	t.Parallel()
	const delay = 2 * time.Second
	p := startPod(t, "--drain-delay", delay.String())
	running := goDo(t, t.Context(), p.addr, request{fn: "sleep", kwargs: `{"seconds":4}`})
	signaled := time.Now()
	p.signal(t, syscall.SIGTERM)
	p.mustRecord(t, 5*time.Second, "draining", nil)
	expectHealth(t, p.addr, "NOT_SERVING")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if r := do(ctx, p.addr, request{fn: "hello"}); r.err != nil {
		t.Errorf("a new call within the delay: %v", r.err)
	}
	if time.Since(signaled) > delay {
		t.Fatal("the machine is too slow for this test")
	}
	time.Sleep(time.Until(signaled.Add(delay + 300*time.Millisecond)))
	expectRefused(t, p.addr)
	r := <-running
	if r.err != nil {
		t.Errorf("the running call: %v", r.err)
	}
	expectExit(t, p, 0, r.ended, 1500*time.Millisecond)
}
