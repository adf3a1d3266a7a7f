package client

import (
	"bytes"
	"strings"
	"testing"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

func TestAttach(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	payload := noise(1 << 20)
	proxy := startProxy(t, pod.addr, func(int) fate { return fate{bytes: 100 << 10} })
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			id := strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(way)
			direct := newClient(t, pod.addr, Config{})
			if _, err := direct.Run(t.Context(), Call{Func: "echo", JobID: id, Payload: Bytes(payload)}); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, proxy.addr, cfg)
			var out bytes.Buffer
			e := newEvents()
			_, err := c.Attach(t.Context(), id, AttachOptions{Output: &out, Watch: e.watch})
			if err != nil || !bytes.Equal(out.Bytes(), payload) {
				t.Errorf("%d bytes of output, %v%v", out.Len(), err, e)
			}
			if r, err := c.Attach(t.Context(), id, AttachOptions{SkipOutput: true}); err != nil || r.OutputSize != 1<<20 || r.Stats.Received != 0 {
				t.Errorf("without the output: %+v, %v", r, err)
			}
			if err := direct.Delete(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAttachAfterSeq(t *testing.T) {
	pod := startPod(t)
	c := newClient(t, pod.addr, Config{})
	if _, err := c.Run(t.Context(), Call{Func: "talk", JobID: "talk"}); err != nil {
		t.Fatal(err)
	}
	job, err := c.Get(t.Context(), "talk")
	if err != nil {
		t.Fatal(err)
	}
	for after, lines := range map[uint64]int{0: 5, job.GetLastSeq(): 0} {
		e := newEvents()
		if _, err := c.Attach(t.Context(), "talk", AttachOptions{AfterSeq: after, Watch: e.watch}); err != nil {
			t.Fatal(err)
		}
		if n := len(all[Log](e)); n != lines {
			t.Errorf("after %d: %d lines%v", after, n, e)
		}
	}
	f, err := c.Functions(t.Context())
	if err != nil || f.GetModel() != "test" || len(f.GetFunctions()) != len(pod.model.funcs) {
		t.Errorf("functions: %v, %v", f, err)
	}
	for state, want := range map[aipodv1.State]int{aipodv1.State_STATE_SUCCEEDED: 1, aipodv1.State_STATE_FAILED: 0} {
		n := 0
		for _, err := range c.List(t.Context(), state) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("%d jobs in %v, want %d", n, state, want)
		}
	}
}
