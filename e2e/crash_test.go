//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
)

func TestKillInMidUploadLeavesNothingAfterRestart(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	ready := startPod(t) // of another data directory, which must not be touched
	call := goDo(t, t.Context(), p.addr, request{fn: "sha256", payload: newStallingReader(randomBytes(8<<20), 3*time.Second)})
	other := goDo(t, t.Context(), ready.addr, request{fn: "sha256", payload: newStallingReader(randomBytes(8<<20), 3*time.Second)})
	for _, p := range []*pod{p, ready} {
		eventually(t, 5*time.Second, "the upload to reach the disk", func() error {
			files := p.payloads(t)
			if len(files) != 1 {
				return fmt.Errorf("%d files in the spool", len(files))
			}
			info, err := os.Stat(files[0])
			if err == nil && info.Size() < 2<<20 {
				err = fmt.Errorf("only %d bytes", info.Size())
			}
			return err
		})
	}

	killed := time.Now()
	p.signal(t, syscall.SIGKILL)
	if code := p.wait(t, 5*time.Second); code != -1 {
		t.Errorf("exit code %d, want death by signal", code)
	}
	r := <-call
	if r.code() != connect.CodeUnavailable && r.code() != connect.CodeInternal && r.code() != connect.CodeUnknown {
		t.Errorf("the caller was told %v, want a code that clients try again on", r.err)
	}
	if took := r.ended.Sub(killed); took > 2*time.Second {
		t.Errorf("the caller was told only after %v", took)
	}
	if n := len(p.payloads(t)); n != 1 {
		t.Fatalf("the killed pod left %d files, want 1: the test proves nothing", n)
	}

	again, err := tryPod(t, "127.0.0.1:0", p.dir)
	if err != nil {
		t.Fatalf("restart on the same data directory: %v", err)
	}
	if left := again.payloads(t); len(left) > 0 {
		t.Errorf("the restarted pod kept %v", left)
	}
	if r := do(t.Context(), again.addr, request{fn: "hello"}); r.err != nil {
		t.Errorf("the restarted pod: %v", r.err)
	}
	if r := <-other; r.err != nil {
		t.Errorf("the other pod's upload: %v", r.err)
	}
	ready.expectNoPayloads(t)
}

func TestTwoPodsOnOneDataDirectory(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	second, err := tryPod(t, "127.0.0.1:0", p.dir)
	if err == nil {
		t.Fatalf("a second pod listens on %s", second.addr)
	}
	if !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("the second pod: %v, want exit status 1", err)
	}
	if r := do(t.Context(), p.addr, request{fn: "hello"}); r.err != nil {
		t.Errorf("the first pod: %v", r.err)
	}
}
