package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/service"
)

// Another process goes on with a named job where the first one stopped.
func TestRunAgain(t *testing.T) {
	pod := startPod(t)
	payload := noise(20 << 20)
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			call := Call{Func: "sha256", JobID: "again", Level: LevelRaw}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := call
			pr, pw := io.Pipe()
			first.Payload = Reader(pr)
			first.Watch = func(e Event) {
				if s, ok := e.(Sent); ok && s.Offset >= 9<<20 {
					cancel()
				}
			}
			go func() {
				_, _ = pw.Write(payload) // not all of it is read
			}()
			if _, err := newClient(t, pod.addr, cfg).Run(ctx, first); !errors.Is(err, context.Canceled) {
				t.Fatalf("the first one: %v", err)
			}
			_ = pr.Close() // ends the writer above
			for i, p := range []Payload{Bytes(payload), Reader(bytes.NewReader(payload))} {
				call.Payload = p
				r, err := newClient(t, pod.addr, cfg).Run(t.Context(), call)
				if err != nil {
					t.Fatal(err)
				}
				most := int64(19 << 20) // of what the first one has sent, 8 MiB may be on the way
				if i > 0 {
					most = 0
				}
				if string(r.JSON) != sum256(payload) || r.Stats.Sent > most {
					t.Errorf("result %+v, at most %d bytes should be sent", r, most)
				}
			}
			c := newClient(t, pod.addr, cfg)
			var refused *JobError
			call.Payload, call.Func = Bytes(payload), "echo"
			if _, err := c.Run(t.Context(), call); !errors.As(err, &refused) || refused.Code != connect.CodeAlreadyExists {
				t.Errorf("with another function: %v", err)
			}
			if err := c.Delete(t.Context(), "again"); err != nil {
				t.Fatal(err)
			}
		})
	}
	pod.empty(t)
}

// fickle is a payload whose bytes differ the first time that they are read.
type fickle struct {
	data []byte
	read atomic.Int64 // times
}

func (f *fickle) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(f.data).ReadAt(p, off)
	if f.read.Add(1) <= 3 && n > 0 {
		p[n-1]++
	}
	return n, err
}

// What the pod has is not what was sent in the end: all of it is sent again.
func TestRunDataLoss(t *testing.T) {
	pod := startPod(t)
	payload := noise(8 << 20)
	for name, cfg := range map[string]Config{"full duplex": {}, "half duplex": {HalfDuplex: true}} {
		proxy := startProxy(t, pod.addr, func(n int) fate {
			if n == 1 {
				return fate{bytes: 500 << 10} // before a chunk is stored
			}
			return fate{}
		})
		c := newClient(t, proxy.addr, cfg)
		e := newEvents()
		r, err := c.Run(t.Context(), Call{
			Func: "sha256", Payload: ReaderAt(&fickle{data: payload}, int64(len(payload))), Level: LevelRaw, Watch: e.watch,
		})
		if err != nil {
			t.Fatalf("%s: %v%v", name, err, e)
		}
		if string(r.JSON) != sum256(payload) || r.Stats.Sent < 2*int64(len(payload)) {
			t.Errorf("%s: result %+v%v", name, r, e)
		}
	}
	pod.empty(t)
}

// A function that is begun again writes its output again.
func TestRunOutputStartsAgain(t *testing.T) {
	t.Parallel()
	payload := noise(3 << 20)
	for name, cfg := range map[string]Config{"full duplex": {}, "half duplex": {HalfDuplex: true}} {
		for _, kind := range []string{"memory", "file", "pipe"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				pod := startPod(t)
				c := newClient(t, pod.addr, cfg)
				e := newEvents()
				call := Call{Func: "trickle", Payload: Bytes(payload), Level: LevelRaw, Heartbeat: minHeartbeat, Watch: e.watch}
				path := filepath.Join(t.TempDir(), "out")
				switch kind {
				case "file":
					f, err := os.Create(path)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = f.Close() }()
					call.Output = f
				case "pipe":
					call.Output = io.Discard
				}
				var (
					r   *Result
					err error
					wg  sync.WaitGroup
				)
				wg.Go(func() { r, err = c.Run(t.Context(), call) })
				await(t, e, func(r Received) bool { return r.Offset == int64(len(payload))/2 })
				pod.stop()
				startPodIn(t, pod.dir, pod.addr, func(cfg *service.Config) { cfg.MaxAttempts = 3 }).model.patient.Store(true)
				wg.Wait()
				if kind == "pipe" {
					if err == nil || !strings.Contains(err.Error(), "can't go back") {
						t.Errorf("%v%v", err, e)
					}
					return
				}
				if err != nil {
					t.Fatalf("%v%v", err, e)
				}
				got := r.Output
				if kind == "file" {
					if got, err = os.ReadFile(path); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, payload) || r.Attempt != 2 {
					t.Errorf("%d bytes of output, want %d, or others; result %+v%v", len(got), len(payload), r, e)
				}
				if n := len(all[Restarted](e)); n != 1 {
					t.Errorf("%d times restarted%v", n, e)
				}
			})
		}
	}
}

// A payload that doesn't come keeps nobody from leaving.
func TestRunPayloadBlocks(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	for way, cfg := range ways {
		pr, pw := io.Pipe()
		c := newClient(t, pod.addr, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		_, err := c.Run(ctx, Call{Func: "sha256", Payload: Reader(pr)})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", way, err, time.Since(start))
		}
		cancel()
		_ = pw.Close() // lets the payload's goroutine end
	}
	pod.empty(t)
}

func TestRunPayloadFails(t *testing.T) {
	pod := startPod(t)
	for way, cfg := range ways {
		c := newClient(t, pod.addr, cfg)
		broken := errors.New("broken disk")
		pr, pw := io.Pipe()
		go func() {
			_, _ = pw.Write(make([]byte, 2<<20)) // it is read
			_ = pw.CloseWithError(broken)        // never fails
		}()
		if _, err := c.Run(t.Context(), Call{Func: "sha256", Payload: Reader(pr)}); !errors.Is(err, broken) {
			t.Errorf("%s: %v", way, err)
		}
		if _, err := c.Run(t.Context(), Call{Func: "sha256", Payload: ReaderAt(strings.NewReader("short"), 1<<20)}); err == nil || !strings.Contains(err.Error(), "changed") {
			t.Errorf("%s: a short payload: %v", way, err)
		}
	}
	pod.empty(t)
}

// Long silence ends it.
func TestRunGivesUp(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	c := newClient(t, pod.addr, Config{})
	e := newEvents()
	result := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context(), Call{Func: "wait", JobID: "a", GiveUp: 300 * time.Millisecond, Watch: e.watch, Heartbeat: minHeartbeat})
		result <- err
	}()
	await(t, e, func(h Heartbeat) bool { return h.State == aipodv1.State_STATE_RUNNING })
	pod.stop()
	var unreachable *UnreachableError
	if err := <-result; !errors.As(err, &unreachable) || !unreachable.Accepted || unreachable.JobID != "a" {
		t.Errorf("%v%v", err, e)
	}
}

// A pod that ends its streams of itself is attached to again.
func TestRunStreamsAge(t *testing.T) {
	t.Parallel()
	pod := startPodIn(t, t.TempDir(), "127.0.0.1:0", func(c *service.Config) { c.StreamAge = 200 * time.Millisecond })
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, pod.addr, cfg)
			e := newEvents()
			r, err := c.Run(t.Context(), Call{Func: "sleep", Watch: e.watch})
			if err != nil || string(r.JSON) != `"slept"` || r.Stats.Streams < 3 {
				t.Errorf("%+v, %v%v", r, err, e)
			}
		})
	}
}

// A deleted job is not made again. In single requests it can't be told from one
// that the pod has lost, unless it is followed.
func TestRunDeleted(t *testing.T) {
	pod := startPod(t)
	for name, cfg := range map[string]Config{"full duplex": {}, "half duplex": {HalfDuplex: true}} {
		for _, running := range []bool{true, false} {
			if cfg.HalfDuplex && !running {
				continue
			}
			c := newClient(t, pod.addr, cfg)
			e := newEvents()
			pr, pw := io.Pipe()
			result := make(chan error, 1)
			go func() {
				_, err := c.Run(t.Context(), Call{Func: "wait", JobID: "doomed", Payload: Reader(pr), Watch: e.watch, Heartbeat: minHeartbeat})
				result <- err
			}()
			if _, err := pw.Write(noise(1 << 20)); err != nil {
				t.Fatal(err)
			}
			if running {
				_ = pw.Close() // never fails
				await(t, e, func(h Heartbeat) bool { return h.State == aipodv1.State_STATE_RUNNING })
			} else {
				await[Sent](t, e, nil)
			}
			if err := c.Delete(t.Context(), "doomed"); err != nil {
				t.Fatal(err)
			}
			_ = pw.Close() // never fails
			var failed *JobError
			select {
			case err := <-result:
				if !errors.As(err, &failed) || failed.Code != connect.CodeCanceled {
					t.Errorf("%s, running %v: %v%v", name, running, err, e)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s, running %v: it goes on%v", name, running, e)
			}
		}
	}
	pod.empty(t)
}
