package main

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A screen is what was written to a terminal.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// show makes a view of a job on a terminal.
func show(out *screen, how showing, color bool) *tracker {
	how.heartbeat = time.Second
	a := &app{stderr: out, terminal: func(any) bool { return true }, lookupEnv: func(name string) (string, bool) {
		if name == "NO_COLOR" && !color {
			return "1", true
		}
		return "", false
	}}
	return a.track(how)
}

func heard(s aipodv1.State) client.Heartbeat { return client.Heartbeat{State: s, WorkerAge: -1} }

const (
	receiving = aipodv1.State_STATE_RECEIVING
	queued    = aipodv1.State_STATE_QUEUED
	loading   = aipodv1.State_STATE_LOADING
	running   = aipodv1.State_STATE_RUNNING
	succeeded = aipodv1.State_STATE_SUCCEEDED
)

func TestTerminalShowsUploadAndLiveness(t *testing.T) {
	for name, size := range map[string]int64{"known": 100 << 20, "unknown": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := new(screen)
				view := show(out, showing{fn: "f", size: size}, false)
				time.Sleep(50 * time.Millisecond) // between the ticks
				view.watch(client.Connecting{Stream: 1})
				view.watch(client.Accepted{JobID: "j", State: receiving})
				for i := range int64(5) {
					time.Sleep(100 * time.Millisecond)
					view.watch(client.Sent{Offset: (i + 2) * 10 << 20, Size: size})
					view.watch(client.Heartbeat{State: receiving, Committed: (i + 1) * 10 << 20, WorkerAge: -1})
				}
				time.Sleep(500 * time.Millisecond)
				view.watch(client.Sent{Offset: 100 << 20, Size: size})
				time.Sleep(500 * time.Millisecond)
				view.watch(client.Uploaded{Size: 100 << 20})
				time.Sleep(500 * time.Millisecond)
				if text := out.String(); strings.Contains(text, "upload 100 MiB") || strings.Contains(text, "stores") {
					t.Errorf("half of it is under way, and this was shown:\n%q", text)
				}
				view.watch(client.Heartbeat{State: receiving, Committed: 100 << 20, WorkerAge: -1})
				time.Sleep(500 * time.Millisecond)
				view.watch(client.Heartbeat{State: queued, QueuePosition: 3, WorkerAge: -1})
				time.Sleep(500 * time.Millisecond)
				view.watch(heard(loading))
				time.Sleep(500 * time.Millisecond)
				view.watch(heard(running))
				time.Sleep(500 * time.Millisecond)
				view.watch(client.Progress{Done: 7, Total: 10, Unit: "rows", Note: "loss 0.5"})
				time.Sleep(2 * time.Second)
				view.watch(client.Received{Offset: 5 << 20})
				time.Sleep(500 * time.Millisecond)
				view.close()
				text := out.String()
				want := []string{
					"upload 50 MiB", "100 MiB/s", "upload 100 MiB", "the pod stores the input 0.", "queued (position 3) 0.", "loading the model 0.",
					"running 0.", "output 5.0 MiB at ",
				}
				if size > 0 {
					want = append(want, "50 MiB of 100 MiB", "s left", "[=")
				}
				for _, w := range want {
					if !strings.Contains(text, w) {
						t.Errorf("%q was never shown:\n%q", w, text)
					}
				}
				// Which tick comes last before the output isn't sure.
				if want := regexp.MustCompile(`running 2\.\ds, 7/10 rows, loss 0\.5, last sign of life 1\.`); !want.MatchString(text) {
					t.Errorf("%v was never shown:\n%q", want, text)
				}
				if strings.Contains(text, "\x1b[33m") || strings.Contains(text, "no sign of life") || strings.Contains(text, "client:") {
					t.Errorf("a warning without a reason:\n%q", text)
				}
				last := text[strings.LastIndex(text, "\x1b[J"):]
				if strings.Contains(last, "running") || !strings.Contains(last, "upload 100 MiB") {
					t.Errorf("what stays is %q, want the upload alone", last)
				}
			})
		})
	}
}

// What costs time is explained, and each cut looks as harmless as it is.
func TestTerminalShowsTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(screen)
		view := show(out, showing{fn: "f", size: 100}, true)
		view.watch(client.Accepted{JobID: "j", State: receiving})
		view.watch(client.Sent{Offset: 50, Size: 100})
		time.Sleep(time.Second)
		view.watch(client.Reconnecting{Failures: 3, Pause: 5 * time.Second, Why: errors.New("cable loose")})
		time.Sleep(4 * time.Second)
		view.watch(client.Connecting{Stream: 2})
		view.watch(client.Accepted{JobID: "j", State: receiving, Committed: 40, Attached: true})
		time.Sleep(time.Second)
		view.watch(client.Superseded{})
		time.Sleep(time.Second)
		view.watch(client.Resumed{})
		view.watch(client.Reconnecting{Failures: 1, Pause: 5 * time.Second, Why: errors.New("the queue is full"), Refused: true})
		time.Sleep(time.Second)
		view.watch(client.Lost{JobID: "j"})
		view.watch(client.Accepted{JobID: "j", State: receiving})
		time.Sleep(time.Second)
		view.watch(client.Sent{Offset: 100, Size: 100})
		view.watch(client.Uploaded{Size: 100})
		view.watch(heard(running))
		time.Sleep(time.Second)
		view.watch(client.Heartbeat{State: running, Attempt: 1, WorkerAge: -1})
		view.watch(client.Heartbeat{State: running, Attempt: 2, WorkerAge: -1})
		time.Sleep(time.Second)
		view.close()
		text := out.String()
		for _, want := range []string{
			"\x1b[33mreconnecting 2.", ": cable loose; nothing is lost, next attempt in 3.", "upload 40 B of 100 B",
			"another client sends the input, 40 B are there", "client: another client sends the input of this job now: waiting for it\n",
			"client: the other client has stopped: sending the rest\n", "no room 0.", "client: the pod has lost the job: sending it again\n",
			"upload 0 B of 100 B", "client: the function is begun again: attempt 2\n", "running (attempt 2) 1.",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%q was never shown:\n%q", want, text)
			}
		}
	})
}

// A terminal that can't move its cursor gets a line now and then.
func TestTerminalDumb(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(screen)
		a := &app{stderr: out, terminal: func(any) bool { return true }, lookupEnv: func(name string) (string, bool) {
			return "dumb", name == "TERM"
		}}
		view := a.track(showing{fn: "f", size: 100 << 20, heartbeat: time.Second})
		time.Sleep(50 * time.Millisecond) // between the ticks
		view.watch(client.Accepted{JobID: "j", State: receiving})
		for i := range int64(10) {
			view.watch(client.Sent{Offset: (i + 1) * 10 << 20, Size: 100 << 20})
			time.Sleep(time.Second)
			view.watch(client.Heartbeat{State: receiving, Committed: (i + 1) * 10 << 20, WorkerAge: -1})
		}
		view.watch(client.Uploaded{Size: 100 << 20})
		view.watch(heard(running))
		view.watch(client.Progress{Done: 7, Total: 10, Unit: "rows"})
		time.Sleep(4 * time.Second)
		view.watch(client.Reconnecting{Failures: 1, Pause: 5 * time.Second, Why: errors.New("cable loose")})
		time.Sleep(5 * time.Second)
		view.close()
		want := "client: upload 40 MiB of 100 MiB, 7.7 MiB/s, 7.8s left\n" +
			"client: upload 90 MiB of 100 MiB, 8.4 MiB/s, 1.2s left\n" +
			"client: reconnecting 0.9s: cable loose; nothing is lost, next attempt in 4.0s\n"
		if got := out.String(); got != want {
			t.Errorf("%s, want\n%s", got, want)
		}
	})
}

func TestTerminalSaysNothingOfShortCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(screen)
		view := show(out, showing{fn: "f", size: 5}, true)
		view.watch(client.Accepted{JobID: "j", State: running})
		time.Sleep(displayDelay - displayTick)
		view.close()
		view.close()
		if text := out.String(); text != "" {
			t.Errorf("%q, want nothing", text)
		}
	})
}

// A pod that falls silent is worth one warning for each silence.
func TestTerminalWarnsOfSilence(t *testing.T) {
	for _, color := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			out := new(screen)
			view := show(out, showing{fn: "f", legacy: true}, color)
			time.Sleep(10 * time.Second) // before the first sign there is nothing to miss
			if text := out.String(); strings.Contains(text, "no sign of life") {
				t.Errorf("a warning before the first heartbeat:\n%q", text)
			}
			for range 2 {
				view.watch(client.Heartbeat{})
				time.Sleep(2900 * time.Millisecond)
				view.watch(client.Heartbeat{})
				time.Sleep(5 * time.Second)
			}
			view.watch(client.Heartbeat{})
			time.Sleep(time.Second)
			view.close()
			text := out.String()
			if n := strings.Count(text, "no sign of life from the pod for 3."); n != 2 {
				t.Errorf("%d warnings, want 2:\n%q", n, text)
			}
			if n := strings.Count(text, "the pod is back"); n != 2 {
				t.Errorf("the pod is back %d times, want 2:\n%q", n, text)
			}
			if strings.Contains(text, "\x1b[33m") != color {
				t.Errorf("with color %v:\n%q", color, text)
			}
		})
	}
}

func TestTerminalShowsRetries(t *testing.T) {
	s := &session{addr: "127.0.0.1:1", terminal: true}
	got := s.run(t, "call", "hello", "--legacy")
	if n := strings.Count(got.stderr, "connection refused; attempt "); n != 4 || got.code != exitUnreachable {
		t.Errorf("%d retries shown: %+v", n, got)
	}
}

func TestNoColor(t *testing.T) {
	for value, want := range map[string]bool{"": true, "1": false} {
		a := &app{lookupEnv: func(name string) (string, bool) { return value, name == "NO_COLOR" }}
		if got := a.color(); got != want {
			t.Errorf("NO_COLOR=%q: color %v, want %v", value, got, want)
		}
	}
}

func TestMeter(t *testing.T) {
	var m meter
	at := time.Unix(0, 0)
	for i := range int64(51) { // 10 s of 1 MiB/s
		m.add(i<<20/5, at)
		at = at.Add(200 * time.Millisecond)
	}
	if got := m.text(20 << 20); got != "1.0 MiB/s, 10s left" {
		t.Errorf("%q", got)
	}
	if got := m.text(-1); got != "1.0 MiB/s" {
		t.Errorf("%q", got)
	}
	for range 50 { // it stalls
		m.add(10<<20, at)
		at = at.Add(200 * time.Millisecond)
	}
	if m.rate > 1<<18 {
		t.Errorf("a stalled upload still shows %s", m.text(20<<20))
	}
	if got := m.text(10 << 20); got != "1.0 MiB/s" {
		t.Errorf("when done: %q, want the average until then", got)
	}
	m.add(1<<20, at) // starts again
	if m.begun != 1<<20 || m.rate != 0 {
		t.Errorf("after a new start: %+v", m)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 440 * time.Millisecond: "0.4s", 12345 * time.Millisecond: "12s", 200 * time.Second: "3m20s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v reads %q, want %q", d, got, want)
		}
	}
}
