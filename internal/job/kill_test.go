package job

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// killedDir is where TestKill's child process has its pod.
const killedDir = "AIPOD_JOB_TEST_DIR"

// A process is killed at a random moment while it takes jobs through their states.
// What it had said of them is so, and the next one brings them to their end.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		workUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	done := map[string]string{} // what was done last, by job
	for round := range 4 {
		killWorker(t, dir, done)
		p := startPod(t, dir, podConfig{Config: Config{MaxAttempts: 1000}})
		if len(p.List()) == 0 {
			t.Errorf("round %d: no job is there", round)
		}
		if strings.Contains(p.logs.String(), "aside") {
			t.Errorf("round %d: records are damaged", round)
		}
		counts := map[string]int{}
		for id, what := range done {
			counts[what]++
			checkKilled(t, p, id, what)
		}
		t.Logf("round %d: %v", round, counts)
		for _, j := range p.List() { // among them those of which nobody has heard
			if j.State() == Receiving {
				finishKilled(t, j)
			}
			data := inputOf(j.ID)
			if j.Spec().Func == "copy" {
				wantOutput(t, j, data)
			} else {
				wantResult(t, j, echoed(data))
			}
			if err := p.Delete(j.ID); err != nil {
				t.Error(err)
			}
		}
		clear(done)
		p.stop()
	}
}

// checkKilled checks a job of which a process has said that something was done.
func checkKilled(t *testing.T, p *testPod, id, what string) {
	j, err := p.Get(id)
	if what == "deleted" {
		if err == nil {
			t.Errorf("job %s is back: %v", id, j.State())
		}
		return
	}
	if err != nil {
		if what != "deleting" {
			t.Errorf("job %s was %s: %v", id, what, err)
		}
		return
	}
	s := j.Snapshot()
	switch what {
	case "put":
		if want := int64(len(inputOf(id)) / 2); s.State == Receiving && s.Committed < want {
			t.Errorf("job %s has %d bytes of %d", id, s.Committed, want)
		}
	case "queued":
		if s.State == Receiving {
			t.Errorf("job %s receives again", id)
		}
	case "ended", "deleting":
		if s.State != Succeeded || s.Attempt == 0 {
			t.Errorf("job %s had ended: %+v", id, s)
		}
	}
}

func finishKilled(t *testing.T, j *Job) {
	t.Helper()
	data := inputOf(j.ID)
	put(t, j, int(j.Committed()), data[j.Committed():])
	closeInput(t, j, data)
}

// killWorker runs the test as another process for some time, and says what that
// did last with each job.
func killWorker(t *testing.T, dir string, done map[string]string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), killedDir+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 20 + rand.IntN(200); lines.Scan(); n-- {
		if what, id, ok := strings.Cut(lines.Text(), " "); ok {
			done[id] = what
		}
		if n == 0 { // the child is past that by now; what it had said is in the pipe
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the child ended by itself: %v\n%v\n%s", err, done, &stderr)
	}
}

// inputOf is the input of a job by its id, of various sizes.
func inputOf(id string) []byte {
	sizes := []int{10, recordedInput, recordedInput + 1, 200_000}
	return pattern(sizes[int(id[len(id)-1])%len(sizes)])
}

// workUntilKilled takes jobs through their states, and says so.
func workUntilKilled(t *testing.T, dir string) {
	p := startPod(t, dir, podConfig{Config: Config{MaxAttempts: 1000}})
	var mu sync.Mutex
	say := func(what, id string) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := fmt.Println(what, id); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := 0; !t.Failed(); n++ {
				id := fmt.Sprintf("w%d-%d", worker, n)
				spec := Spec{Func: []string{"echo", "copy"}[n/4%2]}
				data := inputOf(id)
				j := p.create(t, id, spec)
				say("created", id)
				put(t, j, 0, data[:len(data)/2])
				say("put", id)
				if n%5 == 0 {
					continue // goes on later
				}
				finishKilled(t, j)
				say("queued", id)
				await(t, j, Succeeded)
				say("ended", id)
				if n%3 == 0 {
					say("deleting", id)
					if err := p.Delete(id); err != nil {
						t.Error(err)
					}
					say("deleted", id)
				}
			}
		})
	}
	wg.Wait()
}
