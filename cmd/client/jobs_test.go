package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/tabular"
)

// startJob starts a named job whose function sleeps, and waits until it runs.
func startJob(t *testing.T, id string, seconds string) (ended chan outcome, interrupt func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	running := make(chan struct{}, 1)
	s := &session{ctx: ctx, out: func(text string) {
		if strings.Contains(text, `"running"`) {
			select {
			case running <- struct{}{}:
			default:
			}
		}
	}}
	ended = make(chan outcome, 1)
	go func() { ended <- s.run(t, "call", "sleep", "-k", "seconds="+seconds, "--job-id", id, "--json") }()
	t.Cleanup(func() { run(t, "jobs", "rm", id) })
	select {
	case <-running:
	case got := <-ended:
		t.Fatalf("the job %s ended: %+v", id, got)
	case <-time.After(10 * time.Second):
		t.Fatalf("the job %s does not run", id)
	}
	return ended, func() { cancel(interruption{os.Interrupt}) }
}

func parseJob(t *testing.T, text string) *aipodv1.Job {
	t.Helper()
	job := new(aipodv1.Job)
	if err := protojson.Unmarshal([]byte(text), job); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("%q is not a job in a line of JSON: %v", text, err)
	}
	return job
}

// awaitState waits until the pod says that of a job.
func awaitState(t *testing.T, id string, want aipodv1.State) {
	t.Helper()
	var job *aipodv1.Job
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if job = parseJob(t, ok(t, "jobs", "get", id, "--json")); job.GetState() == want {
			return
		}
	}
	t.Fatalf("the job %s is %v, want %v", id, job.GetState(), want)
}

func TestJobsOfAnEmptyPod(t *testing.T) {
	s := &session{addr: serve(t, openPod(t).Handler())}
	if got := s.run(t, "jobs", "ls"); got.code != exitDone || strings.Count(got.stdout, "\n") != 1 || !strings.HasPrefix(got.stdout, "JOB ") {
		t.Errorf("ls: %+v", got)
	}
	got := s.run(t, "jobs", "ls", "--json")
	if list := new(aipodv1.ListJobsResponse); got.code != exitDone || protojson.Unmarshal([]byte(got.stdout), list) != nil || len(list.GetJobs()) > 0 {
		t.Errorf("ls --json: %+v", got)
	}
}

func TestJobsUnknown(t *testing.T) {
	for _, command := range []string{"get", "attach", "logs", "cancel"} {
		got := run(t, "jobs", command, "nobody")
		if got.code != exitFailed || got.stdout != "" || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, "not_found: ") {
			t.Errorf("%s: %+v", command, got)
		}
	}
	ok(t, "jobs", "rm", "nobody")
	down := &session{addr: "127.0.0.1:1"}
	for _, command := range []string{"ls", "cancel a b"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			got := down.run(t, append([]string{"jobs"}, strings.Fields(command)...)...)
			if got.code != exitUnreachable || strings.Count(got.stderr, "no pod answers") != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestJobsOfAnEndedJob(t *testing.T) {
	const id = "jobs-ended"
	data := strings.Repeat("some text\n", 1000)
	s := &session{stdin: strings.NewReader(data)}
	want := s.run(t, "call", "sha256", "-f", "-", "--job-id", id).stdout
	t.Cleanup(func() { run(t, "jobs", "rm", id) })
	if want != digest([]byte(data)) {
		t.Fatalf("the call gave %q", want)
	}
	if got := ok(t, "jobs", "attach", id); got != want {
		t.Errorf("attach printed %q, want %q", got, want)
	}
	path := filepath.Join(t.TempDir(), "result")
	if got := ok(t, "jobs", "attach", id, "-o", path); got != "" {
		t.Errorf("attach -o printed %q", got)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("attach -o wrote %q, %v", got, err)
	}
	job := parseJob(t, ok(t, "jobs", "get", id, "--json"))
	if job.GetJobId() != id || job.GetState() != aipodv1.State_STATE_SUCCEEDED || job.GetCommitted() != int64(len(data)) || job.GetAttempt() != 1 {
		t.Errorf("get --json: %v", job)
	}
	text := ok(t, "jobs", "get", id)
	for _, line := range []string{`job +jobs-ended`, `func +sha256`, `state +succeeded`, `input +9\.8 KiB`, `ended +.*s ago`, `expires +.* in 59m\d\ds`, `result +\{"sha256":"[0-9a-f]{64}","size":10000\}`} {
		if !regexp.MustCompile(`(?m)^(` + line + `)$`).MatchString(text) {
			t.Errorf("get: %q is missing:\n%s", line, text)
		}
	}
	row := regexp.MustCompile(`(?m)^jobs-ended +sha256 +- +succeeded +9\.8 KiB +.*s +in 59m\d\ds$`)
	for states, listed := range map[string]bool{"succeeded": true, "Failed,SUCCEEDED": true, "running,queued": false} {
		if got := ok(t, "jobs", "ls", "--state", states); row.MatchString(got) != listed {
			t.Errorf("ls --state %s:\n%s", states, got)
		}
	}
	if got := ok(t, "jobs", "cancel", id); got != "the job "+id+" had succeeded already\n" {
		t.Errorf("cancel printed %q", got)
	}
	if got := ok(t, "jobs", "rm", id, id); got != "" {
		t.Errorf("rm printed %q", got)
	}
	if got := run(t, "jobs", "get", id); got.code != exitFailed {
		t.Errorf("get after rm: %+v", got)
	}
}

func TestJobsLogs(t *testing.T) {
	const id = "jobs-logs"
	known, _ := holdOut(tabular.Iris())
	path := filepath.Join(t.TempDir(), "train.csv")
	if err := os.WriteFile(path, known.csv(known.header), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "call", "train", "-f", path, "-k", "target=species", "--version", id, "--job-id", id)
	t.Cleanup(func() { run(t, "jobs", "rm", id) })
	line := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO  `)
	followed, kept := ok(t, "jobs", "logs", id), ok(t, "jobs", "logs", id, "--follow=false")
	if followed != kept || followed == "" {
		t.Errorf("followed %q, kept %q", followed, kept)
	}
	for l := range strings.Lines(kept) {
		if !line.MatchString(l) {
			t.Errorf("the line %q", l)
		}
	}
}

func TestJobsCancel(t *testing.T) {
	const id = "jobs-cancel"
	ended, _ := startJob(t, id, "60")
	if got := ok(t, "jobs", "ls", "--state", "running"); !strings.Contains(got, "\n"+id+" ") {
		t.Errorf("ls:\n%s", got)
	}
	// The unknown one does not keep the other from being canceled.
	got := run(t, "jobs", "cancel", "nobody", id)
	if got.code != exitFailed || !regexp.MustCompile(`^the job jobs-cancel is (being )?canceled\n$`).MatchString(got.stdout) || strings.Count(got.stderr, "not_found") != 1 {
		t.Errorf("cancel: %+v", got)
	}
	if got := <-ended; got.code != exitFailed || !strings.Contains(got.stderr, "canceled") {
		t.Errorf("the call: %+v", got)
	}
	awaitState(t, id, aipodv1.State_STATE_CANCELED)
}

// Ctrl-C leaves a named job alone and says how to come back; attach then gets the
// result.
func TestInterruptDetaches(t *testing.T) {
	t.Parallel()
	const id = "jobs-detach"
	ended, interrupt := startJob(t, id, "2")
	interrupt()
	got := <-ended
	if got.code != exitInterrupted || !strings.Contains(got.stderr, "the job "+id+" goes on: client jobs attach "+id) {
		t.Errorf("interrupted: %+v", got)
	}
	list := events(t, got.stdout)
	if e := list[len(list)-2]; e.Event != "detached" || e.Job != id || e.State != "running" {
		t.Errorf("the last events: %+v", list[len(list)-2:])
	}
	if got := ok(t, "jobs", "attach", id); got != `{"slept":2}`+"\n" {
		t.Errorf("attach printed %q", got)
	}
	if job := parseJob(t, ok(t, "jobs", "get", id, "--json")); job.GetAttempt() != 1 {
		t.Errorf("it was run %d times", job.GetAttempt())
	}
}

// The second Ctrl-C cancels the job, of a call and of attach.
func TestInterruptTwiceCancels(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{false, true} {
		const id = "jobs-interrupted"
		_, leave := startJob(t, id, "60")
		leave()
		ctx, cancel := context.WithCancelCause(t.Context())
		again := make(chan struct{})
		time.AfterFunc(time.Second, func() {
			if !terminal {
				close(again)
			}
			cancel(interruption{os.Interrupt})
			if terminal {
				time.AfterFunc(200*time.Millisecond, func() { close(again) })
			}
		})
		got := (&session{ctx: ctx, again: again, terminal: terminal}).run(t, "jobs", "attach", id)
		if got.code != exitInterrupted || !regexp.MustCompile(`the job `+id+` is (being )?canceled\n`).MatchString(got.stderr) ||
			strings.Contains(got.stderr, "Ctrl-C again within 3 s cancels it") != terminal {
			t.Errorf("terminal %v: %+v", terminal, got)
		}
		awaitState(t, id, aipodv1.State_STATE_CANCELED)
		ok(t, "jobs", "rm", id)
	}
}

// Without a name, the job ends with its caller.
func TestInterruptEndsUnnamedJob(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &session{ctx: ctx, out: func(text string) {
		if strings.Contains(text, `"running"`) {
			cancel(interruption{os.Interrupt})
		}
	}}
	got := s.run(t, "call", "sleep", "-k", "seconds=60", "--json")
	if got.code != exitInterrupted || !strings.Contains(got.stderr, "interrupted") || strings.Contains(got.stderr, "attach") {
		t.Errorf("%+v", got)
	}
	var first event
	if err := json.NewDecoder(bytes.NewReader([]byte(got.stdout))).Decode(&first); err != nil || first.Job == "" {
		t.Fatalf("the first event of %q: %v", got.stdout, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if got := run(t, "jobs", "get", first.Job); got.code == exitFailed {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the job is still there: %s", got.stdout)
		}
	}
}
