package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/tabular"
	"github.com/aipod/aipod/internal/transport"
)

// eachProtocol runs a test of --legacy with all protocols.
func eachProtocol(t *testing.T, test func(t *testing.T, call func(args ...string) []string)) {
	for _, protocol := range transport.Protocols {
		flags := []string{"call", "--legacy", "--protocol", string(protocol)}
		t.Run(string(protocol), func(t *testing.T) {
			test(t, func(args ...string) []string { return append(slices.Clip(flags), args...) })
		})
	}
}

// eachWay runs a test with all protocols and in both modes; call makes the
// arguments of a call from its own ones.
func eachWay(t *testing.T, test func(t *testing.T, call func(args ...string) []string)) {
	for _, protocol := range transport.Protocols {
		for _, mode := range []string{"plain", "legacy"} {
			flags := []string{"call", "--protocol", string(protocol), "--legacy=" + strconv.FormatBool(mode == "legacy")}
			t.Run(string(protocol)+" "+mode, func(t *testing.T) {
				test(t, func(args ...string) []string { return append(slices.Clip(flags), args...) })
			})
		}
	}
}

func TestCallHello(t *testing.T) {
	eachWay(t, func(t *testing.T, call func(...string) []string) {
		got := ok(t, call("hello", "-k", "name=bob")...)
		if want := `{"hello":"bob","name":"bob","model":"tabular","version":""}` + "\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func generate(t *testing.T, kind bench.Kind, size int64) []byte {
	t.Helper()
	r, err := bench.NewPayload(kind, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func digest(data []byte) string {
	return fmt.Sprintf(`{"sha256":"%x","size":%d}`+"\n", sha256.Sum256(data), len(data))
}

func TestCallSendsThePayload(t *testing.T) {
	dir := t.TempDir()
	eachWay(t, func(t *testing.T, call func(...string) []string) {
		for _, size := range []int64{0, 1, legacyChunk, codec.DefaultChunk - 1, codec.DefaultChunk, codec.DefaultChunk + 1, 3 << 20} {
			data := generate(t, bench.Text, size)
			path := filepath.Join(dir, "payload")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := ok(t, call("sha256", "-f", path)...); got != digest(data) {
				t.Errorf("%d bytes from a file: %s, want %s", size, got, digest(data))
			}
			s := &session{stdin: iotest.HalfReader(bytes.NewReader(data))}
			if got := s.run(t, call("sha256", "-f", "-")...); got.stdout != digest(data) || got.stderr != "" {
				t.Errorf("%d bytes from stdin: %+v, want %s", size, got, digest(data))
			}
		}
		data := generate(t, bench.Random, 2<<20)
		if got := ok(t, call("sha256", "--generate", "2MiB")...); got != digest(data) {
			t.Errorf("generated: %s, want %s", got, digest(data))
		}
	})
}

func TestCallCompresses(t *testing.T) {
	data := generate(t, bench.Text, 2<<20)
	for _, flag := range []string{
		"--legacy --compression=identity", "--legacy --compression=gzip", "--legacy --compression=zstd",
		"--codec=adaptive", "--codec=raw", "--codec=fastest", "--codec=default", "--codec=better",
	} {
		for _, protocol := range transport.Protocols {
			args := append([]string{"call", "sha256", "--generate", "2MiB", "--generate-kind", "text", "--protocol", string(protocol)}, strings.Fields(flag)...)
			if got := ok(t, args...); got != digest(data) {
				t.Errorf("%s over %s: %s, want %s", flag, protocol, got, digest(data))
			}
		}
	}
}

func TestCallTrainAndPredict(t *testing.T) {
	dir := t.TempDir()
	known, held := holdOut(tabular.Iris())
	train, predict := filepath.Join(dir, "train.csv"), filepath.Join(dir, "predict.csv")
	for path, data := range map[string][]byte{train: known.csv(known.header), predict: held.csv(held.header)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	eachWay(t, func(t *testing.T, call func(...string) []string) {
		version := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
		ok(t, call("train", "-f", train, "-k", "target=species", "--version", version)...)
		var result struct {
			Version  string
			Rows     int
			Accuracy float64
		}
		if err := json.Unmarshal([]byte(ok(t, call("predict", "-f", predict, "--version", version)...)), &result); err != nil {
			t.Fatal(err)
		}
		if result.Version != version || result.Rows != 30 || result.Accuracy < demoAccuracy {
			t.Errorf("predicted %+v, want version %s, 30 rows and an accuracy of %v", result, version, demoAccuracy)
		}
		if got := ok(t, "functions"); !strings.Contains(got, version) {
			t.Errorf("functions does not list version %s:\n%s", version, got)
		}
	})
}

func TestCallThatFails(t *testing.T) {
	eachWay(t, func(t *testing.T, call func(...string) []string) {
		id := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
		for _, test := range []struct {
			args []string
			want string
		}{
			{
				[]string{"nope", "--generate", "8MiB"},
				`client: unimplemented: "tabular.nope" not implemented yet; see what there is: client functions`,
			},
			{
				[]string{"sleep", "-k", "seconds=-1", "--job-id", id},
				`client: invalid_argument: the kwarg "seconds" is -1: choose from 0 to 86400 (job ` + id + `)`,
			},
			{
				[]string{"predict", "--version", "none"},
				`client: not_found: version "none" does not exist`,
			},
		} {
			got := run(t, call(test.args...)...)
			if got.code != exitFailed || got.stdout != "" || !strings.HasPrefix(got.stderr, test.want) || strings.Count(got.stderr, "\n") != 1 {
				t.Errorf("%q: %+v, want exit 1 and %q", test.args, got, test.want)
			}
		}
	})
}

func TestCallTimesOut(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no result within 100ms; give it more time with --timeout"},
		{[]string{"--job-id", "slow"}, "no result within 100ms (job slow); it goes on: client jobs attach slow --addr " + podAddr},
	} {
		got := run(t, append([]string{"call", "sleep", "-k", "seconds=60", "--timeout", "100ms"}, test.args...)...)
		if want := (outcome{code: exitFailed, stderr: "client: deadline_exceeded: " + test.want + "\n"}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	ok(t, "jobs", "rm", "slow")
}

func TestCallWithoutPod(t *testing.T) {
	const trying, last = "client: still trying: dial tcp 127.0.0.1:1: connect: connection refused\n",
		"client: no pod answers at http://127.0.0.1:1: start one with: go run ./cmd/server\n"
	for _, args := range [][]string{{"call", "hello", "--legacy"}, {"call", "hello"}, {"jobs", "attach", "j"}} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s := &session{addr: "http://127.0.0.1:1"}
			got := s.run(t, args...)
			if args[1] == "attach" {
				got.stderr = strings.Replace(got.stderr, " (job j)", "", 1)
			}
			if want := (outcome{code: exitUnreachable, stderr: trying + last}); got != want {
				t.Errorf("%q: %+v, want %+v", args, got, want)
			}
			if took := time.Since(began); args[len(args)-1] != "--legacy" && (took < 12*time.Second || took > 18*time.Second) {
				t.Errorf("%q took %v, want 5 attempts in 15s", args, took)
			}
			for i, d := range s.waits {
				if base := time.Second << i; d < base*8/10 || d > base*12/10 {
					t.Errorf("pause %d is %v, want %v with a fifth of jitter", i, d, base)
				}
			}
			if args[len(args)-1] == "--legacy" && len(s.waits) != 4 {
				t.Fatalf("waited %v, want 4 pauses", s.waits)
			}
		})
		// -v says what it does, and stdin that nobody has read can be sent later.
		synctest.Test(t, func(t *testing.T) {
			s := &session{addr: "127.0.0.1:1", stdin: strings.NewReader("x")}
			if args[0] == "call" {
				args = append(slices.Clip(args), "-f", "-")
			}
			got := s.run(t, append(args, "-v")...)
			if n := strings.Count(got.stderr, "connection refused; attempt "); n != 4 || got.code != exitUnreachable {
				t.Errorf("%d retries shown: %+v", n, got)
			}
		})
	}
}

func TestCallPrintsForPeople(t *testing.T) {
	s := &session{terminal: true}
	got := s.run(t, "call", "hello")
	want := outcome{stdout: "{\n  \"hello\": \"world\",\n  \"name\": \"world\",\n  \"model\": \"tabular\",\n  \"version\": \"\"\n}\n"}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCallWritesFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.json")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil || string(data) != want {
			t.Errorf("the file has %.100q (%v), want %.100q", data, err, want)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%d files, want 1: %v", len(entries), entries)
		}
	}
	// A call that fails leaves the file alone.
	if got := run(t, "call", "nope", "-o", path); got.code != exitFailed {
		t.Errorf("%+v", got)
	}
	check("before")
	s := &session{stdin: strings.NewReader("a <text>")}
	if got := s.run(t, "call", "chaos", "-f", "-", "-o", path, "--legacy"); got != (outcome{}) {
		t.Errorf("%+v, want silence", got)
	}
	check(`"a \u003ctext\u003e"` + "\n")
	if got := run(t, "call", "hello", "-o", path); got != (outcome{}) {
		t.Errorf("%+v, want silence", got)
	}
	check(`{"hello":"world","name":"world","model":"tabular","version":""}` + "\n")
	// What a function writes is written as it is.
	for _, size := range []int64{0, 1, 3 << 20} {
		data := generate(t, bench.Random, size)
		s := &session{stdin: bytes.NewReader(data)}
		if got := s.run(t, "call", "chaos", "-f", "-", "-o", path); got != (outcome{}) {
			t.Errorf("%+v, want silence", got)
		}
		check(string(data))
		s.stdin = bytes.NewReader(data)
		if got := s.run(t, "call", "chaos", "-f", "-"); got != (outcome{stdout: string(data)}) {
			t.Errorf("%d bytes to stdout: exit %d with %d bytes, %q", size, got.code, len(got.stdout), got.stderr)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v (%v), want what it was", info.Mode(), err)
	}
	for _, fn := range []string{"hello", "chaos"} {
		if got := run(t, "call", fn, "-o", "/dev/null", "--generate", "1KiB"); got != (outcome{}) {
			t.Errorf("%s: %+v, want silence", fn, got)
		}
	}
}

func events(t *testing.T, text string) []event {
	t.Helper()
	var list []event
	for line := range strings.Lines(text) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e.Elapsed = 0
		list = append(list, e)
	}
	return list
}

func TestCallPrintsEvents(t *testing.T) {
	data := generate(t, bench.Random, 2<<20)
	size, none := int64(len(data)), int64(0)
	want := []event{
		{Event: "accepted", Job: "j1", Func: "sha256", State: "receiving", Committed: &none},
		{Event: "heartbeat", State: "receiving", Committed: &none},
		{Event: "state", State: "queued"},
		{Event: "state", State: "loading"},
		{Event: "state", State: "running", Begun: 1},
		{Event: "function", Done: &size, Total: &size, Unit: "bytes"},
		{Event: "state", State: "succeeded", Begun: 1},
		{Event: "progress", Sent: &size, Committed: &size, Total: &size},
		{Event: "result", Job: "j1", Result: json.RawMessage(strings.TrimSpace(digest(data)))},
	}
	args := []string{"call", "sha256", "--generate", "2MiB", "--json", "--job-id", "j1", "--heartbeat", "30s"}
	check := func(want []event, args ...string) {
		t.Helper()
		got := events(t, ok(t, args...))
		got = slices.DeleteFunc(got, func(e event) bool { return e.Event == "function" && *e.Done < *e.Total })
		for i := range got {
			if got[i].Event == "heartbeat" {
				got[i].Committed = &none
			}
		}
		// What lasts for no time may be left out.
		want = slices.DeleteFunc(slices.Clone(want), func(e event) bool {
			return e.Event == "state" && !slices.ContainsFunc(got, func(g event) bool { return g.State == e.State }) && e.State != "running"
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	check(want, args...)

	// The job is there now, and its result comes without the payload.
	path := filepath.Join(t.TempDir(), "out.json")
	got := events(t, ok(t, append(args, "-o", path)...))
	first, last := got[0], got[len(got)-1]
	if diff := cmp.Diff(event{Event: "accepted", Job: "j1", Func: "sha256", State: "succeeded", Attached: true, Committed: &size}, first); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(event{Event: "result", Job: "j1"}, last); diff != "" {
		t.Error(diff)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != digest(data) {
		t.Errorf("the file has %q (%v), want %q", text, err, digest(data))
	}
	ok(t, "jobs", "rm", "j1")

	failed := run(t, "call", "nope", "--json")
	list := events(t, failed.stdout)
	if e := list[len(list)-1]; e.Event != "error" || e.Code != "unimplemented" || e.Exit != exitFailed || failed.code != exitFailed || failed.stderr == "" {
		t.Errorf("%+v", failed)
	}
}

func TestCallPayloadThatBreaks(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"--legacy=false", "--legacy"} {
		s := &session{stdin: io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errors.New("the tape is torn")))}
		got := s.run(t, "call", "sha256", "-f", "-", mode, "--job-id", "j")
		if got.code != exitFailed || !strings.Contains(got.stderr, "client: read the payload: the tape is torn") || len(s.waits) > 0 {
			t.Errorf("%s: %+v", mode, got)
		}
	}
	dial := dialFlags{addr: podAddr, protocol: "grpc"}
	c, err := dial.open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	quiet := func(client.Event) {}
	for claimed, want := range map[int64]string{
		3: "instead of 3|invalid_argument", // who sees it first: this side, or the pod
		5: "the payload changed while it was sent: 4 bytes instead of 5",
	} {
		payload := bytesSource([]byte("four"))
		payload.size = claimed
		spec := callSpec{fn: "sha256", payload: payload, heartbeat: time.Second}
		_, err := newCaller(c, "", retryPolicy{}).call(t.Context(), spec, quiet)
		if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("4 bytes for %d: %v, want %s", claimed, err, want)
		}
	}
}

// Both ends are in this process, so this holds for the pod, too.
func TestCallMemoryIsConstant(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector pools forget at random")
	}
	for _, mode := range []string{"--codec=raw", "--legacy --compression=identity"} {
		args := append([]string{"call", "sha256", "--generate-kind", "zero"}, strings.Fields(mode)...)
		allocated := func(size string) int64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ok(t, append(args, "--generate", size)...)
			runtime.ReadMemStats(&after)
			return int64(after.TotalAlloc - before.TotalAlloc)
		}
		allocated("8MiB") // fills the pools
		small, large := allocated("8MiB"), allocated("200MiB")
		if more := large - small; more > 24<<20 {
			t.Errorf("%s: 192 MiB more payload allocate %d MiB more, want them to be nothing much", mode, more>>20)
		}
	}
}
