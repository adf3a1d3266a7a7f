package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/tabular"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// podAddr is the pod that most tests use; they leave no state in it but
// versions with names of their own.
var podAddr string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "aipod-client-test-")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		pod, err := new(app).startPod(dir)
		if err != nil {
			panic(err)
		}
		podAddr = pod.addr
		code := m.Run()
		if err := pod.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// A session is the world that a test runs commands in.
type session struct {
	ctx      context.Context // of the commands
	addr     string
	env      map[string]string
	stdin    io.Reader
	terminal bool              // both outputs are one
	out      func(line string) // gets stdout as it is written
	waits    []time.Duration   // pauses between attempts; none of them is waited for
	again    chan struct{}     // closed by a second Ctrl-C; the first is the end of ctx
}

type outcome struct {
	code           int
	stdout, stderr string
}

func (s *session) run(t *testing.T, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin: s.stdin, stdout: &stdout, stderr: &stderr,
		lookupEnv: func(name string) (string, bool) {
			if value, ok := s.env[name]; ok {
				return value, true
			}
			addr := s.addr
			if addr == "" {
				addr = podAddr
			}
			return addr, name == "AIPOD_ADDR"
		},
		terminal: func(any) bool { return s.terminal },
		wait: func(ctx context.Context, d time.Duration) error {
			s.waits = append(s.waits, d)
			return ctx.Err()
		},
		interrupts: newInterrupts(),
	}
	if s.again != nil {
		a.interrupts.again = s.again
	}
	if a.stdin == nil {
		a.stdin = strings.NewReader("")
	}
	if s.out != nil {
		a.stdout = io.MultiWriter(&stdout, writerFunc(s.out))
	}
	ctx := s.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	code := a.run(ctx, args)
	return outcome{code, stdout.String(), stderr.String()}
}

// run runs a command against the pod of the tests.
func run(t *testing.T, args ...string) outcome {
	t.Helper()
	return new(session).run(t, args...)
}

// ok runs a command that has to succeed without a word, and returns its output.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	got := run(t, args...)
	if got.code != exitDone || got.stderr != "" {
		t.Fatalf("%q: exit %d, stderr %q, want success", args, got.code, got.stderr)
	}
	return got.stdout
}

type writerFunc func(string)

func (f writerFunc) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

// serve serves a handler as a pod would and returns its address.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := transport.NewServer(transport.ServerConfig{Logger: slog.New(slog.DiscardHandler)}, handler)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

// openPod makes a pod to be served by the test.
func openPod(t *testing.T) *service.Pod {
	t.Helper()
	pod, err := service.Open(service.Config{
		OpenModel: func(dir string) (worker.Model, error) { return tabular.Open(dir) },
		DataDir:   t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Close(); err != nil {
			t.Error(err)
		}
	})
	return pod
}

func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args []string
		env  map[string]string
		want string // of stderr
	}{
		{args: []string{"bogus"}, want: `client: unknown command "bogus" for "client"; see: client --help`},
		{args: []string{"call"}, want: `client: FUNC is missing: see client call --help`},
		{args: []string{"call", ""}, want: `client: FUNC is empty: see client functions`},
		{args: []string{"call", "a", "b"}, want: `client: "b" is one argument too many: see client call --help`},
		{args: []string{"health", "a", "b"}, want: `client: "b" is one argument too many: see client health --help`},
		{args: []string{"call", "hello", "--nope"}, want: `client: unknown flag: --nope; see: client --help`},
		{args: []string{"call", "hello", "-k", "x"}, want: `client: -k "x" is not key=value`},
		{args: []string{"call", "hello", "-k", "=x"}, want: `client: -k "=x" is not key=value`},
		{args: []string{"call", "hello", "-k", "_aipod_x=1"}, want: `client: the kwarg "_aipod_x" is reserved: choose a name that does not start with _aipod`},
		{args: []string{"call", "hello", "--kwargs", "[1]"}, want: `client: --kwargs is not a JSON object: write it like '{"key": 1}'`},
		{args: []string{"call", "hello", "--kwargs", "null"}, want: `client: --kwargs is not a JSON object: write it like '{"key": 1}'`},
		{args: []string{"call", "hello", "--version", "1", "-k", "version=2"}, want: `client: the version is in --version and in the kwargs: choose one`},
		{args: []string{"call", "hello", "-H", "x"}, want: `client: -H "x" is not 'name: value'`},
		{args: []string{"call", "hello", "-H", "x: a\nb"}, want: `client: -H "x: a\nb" is not 'name: value'`},
		{args: []string{"call", "hello", "-H", "X-Job-Id: 1"}, want: `client: -H x-job-id: use FUNC, --job-id or --heartbeat`},
		{args: []string{"call", "hello", "-H", "grpc-timeout: 1"}, want: `client: -H grpc-timeout: belongs to the RPC protocol`},
		{args: []string{"call", "hello", "--job-id", "a b"}, want: `client: --job-id "a b": give 1 to 64 of A-Z, a-z, 0-9, _ and -`},
		{args: []string{"call", "hello", "--heartbeat", "1ms"}, want: `client: --heartbeat 1ms: give 200ms to 30s`},
		{args: []string{"call", "hello", "--timeout", "-1s"}, want: `client: --timeout -1s: give a positive duration`},
		{args: []string{"call", "hello", "--legacy", "--compression", "lz4"}, want: `client: --compression "lz4": choose identity, gzip or zstd`},
		{args: []string{"call", "hello", "--compression", "zstd"}, want: `client: --compression is only for --legacy: use --codec`},
		{args: []string{"call", "hello", "--protocol", "soap"}, want: `client: unknown protocol "soap": choose grpc, grpcweb or connect`},
		{args: []string{"call", "hello", "--addr", "ftp://x"}, want: `client: "ftp://x" is not the address of a pod: write it like http://127.0.0.1:50051`},
		{args: []string{"call", "hello", "--addr", "http://"}, want: `client: "http://" is not the address of a pod: write it like http://127.0.0.1:50051`},
		{args: []string{"call", "hello", "-f", dir + "/none"}, want: `client: the payload: stat ` + dir + `/none: no such file or directory`},
		{args: []string{"call", "hello", "-f", dir}, want: `client: the payload: ` + dir + ` is a directory`},
		{args: []string{"call", "hello", "-f", "-", "--generate", "1"}, want: `client: --file and --generate are both given: choose one`},
		{args: []string{"call", "hello", "--generate", "1", "--generate-kind", "noise"}, want: `client: unknown kind of payload "noise": choose one of [random text csv zero]`},
		{args: []string{"call", "hello", "-o", dir}, want: `client: --output: ` + dir + ` is a directory`},
		{args: []string{"call", "hello", "-o", dir + "/none/x"}, want: `client: --output: no such file or directory`},
		{args: []string{"call", "hello", "--ca", dir + "/none"}, want: `client: read --ca: open ` + dir + `/none: no such file or directory`},
		{args: []string{"demo", "--protocol", "soap"}, want: `client: unknown protocol "soap": choose grpc, grpcweb or connect`},
		{
			args: []string{"call", "hello"}, env: map[string]string{"AIPOD_HEARTBEAT": "x"},
			want: `client: invalid value "x" of the environment variable AIPOD_HEARTBEAT: time: invalid duration "x"; see: client --help`,
		},
		{
			args: []string{"demo"}, env: map[string]string{"AIPOD_SIZE": "x"},
			want: `client: invalid value "x" of the environment variable AIPOD_SIZE: not a size: write it like 64MiB, 1.5GiB or 1000000; see: client --help`,
		},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			got := (&session{env: test.env}).run(t, test.args...)
			if got.code != exitUsage || got.stderr != test.want+"\n" || got.stdout != "" {
				t.Errorf("exit %d\nstderr %q\nwant   %q\nstdout %q", got.code, got.stderr, test.want+"\n", got.stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, cmd := range []string{"call", "functions", "health", "demo"} {
		text := ok(t, cmd, "--help")
		for _, want := range []string{"Examples:\n  client " + cmd, "[$AIPOD_"} {
			if !strings.Contains(text, want) {
				t.Errorf("the help of %s lacks %q:\n%s", cmd, want, text)
			}
		}
	}
	if text := ok(t); !strings.Contains(text, "completion") {
		t.Errorf("the help does not offer completion:\n%s", text)
	}
}

func TestEnvironment(t *testing.T) {
	s := &session{env: map[string]string{"AIPOD_KWARG": "name=env\nother=1", "AIPOD_PROTOCOL": "connect", "AIPOD_LEGACY": "true"}}
	if got := s.run(t, "call", "hello"); got.code != exitDone || !strings.Contains(got.stdout, `"hello":"env"`) {
		t.Errorf("from the environment: %+v", got)
	}
	if got := s.run(t, "call", "hello", "-k", "name=flag"); got.code != exitDone || !strings.Contains(got.stdout, `"hello":"flag"`) {
		t.Errorf("the flag does not win: %+v", got)
	}
}
