package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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

func TestTerminalShowsUploadAndLiveness(t *testing.T) {
	for name, size := range map[string]int64{"known": 100 << 20, "unknown": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, state := new(screen), new(callState)
				view := newTerminalView(out, state, callSpec{payload: source{size: size}, heartbeat: time.Second}, false)
				time.Sleep(50 * time.Millisecond) // between the ticks
				for range 5 {
					time.Sleep(100 * time.Millisecond)
					state.sent.Add(10 << 20)
					state.lastSeen.Store(time.Now().UnixNano())
				}
				time.Sleep(500 * time.Millisecond)
				state.sent.Add(50 << 20)
				state.lastSeen.Store(time.Now().UnixNano())
				time.Sleep(500 * time.Millisecond)
				state.uploaded.Store(time.Now().UnixNano())
				time.Sleep(2 * time.Second)
				view.close()
				text := out.String()
				want := []string{"upload 50 MiB", "100 MiB/s", "upload 100 MiB", "running 3.", "last sign of life 2."}
				if size > 0 {
					want = append(want, "50 MiB of 100 MiB", "s left", "[=")
				}
				for _, w := range want {
					if !strings.Contains(text, w) {
						t.Errorf("%q was never shown:\n%q", w, text)
					}
				}
				if strings.Contains(text, "\x1b[33m") || strings.Contains(text, "no sign of life") {
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

func TestTerminalSaysNothingOfShortCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(screen)
		view := newTerminalView(out, new(callState), callSpec{payload: source{size: 5}, heartbeat: time.Second}, true)
		time.Sleep(displayDelay - displayTick)
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
			out, state := new(screen), new(callState)
			view := newTerminalView(out, state, callSpec{heartbeat: time.Second}, color)
			time.Sleep(10 * time.Second) // before the first sign there is nothing to miss
			if text := out.String(); strings.Contains(text, "no sign of life") {
				t.Errorf("a warning before the first heartbeat:\n%q", text)
			}
			for range 2 {
				state.lastSeen.Store(time.Now().UnixNano())
				time.Sleep(2900 * time.Millisecond)
				state.lastSeen.Store(time.Now().UnixNano())
				time.Sleep(5 * time.Second)
			}
			state.lastSeen.Store(time.Now().UnixNano())
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
	got := s.run(t, "call", "hello")
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
