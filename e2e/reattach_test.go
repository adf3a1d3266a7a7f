//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"

	"github.com/aipod/aipod/client"
)

// A paced reader is read no faster than a rate, in bytes a second.
type paced struct {
	io.ReaderAt
	rate int
}

func (p paced) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	time.Sleep(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return n, err
}

// TestNginxReloadAndRestart runs a job of a minute through nginx, which is
// reloaded and restarted while the job is uploaded and while it runs. Of two pods
// behind nginx, the one that has the job has to be met each time.
func TestNginxReloadAndRestart(t *testing.T) {
	t.Parallel()
	const function = time.Minute
	pods := []*pod{mustCounting(t, "", podConfig{MaxAttempts: 1}), mustCounting(t, "", podConfig{MaxAttempts: 1})}
	n := startNginx(t, "in front", map[string]group{"xxx": toAddrs(pods[0].addr, pods[1].addr)})
	c := newClient(t, client.Config{Addr: "http://" + n.grpc})

	job := jobCase{fn: "echo", payload: randomBytes(16 << 20)}
	receiving, running := make(chan struct{}), make(chan struct{})
	var seen aipodv1.State
	var reconnects []string
	type outcome struct {
		res *client.Result
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		res, err := c.Run(t.Context(), client.Call{
			Func: job.fn, Kwargs: fmt.Appendf(nil, `{"millis":%d}`, function.Milliseconds()), JobID: "a-minute",
			Payload: client.ReaderAt(paced{bytes.NewReader(job.payload), 2 << 20}, int64(len(job.payload))),
			Watch: func(e client.Event) {
				switch e := e.(type) {
				case client.Heartbeat:
					if e.State == seen {
						return
					}
					seen = e.State
					switch seen {
					case aipodv1.State_STATE_RECEIVING:
						close(receiving)
					case aipodv1.State_STATE_RUNNING:
						close(running)
					}
				case client.Reconnecting:
					reconnects = append(reconnects, fmt.Sprint(e.Why))
				case client.Lost:
					t.Error("another pod was asked for the job")
				}
			},
		})
		ended <- outcome{res, err}
	}()
	wait := func(c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case o := <-ended:
			t.Fatalf("ended early: %+v", o)
		case <-time.After(30 * time.Second):
			t.Fatal("the job got nowhere for 30 s")
		}
	}
	wait(receiving)
	time.Sleep(time.Second)
	n.reload(t)
	time.Sleep(2 * time.Second)
	n.restart(t)
	wait(running)
	time.Sleep(3 * time.Second)
	n.reload(t)
	time.Sleep(10 * time.Second)
	n.restart(t)
	var o outcome
	select {
	case o = <-ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("no result")
	}
	if o.err == nil {
		o.err = job.check(o.res.JSON, o.res.Output)
	}
	if o.err != nil {
		t.Fatalf("%v; reconnected because of %q", o.err, reconnects)
	}
	if len(reconnects) < 2 {
		t.Errorf("reconnected because of %q, want at least the two restarts", reconnects)
	}
	ran := runs(t, pods[0].dir)["a-minute"] + runs(t, pods[1].dir)["a-minute"]
	if ran != 1 {
		t.Errorf("the function ran %d times", ran)
	}
	t.Logf("%d streams, reconnected because of %q", o.res.Stats.Streams, reconnects)
}
