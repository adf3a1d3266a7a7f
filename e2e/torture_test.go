//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"

	"github.com/aipod/aipod/client"
)

// kills is how often TestKills kills the pod; make torture sets more.
func kills(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("AIPOD_E2E_KILLS"))
	if err != nil {
		n = 20
	}
	return n
}

// mostResent is what a kill may cost, in bytes of payload: what was under way,
// and one chunk.
const mostResent = 8<<20 + 1<<20

// TestKills kills the pod with SIGKILL at random moments, and starts it again on
// the same data directory, while clients upload, wait in its queue, have their
// functions run and download.
func TestKills(t *testing.T) {
	t.Parallel()
	dir, addr := t.TempDir(), ""
	cfg := podConfig{MaxAttempts: 1000, Slots: 1}
	var p *pod
	var err error
	for range 10 {
		addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		if p, err = startCounting(t, addr, dir, "", cfg); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}

	var k killer
	stopped := make(chan struct{})
	var jobs []*torturedJob
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		c := newClient(t, client.Config{Addr: "http://" + addr})
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				j := newTorturedJob(fmt.Sprintf("job-%d-%d", worker, n))
				j.run(t, c, &k, dir)
				mu.Lock()
				jobs = append(jobs, j)
				mu.Unlock()
				if t.Failed() {
					return
				}
			}
		})
	}
	states := map[aipodv1.State]int{}
	for k.count() < kills(t) && !t.Failed() {
		time.Sleep(time.Duration(50+rand.IntN(800)) * time.Millisecond)
		for _, s := range k.states() {
			states[s]++
		}
		p.signal(t, syscall.SIGKILL)
		<-p.done
		k.add()
		if p, err = startCounting(t, addr, dir, "", cfg); err != nil {
			t.Errorf("restart after kill %d: %v", k.count(), err)
			break
		}
	}
	close(stopped)
	wg.Wait()

	c := newClient(t, client.Config{Addr: "http://" + addr})
	ran := runs(t, dir)
	var size, sent int64
	reruns := 0
	for _, j := range jobs {
		if got := ran[j.id]; got != j.runsWhenDone {
			t.Errorf("%s ran %d times, %d of them after it had been reported done", j.id, got, got-j.runsWhenDone)
		}
		reruns += j.runsWhenDone - 1
		if over := j.sent - int64(len(j.payload)) - int64(j.kills)*mostResent; over > 0 {
			t.Errorf("%s: %d bytes too many were sent: %d of %d, with %d kills", j.id, over, j.sent, len(j.payload), j.kills)
		}
		size += int64(len(j.payload))
		sent += j.sent
		m, err := c.Get(t.Context(), j.id)
		if err != nil || m.GetState() != aipodv1.State_STATE_SUCCEEDED {
			t.Errorf("%s is lost: %v, %v", j.id, m.GetState(), err)
		}
		if err := c.Delete(t.Context(), j.id); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data", "spool", "*", "*")); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
	t.Logf("%d kills (jobs by state as they came: %v), %d jobs, %d MiB of payload, %.3f of them sent, %.2f MiB again per kill, %d functions begun again",
		k.count(), states, len(jobs), size>>20, float64(sent)/float64(size), float64(sent-size)/(1<<20)/float64(k.count()), reruns)
}

// A killer counts kills, and knows where the jobs are.
type killer struct {
	mu  sync.Mutex
	n   int
	now map[string]aipodv1.State
}

func (k *killer) add() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n++
}

func (k *killer) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n
}

func (k *killer) sees(id string, s aipodv1.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now == nil {
		k.now = map[string]aipodv1.State{}
	}
	k.now[id] = s
	if s == aipodv1.State_STATE_UNSPECIFIED {
		delete(k.now, id)
	}
}

func (k *killer) states() (all []aipodv1.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.now {
		all = append(all, s)
	}
	return all
}

// A torturedJob echoes or digests its payload.
type torturedJob struct {
	jobCase
	id           string
	kills        int
	sent         int64
	runsWhenDone int
}

func newTorturedJob(id string) *torturedJob {
	j := &torturedJob{id: id}
	j.name, j.fn = id, "digest"
	if rand.IntN(2) == 0 {
		j.fn = "echo"
	}
	j.payload = randomBytes(rand.IntN(48 << 20))
	j.kwargs.Millis = rand.IntN(200)
	return j
}

func (j *torturedJob) run(t *testing.T, c *client.Client, k *killer, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	kwargs, err := json.Marshal(j.kwargs)
	if err != nil {
		t.Error(err)
		return
	}
	before := k.count()
	res, err := c.Run(ctx, client.Call{
		Func: j.fn, Kwargs: kwargs, JobID: j.id, Heartbeat: 200 * time.Millisecond,
		Payload: client.ReaderAt(bytes.NewReader(j.payload), int64(len(j.payload))),
		Watch: func(e client.Event) {
			switch e := e.(type) {
			case client.Accepted:
				k.sees(j.id, e.State)
			case client.Heartbeat:
				k.sees(j.id, e.State)
			case client.Received:
				k.sees(j.id, aipodv1.State_STATE_SUCCEEDED) // downloading
			case client.Lost:
				t.Errorf("%s was lost", j.id)
			}
		},
	})
	k.sees(j.id, aipodv1.State_STATE_UNSPECIFIED)
	if err == nil {
		err = j.check(res.JSON, res.Output)
	}
	if err != nil {
		t.Errorf("%s, %s of %d bytes: %v", j.id, j.fn, len(j.payload), err)
		return
	}
	j.kills, j.sent, j.runsWhenDone = k.count()-before+1, res.Stats.Sent, runs(t, dir)[j.id]
}
