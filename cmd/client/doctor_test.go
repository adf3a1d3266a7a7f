package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/doctor"
)

// The shortest run. Unlike those of other commands it takes a second.
var shortDoctor = []string{"doctor", "--silence", "1s", "--max", "1s"}

func TestDoctor(t *testing.T) {
	t.Parallel()
	got := run(t, shortDoctor...)
	if got.code != exitDone || got.stderr != "" {
		t.Errorf("exit %d, stderr %q", got.code, got.stderr)
	}
	for _, want := range []string{
		podAddr, "\nok       h2        HTTP/2 without TLS: Connect, gRPC and gRPC-Web work\n",
		"\nok       http/1.1  answers come as they are sent\n", "\nno problems, no notes\n",
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("the report lacks %q:\n%s", want, got.stdout)
		}
	}
}

func TestDoctorFindsAProblem(t *testing.T) {
	t.Parallel()
	pod := openPod(t)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 1<<20 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		pod.Handler().ServeHTTP(w, r)
	}))
	s := &session{addr: addr, terminal: true}
	got := s.run(t, append(shortDoctor, "--json")...)
	if got.code != exitFailed {
		t.Errorf("exit %d, want %d", got.code, exitFailed)
	}
	if !strings.Contains(got.stderr, "timeouts over h2") || !strings.HasSuffix(got.stderr, "\r\x1b[K") {
		t.Errorf("the terminal shows no progress, or it stays: %q", got.stderr)
	}
	limits := 0
	for lines := bufio.NewScanner(strings.NewReader(got.stdout)); lines.Scan(); {
		var f doctor.Finding
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if f.Level == doctor.Problem && f.Kind == doctor.MessageLimit {
			limits++
		}
	}
	if limits != 2 { // one for each HTTP version
		t.Errorf("%d limits were found:\n%s", limits, got.stdout)
	}
}

func TestDoctorFailures(t *testing.T) {
	t.Parallel()
	noPod := serve(t, http.NotFoundHandler())
	for _, test := range []struct {
		args []string
		code int
		want string // in stderr
	}{
		{[]string{"127.0.0.1:1"}, exitUnreachable, "no pod answers at http://127.0.0.1:1"},
		{[]string{noPod}, exitUnreachable, "something listens at " + noPod + ", but no pod answers"},
		{[]string{"http://a", "http://b"}, exitUsage, "one argument too many"},
		{[]string{"ftp://a"}, exitUsage, "is not the address of a pod"},
		{[]string{"--silence", "1m"}, exitUsage, "--silence 1m0s: give 1s to 30s"},
		{[]string{"--max", "0s"}, exitUsage, "--max 0s: give 1s to 1h0m0s"},
		{[]string{"--protocol", "grpc"}, exitUsage, "unknown flag"},
	} {
		got := run(t, append([]string{"doctor"}, test.args...)...)
		if got.code != test.code || !strings.Contains(got.stderr, test.want) || got.stdout != "" {
			t.Errorf("%q: exit %d, stderr %q, stdout %q", test.args, got.code, got.stderr, got.stdout)
		}
	}
}

func TestDoctorInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begun := time.Now()
	got := (&session{ctx: ctx}).run(t, "doctor")
	if took := time.Since(begun); got.code != exitInterrupted || took > 4*time.Second {
		t.Errorf("exit %d after %v", got.code, took)
	}
}

func TestWriteFindings(t *testing.T) {
	t.Parallel()
	found := []doctor.Finding{
		{Level: doctor.OK, Over: "h2", Text: "all is well"},
		{Level: doctor.Problem, Text: "it is cut", Costs: "calls", Nginx: "a 1;", HAProxy: "b 2", Envoy: "c: 3"},
	}
	var plain, colored strings.Builder
	if err := writeFindings(&plain, "http://x", found, false); err != nil {
		t.Fatal(err)
	}
	want := `http://x

ok       h2        all is well
problem            it is cut
                   costs:   calls
                   nginx:   a 1;
                   haproxy: b 2
                   envoy:   c: 3

1 problem, no notes
`
	if plain.String() != want {
		t.Errorf("got\n%s\nwant\n%s", plain.String(), want)
	}
	if err := writeFindings(&colored, "http://x", found, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(colored.String(), "\x1b[31mproblem\x1b[0m") {
		t.Errorf("no colour: %q", colored.String())
	}
}
