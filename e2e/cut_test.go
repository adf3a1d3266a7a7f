//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

// newClient makes a client of a pod.
func newClient(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func hexDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// A jobCase is a job and what has to come of it.
type jobCase struct {
	name    string
	fn      string
	kwargs  countingKwargs
	payload []byte
}

// jobCases are all that a job can be: no, little and much input, no, little and
// much output, quick and slow.
func jobCases() []jobCase {
	return []jobCase{
		{name: "nothing", fn: "digest"},
		{name: "small", fn: "digest", payload: randomBytes(1000)},
		{name: "small_slow", fn: "digest", payload: randomBytes(1000), kwargs: countingKwargs{Millis: 2500}},
		{name: "input", fn: "digest", payload: randomBytes(3<<20 + 17)},
		{name: "text", fn: "digest", payload: bytes.Repeat([]byte("all work and no play\n"), 200_000)},
		{name: "output", fn: "echo", payload: randomBytes(2<<20 + 5)},
		{name: "output_slow", fn: "echo", payload: randomBytes(300_000), kwargs: countingKwargs{Millis: 1500}},
		{name: "json", fn: "big", kwargs: countingKwargs{Bytes: 500_000}},
	}
}

// check compares what a job gave with what it should.
func (c jobCase) check(result json.RawMessage, output []byte) error {
	switch c.fn {
	case "echo":
		if !bytes.Equal(output, c.payload) {
			return fmt.Errorf("the output has %d bytes with the digest %s, want %d with %s",
				len(output), hexDigest(output), len(c.payload), hexDigest(c.payload))
		}
		return nil
	case "big":
		if want := strings.Repeat("0123456789", c.kwargs.Bytes/10); string(result) != `"`+want+`"` {
			return fmt.Errorf("the result has %d bytes, want %d", len(result), len(want)+2)
		}
		return nil
	}
	if want := fmt.Sprintf("%q", hexDigest(c.payload)); string(result) != want {
		return fmt.Errorf("the result is %.100s, want %s", result, want)
	}
	return nil
}

// TestJobsThroughCuts runs jobs whose every stream is cut.
func TestJobsThroughCuts(t *testing.T) {
	t.Parallel()
	for _, cut := range []string{"", "1s", "65536"} {
		t.Run("cut="+cut, func(t *testing.T) {
			t.Parallel()
			p := mustCounting(t, cut, podConfig{MaxAttempts: 1, Slots: 100})
			for _, job := range jobCases() {
				if job.fn == "echo" || cut == "65536" && len(job.payload)+job.kwargs.Bytes > 48<<10 {
					// What ai.AI answers is text; and it knows no offsets, so that what
					// doesn't fit through one stream never arrives.
					continue
				}
				t.Run("ai.AI/"+job.name, func(t *testing.T) {
					t.Parallel()
					checkSeedJob(t, p, job, "seed-"+job.name)
				})
			}
			for _, protocol := range []string{"grpc", "connect", "grpcweb", "http1"} {
				cfg := client.Config{Addr: "http://" + p.addr, Protocol: protocol}
				if protocol == "http1" {
					cfg.Protocol, cfg.HTTP1 = "connect", true
				}
				c := newClient(t, cfg)
				for _, job := range jobCases() {
					t.Run(protocol+"/"+job.name, func(t *testing.T) {
						t.Parallel()
						checkJob(t, p, c, job, protocol+"-"+job.name)
					})
				}
			}
		})
	}
}

func checkJob(t *testing.T, p *pod, c *client.Client, job jobCase, id string) {
	t.Helper()
	kwargs, err := json.Marshal(job.kwargs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var trace []string
	res, err := c.Run(ctx, client.Call{
		Func: job.fn, Kwargs: kwargs, JobID: id, Heartbeat: 200 * time.Millisecond,
		Payload: client.ReaderAt(bytes.NewReader(job.payload), int64(len(job.payload))),
		Watch: func(e client.Event) {
			if _, ok := e.(client.Reconnecting); ok && len(trace) < 20 {
				trace = append(trace, fmt.Sprintf("%T%+v", e, e))
			}
		},
	})
	if err == nil {
		err = job.check(res.JSON, res.Output)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(trace, "\n"))
	}
	t.Logf("%d streams, %d bytes sent of %d", res.Stats.Streams, res.Stats.Sent, len(job.payload))
	if n := runs(t, p.dir)[id]; n != 1 {
		t.Errorf("the function ran %d times", n)
	}
	if sent, most := res.Stats.Sent, int64(len(job.payload))*11/10+4<<20; sent > most {
		t.Errorf("%d bytes were sent of a payload of %d", sent, len(job.payload))
	}
	if err := c.Delete(ctx, id); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// checkSeedJob calls as the seed's client does, again and again under the same
// x-job-id until there is a result.
func checkSeedJob(t *testing.T, p *pod, job jobCase, id string) {
	t.Helper()
	kwargs, err := json.Marshal(job.kwargs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	calls := 0
	for {
		calls++
		r := do(ctx, p.addr, request{
			fn: job.fn, kwargs: string(kwargs), payload: bytes.NewReader(job.payload), header: map[string]string{"x-job-id": id},
		})
		if r.err == nil {
			if err := job.check(r.result, nil); err != nil {
				t.Error(err)
			}
			break
		}
		switch r.code() {
		case connect.CodeUnavailable, connect.CodeInternal, connect.CodeUnknown, connect.CodeAborted:
			time.Sleep(50 * time.Millisecond)
		default:
			t.Fatalf("call %d: %v", calls, r.err)
		}
	}
	t.Logf("%d calls", calls)
	if n := runs(t, p.dir)[id]; n != 1 {
		t.Errorf("the function ran %d times", n)
	}
}

// TestCutsCostLittle sends 256 MiB over streams that are cut after each MiB.
func TestCutsCostLittle(t *testing.T) {
	t.Parallel()
	const size, leastCuts = 256 << 20, 200
	p := mustCounting(t, strconv.Itoa(1<<20), podConfig{MaxAttempts: 1})
	c := newClient(t, client.Config{Addr: "http://" + p.addr})
	payload, err := bench.NewPayload(bench.Random, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	res, err := c.Run(t.Context(), client.Call{
		Func: "digest", Payload: client.Reader(io.TeeReader(payload, hash)), Heartbeat: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%q", hex.EncodeToString(hash.Sum(nil))); string(res.JSON) != want {
		t.Errorf("the digest is %s, want %s", res.JSON, want)
	}
	times := float64(res.Stats.Sent) / size
	t.Logf("%d streams, %.4f times the payload sent", res.Stats.Streams, times)
	if res.Stats.Streams <= leastCuts {
		t.Errorf("only %d streams: the test proves nothing", res.Stats.Streams)
	}
	if times > 1.10 {
		t.Errorf("%.3f times the payload was sent, want at most 1.10", times)
	}
}
