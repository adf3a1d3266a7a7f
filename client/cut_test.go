package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// repeated is a payload of that many bytes: a block, again and again.
type repeated struct {
	block []byte
	size  int64
}

func (r repeated) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < r.size {
		at := off % int64(len(r.block))
		k := copy(p[n:], r.block[at:min(int64(len(r.block)), at+r.size-off)])
		n += k
		off += int64(k)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// What is sent in all is at most a tenth more than the payload, however often the
// connection is cut.
func TestRunCutOften(t *testing.T) {
	pod := startPod(t)
	const size = cutSize
	payload := repeated{block: noise(1 << 20), size: size}
	random := rand.New(rand.NewPCG(1, 2))
	proxy := startProxy(t, pod.addr, func(int) fate { return fate{bytes: size/1280 + random.Int64N(size/128)} })
	c := newClient(t, proxy.addr, Config{})
	e := newEvents()
	r, err := c.Run(t.Context(), Call{Func: "hello", Payload: ReaderAt(payload, size), Level: LevelRaw, Watch: e.watch})
	if err != nil {
		t.Fatalf("%v%v", err, e)
	}
	cuts := len(all[Reconnecting](e))
	share := float64(r.Stats.Sent) / size
	t.Logf("%d cuts, %.3f of the payload was sent", cuts, share)
	if cuts < 200 || share > 1.1 || pod.model.runs() != 1 {
		t.Errorf("%d cuts, %.3f of the payload was sent, the function ran %d times", cuts, share, pod.model.runs())
	}
	pod.empty(t)
}

// Connections that carry no more than 64 KiB are enough for all jobs, in both
// directions.
func TestRunCutAfter64KiB(t *testing.T) {
	pod := startPod(t)
	payload := noise(1 << 20)
	proxy := startProxy(t, pod.addr, func(int) fate { return fate{bytes: 64 << 10} })
	for way, cfg := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, proxy.addr, cfg)
			path := filepath.Join(t.TempDir(), "out")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			e := newEvents()
			r, err := c.Run(t.Context(), Call{Func: "echo", Payload: Reader(bytes.NewReader(payload)), Level: LevelRaw, Output: f, Watch: e.watch})
			if err != nil {
				t.Fatalf("%v%v", err, e)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("%d bytes of output, want %d, or others", len(got), len(payload))
			}
			t.Logf("stats %+v", r.Stats)
		})
	}
}

// A connection that is silently dead is noticed, and another one is made.
func TestRunSilence(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fate{
		"uploading":            {bytes: 300 << 10, silent: true},
		"running":              {within: 100 * time.Millisecond, silent: true},
		"uploading, one way":   {bytes: 300 << 10, silent: true, up: true},
		"before anything came": {bytes: 1, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := startPod(t)
			payload := noise(1 << 20)
			proxy := startProxy(t, pod.addr, func(n int) fate {
				if n == 1 {
					return f
				}
				return fate{}
			})
			c := soonSilent(t, proxy.addr, Config{})
			c.pace.stall = time.Second
			e := newEvents()
			start := time.Now()
			_, err := c.Run(t.Context(), Call{Func: "sleep", Payload: Bytes(payload), Level: LevelRaw, Heartbeat: minHeartbeat, Watch: e.watch})
			if err != nil {
				t.Fatalf("%v%v", err, e)
			}
			// On a machine with much else to do the second may be taken for dead, too.
			if n := proxy.count.Load(); n < 2 || n > 3 {
				t.Errorf("%d connections, want 2%v", n, e)
			}
			if took := time.Since(start); took > 20*time.Second { // instead of the minutes that a dead connection can take
				t.Errorf("it took %v", took)
			}
			pod.empty(t)
		})
	}
}

func TestRunEphemeralCut(t *testing.T) {
	pod := startPod(t)
	proxy := startProxy(t, pod.addr, func(n int) fate {
		if n <= 2 {
			return fate{bytes: 1}
		}
		return fate{}
	})
	c := newClient(t, proxy.addr, Config{})
	if r, err := c.Run(t.Context(), Call{Func: "hello", Ephemeral: true}); err != nil || string(r.JSON) != `"hello"` {
		t.Errorf("cut before it was accepted: %+v, %v", r, err)
	}
	e := newEvents()
	_, err := c.Run(t.Context(), Call{Func: "wait", Ephemeral: true, Watch: func(event Event) {
		e.watch(event)
		if h, ok := event.(Heartbeat); ok && h.State == aipodv1.State_STATE_RUNNING {
			go proxy.cut()
		}
	}})
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) {
		t.Errorf("cut while it ran: %v", err)
	}
	pod.empty(t)
}

// A pod that restarts finds its jobs again, and so does the client.
func TestRunPodRestarts(t *testing.T) {
	t.Parallel()
	for way, cfg := range map[string]Config{"full duplex": {}, "half duplex": {Protocol: "connect", HTTP1: true}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			pod := startPod(t)
			c := newClient(t, pod.addr, cfg)
			e := newEvents()
			pr, pw := io.Pipe()
			payload := noise(5 << 20)
			result := make(chan error, 1)
			go func() {
				r, err := c.Run(t.Context(), Call{Func: "sha256", Payload: Reader(pr), Level: LevelRaw, Watch: e.watch, Heartbeat: minHeartbeat})
				if err == nil && string(r.JSON) != sum256(payload) {
					err = errors.New("the input is not what was sent")
				}
				result <- err
			}()
			if _, err := pw.Write(payload[:3<<20]); err != nil {
				t.Fatal(err)
			}
			await(t, e, func(s Sent) bool { return s.Offset > 1<<20 })
			pod.stop()
			pod = startPodIn(t, pod.dir, pod.addr, nil)
			if _, err := pw.Write(payload[3<<20:]); err != nil {
				t.Fatal(err)
			}
			if err := pw.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-result; err != nil {
				t.Errorf("%v%v", err, e)
			}
			if n := len(all[Lost](e)); n > 0 {
				t.Errorf("the job was lost%v", e)
			}
			pod.empty(t)
		})
	}
}

// A pod that lost its data gets the job again, once.
func TestRunPodLosesJob(t *testing.T) {
	t.Parallel()
	for way, cfg := range map[string]Config{"full duplex": {}, "half duplex": {Protocol: "connect", HTTP1: true}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			pod := startPod(t)
			c := newClient(t, pod.addr, cfg)
			e := newEvents()
			result := make(chan error, 1)
			go func() {
				_, err := c.Run(t.Context(), Call{Func: "wait", Payload: Bytes(noise(1 << 20)), Level: LevelRaw, Watch: e.watch, Heartbeat: minHeartbeat})
				result <- err
			}()
			running := func(n int) func(Heartbeat) bool {
				return func(Heartbeat) bool { return pod.model.runs() == 1 && len(all[Lost](e)) == n }
			}
			for n := range 2 {
				await(t, e, running(n))
				pod.stop()
				pod = startPodIn(t, t.TempDir(), pod.addr, nil)
			}
			err := <-result
			var lost *JobError
			if !errors.As(err, &lost) || lost.Code != connect.CodeNotFound {
				t.Errorf("%v%v", err, e)
			}
		})
	}
}

// Two clients with one job: the newer one writes, the other one watches, and goes
// on when the newer one is gone.
func TestRunSuperseded(t *testing.T) {
	t.Parallel()
	pod := startPod(t)
	payload := noise(2 << 20)
	proxy := startProxy(t, pod.addr, never)
	first, second := newClient(t, pod.addr, Config{}), newClient(t, proxy.addr, Config{})
	call := Call{Func: "sha256", JobID: "shared", Level: LevelRaw, Heartbeat: minHeartbeat}
	pr1, pw1 := io.Pipe()
	pr2, pw2 := io.Pipe()
	e1, e2 := newEvents(), newEvents()
	result := make(chan error, 1)
	go func() {
		call.Payload, call.Watch = Reader(pr1), e1.watch
		r, err := first.Run(t.Context(), call)
		if err == nil && string(r.JSON) != sum256(payload) {
			err = errors.New("the input is not what was sent")
		}
		result <- err
	}()
	if _, err := pw1.Write(payload[:codecChunks(1)]); err != nil {
		t.Fatal(err)
	}
	await(t, e1, func(h Heartbeat) bool { return h.Committed > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		call.Payload, call.Watch = Reader(pr2), e2.watch
		_, _ = second.Run(ctx, call) // it is canceled
	})
	go func() {
		_, _ = pw2.Write(payload[:codecChunks(2)]) // part of it may not be read
	}()
	await[Superseded](t, e1, nil)
	cancel()
	wg.Wait()
	_ = pr2.Close() // ends the writer above
	await[Resumed](t, e1, nil)
	if _, err := pw1.Write(payload[codecChunks(1):]); err != nil {
		t.Fatal(err)
	}
	_ = pw1.Close() // never fails
	if err := <-result; err != nil {
		t.Errorf("%v%v", err, e1)
	}
	if err := first.Delete(t.Context(), "shared"); err != nil {
		t.Error(err)
	}
	pod.empty(t)
}

// codecChunks is the size of so many chunks.
func codecChunks(n int) int { return n * (1<<20 - 1<<10) }
