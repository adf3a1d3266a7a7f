package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// ways are all the ways to talk to a pod.
var ways = map[string]Config{
	"grpc":             {},
	"connect":          {Protocol: "connect"},
	"grpcweb":          {Protocol: "grpcweb"},
	"half duplex":      {HalfDuplex: true},
	"grpc, HTTP/1":     {HTTP1: true},
	"connect, HTTP/1":  {Protocol: "connect", HTTP1: true},
	"grpcweb, HTTP/1":  {Protocol: "grpcweb", HTTP1: true},
	"connect requests": {Protocol: "connect", HalfDuplex: true},
}

func TestRun(t *testing.T) {
	pod := startPod(t)
	payload := append(noise(3<<20+5), bytes.Repeat([]byte("compressible "), 1<<18)...)
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			c := newClient(t, pod.addr, cfg)
			for name, call := range map[string]Call{
				"made-up id": {},
				"ephemeral":  {Ephemeral: true},
				"named":      {JobID: "job-" + time.Now().Format("150405.000000")[7:]},
			} {
				t.Run(name, func(t *testing.T) {
					e := newEvents()
					call.Watch = e.watch
					call.Level = LevelDefault // adaptive finds that so fast a link does best with raw
					call.Func, call.Payload = "sha256", Bytes(payload)
					r, err := c.Run(t.Context(), call)
					if err != nil {
						t.Fatalf("%v%v", err, e)
					}
					if string(r.JSON) != sum256(payload) || r.HasOutput || r.JobID == "" || r.Attempt != 1 {
						t.Errorf("result %+v", r)
					}
					if r.Stats.Sent != int64(len(payload)) || r.Stats.Wire >= r.Stats.Sent {
						t.Errorf("stats %+v of %d bytes", r.Stats, len(payload))
					}
					if n := len(all[Reconnecting](e)); n > 0 {
						t.Errorf("%d reconnections:%v", n, e)
					}

					var out bytes.Buffer
					call.Func, call.Output, call.Payload = "echo", &out, Reader(bytes.NewReader(payload))
					if call.JobID != "" {
						call.JobID += "-echo"
					}
					r, err = c.Run(t.Context(), call)
					if err != nil {
						t.Fatalf("%v%v", err, e)
					}
					if !bytes.Equal(out.Bytes(), payload) || !r.HasOutput || r.OutputSize != int64(len(payload)) {
						t.Errorf("%d bytes of output, result %+v", out.Len(), r)
					}
				})
			}
			for job, err := range c.List(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Delete(t.Context(), job.GetJobId()); err != nil {
					t.Error(err)
				}
			}
			pod.empty(t)
		})
	}
}

func TestRunSmall(t *testing.T) {
	pod := startPod(t)
	c := newClient(t, pod.addr, Config{})
	for _, n := range []int{0, 1, minWindow, 1<<20 - 1<<10, 1 << 20} {
		data := noise(n)
		r, err := c.Run(t.Context(), Call{Func: "echo", Payload: Bytes(data)})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Output, data) {
			t.Errorf("%d bytes of output, want %d", len(r.Output), n)
		}
	}
	r, err := c.Run(t.Context(), Call{Func: "kwargs", Kwargs: json.RawMessage(`{"a":1}`)})
	if err != nil || string(r.JSON) != `{"a":1}` {
		t.Errorf("%+v, %v", r, err)
	}
	var out bytes.Buffer
	r, err = c.Run(t.Context(), Call{Func: "large", Output: &out})
	if err != nil || len(r.JSON) != 6<<20+2 || r.HasOutput || out.Len() > 0 {
		t.Errorf("%d bytes of JSON, %d of output, %v", len(r.JSON), out.Len(), err)
	}
	pod.empty(t)
}

func TestRunFails(t *testing.T) {
	pod := startPod(t)
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			c := newClient(t, pod.addr, cfg)
			for name, test := range map[string]struct {
				call Call
				code connect.Code
				log  int
			}{
				"failed":           {Call{Func: "fail"}, connect.CodeInvalidArgument, 1},
				"failed ephemeral": {Call{Func: "fail", Ephemeral: true}, connect.CodeInvalidArgument, 1},
				"refused":          {Call{Func: "none"}, connect.CodeUnimplemented, 0},
				"wrong sha256":     {Call{Func: "hello", SHA256: make([]byte, 32)}, connect.CodeInvalidArgument, 0},
				"bad id":           {Call{Func: "hello", JobID: "ä"}, connect.CodeInvalidArgument, 0},
			} {
				_, err := c.Run(t.Context(), test.call)
				var failed *JobError
				if !errors.As(err, &failed) || failed.Code != test.code || len(failed.Log) != test.log {
					t.Errorf("%s: %+v, want %v", name, err, test.code)
				}
			}
		})
	}
	pod.empty(t)
}

func TestRunWrongUsage(t *testing.T) {
	c := newClient(t, "127.0.0.1:1", Config{})
	for name, call := range map[string]Call{
		"no function":         {},
		"bad kwargs":          {Func: "f", Kwargs: json.RawMessage("{")},
		"heartbeat":           {Func: "f", Heartbeat: time.Millisecond},
		"level":               {Func: "f", Level: "much"},
		"short digest":        {Func: "f", SHA256: []byte{1}},
		"ephemeral and named": {Func: "f", JobID: "a", Ephemeral: true},
		"no file":             {Func: "f", Payload: File("/nonexistent")},
	} {
		if _, err := c.Run(t.Context(), call); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, addr := range []string{"", "ftp://x", "http://", "http://x?y"} {
		if _, err := New(Config{Addr: addr}); err == nil {
			t.Errorf("%q: no error", addr)
		}
	}
	if _, err := New(Config{Addr: "x:1", Protocol: "soap"}); err == nil {
		t.Error("protocol soap: no error")
	}
}

func TestRunUnreachable(t *testing.T) {
	t.Parallel()
	c := newClient(t, "127.0.0.1:1", Config{})
	e := newEvents()
	_, err := c.Run(t.Context(), Call{Func: "hello", Watch: e.watch})
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Attempts != connectAttempts || unreachable.Accepted {
		t.Errorf("%v", err)
	}
	if n := len(all[Reconnecting](e)); n != connectAttempts-1 {
		t.Errorf("%d reconnections", n)
	}
}

func TestRunEvents(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, pod.addr, cfg)
			e := newEvents()
			if _, err := c.Run(t.Context(), Call{Func: "talk", Watch: e.watch, Heartbeat: minHeartbeat}); err != nil {
				t.Fatal(err)
			}
			if n := len(all[Log](e)); n != 5 {
				t.Errorf("%d lines%v", n, e)
			}
			if n := len(all[Progress](e)); n != 5 {
				t.Errorf("%d times progress%v", n, e)
			}
			if n := len(all[Done](e)); n != 1 {
				t.Errorf("%d ends%v", n, e)
			}
			if n := len(all[Accepted](e)); n == 0 {
				t.Errorf("not accepted%v", e)
			}
		})
	}
}

func TestRunCanceled(t *testing.T) {
	pod := startPod(t)
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			c := newClient(t, pod.addr, cfg)
			for name, call := range map[string]Call{
				"made-up id": {},
				"ephemeral":  {Ephemeral: true},
				"named":      {JobID: "kept"},
			} {
				ctx, cancel := context.WithCancel(t.Context())
				e := newEvents()
				call.Func, call.Watch = "wait", func(event Event) {
					e.watch(event)
					if h, ok := event.(Heartbeat); ok && h.State == aipodv1.State_STATE_RUNNING {
						cancel()
					}
				}
				start := time.Now()
				_, err := c.Run(ctx, call)
				if !errors.Is(err, context.Canceled) || time.Since(start) > 3*time.Second {
					t.Errorf("%s: %v after %v", name, err, time.Since(start))
				}
				cancel()
			}
			if job, err := c.Get(t.Context(), "kept"); err != nil || job.GetState() != aipodv1.State_STATE_RUNNING {
				t.Errorf("the named job: %v, %v", job, err)
			}
			n := 0
			for _, err := range c.List(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != 1 {
				t.Errorf("%d jobs are left, want the named one", n)
			}
			if job, err := c.Cancel(t.Context(), "kept"); err != nil {
				t.Errorf("cancel: %v, %v", job, err)
			}
			var failed *JobError
			if _, err := c.Attach(t.Context(), "kept", AttachOptions{}); !errors.As(err, &failed) || failed.Code != connect.CodeCanceled {
				t.Errorf("attach to a canceled job: %v", err)
			}
			if err := c.Delete(t.Context(), "kept"); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := c.Attach(t.Context(), "kept", AttachOptions{}); !errors.As(err, &failed) || failed.Code != connect.CodeNotFound {
				t.Errorf("attach to no job: %v", err)
			}
			pod.empty(t)
		})
	}
}
