package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

type chaosStream = connect.BidiStream[ai.Raw, ai.Raw]

// A fakePod answers chaos as a test wants it to: the real one does not fail on
// demand.
type fakePod struct {
	aiconnect.UnimplementedAIHandler
	chaos func(ctx context.Context, stream *chaosStream) error
}

func (f *fakePod) Chaos(ctx context.Context, stream *chaosStream) error { return f.chaos(ctx, stream) }

func serveFake(t *testing.T, chaos func(ctx context.Context, stream *chaosStream) error) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(aiconnect.NewAIHandler(&fakePod{chaos: chaos}, transport.HandlerOptions()...))
	return serve(t, transport.Middleware(mux))
}

func busy(after time.Duration) error {
	err := connect.NewError(connect.CodeUnavailable, errors.New("the pod is draining"))
	if after > 0 {
		detail, _ := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
		err.AddDetail(detail)
	}
	return err
}

func TestPause(t *testing.T) {
	p := seedRetry(nil)
	var got []time.Duration
	for n := 1; n <= 7; n++ {
		got = append(got, p.pause(n, 0.5))
	}
	const s = time.Second
	want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if low, high := p.pause(1, 0), p.pause(1, 1); low != 800*time.Millisecond || high != 1200*time.Millisecond {
		t.Errorf("jitter makes it %v to %v, want 0.8s to 1.2s", low, high)
	}
}

// A pod that is busy at first is called again, by its own clock if it says so.
func TestCallRetriesUntilThePodTakesIt(t *testing.T) {
	pod := openPod(t)
	mux := http.NewServeMux()
	var calls atomic.Int64
	refuse := &fakePod{chaos: func(context.Context, *chaosStream) error {
		if calls.Load() == 1 {
			return busy(7 * time.Second)
		}
		return busy(0)
	}}
	_, refusing := aiconnect.NewAIHandler(refuse, transport.HandlerOptions()...)
	refusing = transport.Middleware(refusing)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%3 != 0 {
			refusing.ServeHTTP(w, r)
			return
		}
		pod.Handler().ServeHTTP(w, r)
	})
	addr := serve(t, mux)
	eachProtocol(t, func(t *testing.T, call func(...string) []string) {
		calls.Store(0)
		s := &session{addr: addr}
		got := s.run(t, call("sha256", "--generate", "3MiB")...)
		want := outcome{
			stdout: digest(generate(t, "random", 3<<20)),
			stderr: "client: still trying: the pod is draining\nclient: connected again after …s\n", // they would be 9
		}
		got.stderr = regexp.MustCompile(`\d+\.\ds\b`).ReplaceAllString(got.stderr, "…s")
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if len(s.waits) != 2 || s.waits[0] != 7*time.Second || s.waits[1] < 1600*time.Millisecond || s.waits[1] > 2400*time.Millisecond {
			t.Errorf("waited %v, want the 7s that the pod asked for and then about 2s", s.waits)
		}
	})
}

func TestCallRetriesOnlyWhatCanPass(t *testing.T) {
	refusal := func(code connect.Code) func(context.Context, *chaosStream) error {
		return func(context.Context, *chaosStream) error { return connect.NewError(code, errors.New("not now")) }
	}
	full := func(context.Context, *chaosStream) error {
		err := connect.NewError(connect.CodeResourceExhausted, errors.New("the queue is full"))
		detail, _ := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Hour)})
		err.AddDetail(detail)
		return err
	}
	afterPong := func(_ context.Context, stream *chaosStream) error {
		stream.ResponseHeader().Set("x-job-id", "taken")
		if err := stream.Send(&ai.Raw{Data: []byte(codec.Pong)}); err != nil {
			return err
		}
		return busy(time.Second)
	}
	for name, test := range map[string]struct {
		chaos func(context.Context, *chaosStream) error
		waits int
		exit  int
		want  string
	}{
		"unavailable":          {refusal(connect.CodeUnavailable), 4, exitUnreachable, "client: unavailable: not now; try again later\n"},
		"internal":             {refusal(connect.CodeInternal), 4, exitFailed, "client: internal: not now\n"},
		"unknown":              {refusal(connect.CodeUnknown), 4, exitFailed, "client: unknown: not now\n"},
		"invalid argument":     {refusal(connect.CodeInvalidArgument), 0, exitFailed, "client: invalid_argument: not now\n"},
		"resource exhausted":   {refusal(connect.CodeResourceExhausted), 0, exitFailed, "client: resource_exhausted: not now\n"},
		"full, with RetryInfo": {full, 4, exitFailed, "client: resource_exhausted: the queue is full\n"},
		"after the first PONG": {afterPong, 0, exitFailed, "client: unavailable: the pod is draining (job taken); try again later\n"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveFake(t, test.chaos)
			for _, protocol := range transport.Protocols {
				s := &session{addr: addr}
				got := s.run(t, "call", "hello", "--legacy", "--protocol", string(protocol))
				if test.waits > 0 {
					var first string
					first, got.stderr, _ = strings.Cut(got.stderr, "\n")
					if !strings.HasPrefix(first, "client: still trying: ") {
						t.Errorf("%s: %q comes first", protocol, first)
					}
				}
				if got.code != test.exit || got.stderr != test.want || len(s.waits) != test.waits {
					t.Errorf("%s: %+v after %v, want exit %d, %q and %d pauses", protocol, got, s.waits, test.exit, test.want, test.waits)
				}
				for _, d := range s.waits {
					if name == "full, with RetryInfo" && d != 30*time.Second {
						t.Errorf("waited %v, want no more than 30s", d)
					}
				}
			}
		})
	}
}

// What was read of stdin is gone, so the call can't be made again.
func TestCallDoesNotRetryStdinThatWasRead(t *testing.T) {
	addr := serveFake(t, func(_ context.Context, stream *chaosStream) error {
		for range 2 { // kwargs and the first bytes
			if _, err := stream.Receive(); err != nil {
				return err
			}
		}
		return busy(0)
	})
	stdin, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = feed.Write(generate(t, "random", 2*legacyRead)) }() // and never ends
	s := &session{addr: addr, stdin: stdin}
	got := s.run(t, "call", "sha256", "-f", "-", "--legacy")
	if want := (outcome{code: exitUnreachable, stderr: "client: unavailable: the pod is draining; try again later\n"}); got != want || len(s.waits) > 0 {
		t.Errorf("%+v after %v, want %+v at once", got, s.waits, want)
	}
}

// A stream that ends without a result is a cut, however politely it ends.
func TestCallCut(t *testing.T) {
	pong := func(stream *chaosStream) error {
		stream.ResponseHeader().Set("x-job-id", "lost")
		return stream.Send(&ai.Raw{Data: []byte(codec.Pong)})
	}
	for name, chaos := range map[string]func(context.Context, *chaosStream) error{
		"ended":   func(_ context.Context, stream *chaosStream) error { return pong(stream) },
		"aborted": func(_ context.Context, stream *chaosStream) error { _ = pong(stream); panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveFake(t, chaos)
			eachProtocol(t, func(t *testing.T, call func(...string) []string) {
				s := &session{addr: addr}
				got := s.run(t, call("hello")...)
				if got.code != exitUnreachable || len(s.waits) > 0 ||
					!strings.HasPrefix(got.stderr, "client: unavailable: the connection was cut before the result arrived") ||
					!strings.HasSuffix(got.stderr, "(job lost); call again\n") {
					t.Errorf("%+v after %v", got, s.waits)
				}
			})
		})
	}
}

// A job with a name outlives its streams: the call is made again as long as there
// is time, for the pod then attaches to the job.
func TestLegacyCallAttachesToItsJob(t *testing.T) {
	var calls atomic.Int64
	cutUntil := func(n int64) func(context.Context, *chaosStream) error {
		return func(_ context.Context, stream *chaosStream) error {
			switch k := calls.Add(1); {
			case k == n:
				return stream.Send(&ai.Raw{Data: []byte(`"done"`)})
			case k > 1 && k%2 == 0:
				return busy(0) // it starts again
			}
			stream.ResponseHeader().Set("x-job-id", "kept")
			return stream.Send(&ai.Raw{Data: []byte(codec.Pong)})
		}
	}
	calls.Store(0)
	s := &session{addr: serveFake(t, cutUntil(8))}
	got := s.run(t, "call", "hello", "--legacy", "--job-id", "kept")
	if got.code != exitDone || got.stdout != "\"done\"\n" || calls.Load() != 8 {
		t.Errorf("%+v after %d calls, want the result of the 8th", got, calls.Load())
	}
	calls.Store(0)
	s = &session{addr: serveFake(t, cutUntil(-1))}
	got = s.run(t, "call", "hello", "--legacy", "--job-id", "kept")
	var waited time.Duration
	for _, d := range s.waits {
		waited += d
	}
	if got.code != exitUnreachable || waited < 15*time.Minute || waited > 16*time.Minute {
		t.Errorf("%+v after waiting %v, want it to be given up after 15 minutes", got, waited)
	}
	// How the job itself ended is no reason to call again.
	s = &session{addr: serveFake(t, func(_ context.Context, stream *chaosStream) error {
		if err := stream.Send(&ai.Raw{Data: []byte(codec.Pong)}); err != nil {
			return err
		}
		return connect.NewError(connect.CodeInternal, errors.New("it broke"))
	})}
	if got := s.run(t, "call", "hello", "--legacy", "--job-id", "kept"); got.code != exitFailed || len(s.waits) > 0 {
		t.Errorf("%+v after %v, want the failure at once", got, s.waits)
	}
}

// What goes over the wire, message by message.
func TestCallOnTheWire(t *testing.T) {
	type seen struct {
		Header   map[string]string
		Kwargs   string
		Zstd     bool // kwargs and payload
		Messages []int
	}
	var got seen
	addr := serveFake(t, func(_ context.Context, stream *chaosStream) error {
		got = seen{Header: map[string]string{}}
		for _, name := range []string{"x-func-name", "x-heartbeat", "x-job-id", "x-upstream", "grpc-encoding"} {
			got.Header[name] = strings.Join(stream.RequestHeader().Values(name), ",")
		}
		first, err := stream.Receive()
		if err != nil {
			return err
		}
		kwargs, err := codec.ParseKwargs(first.Data)
		if err != nil {
			return err
		}
		got.Kwargs, got.Zstd = string(kwargs.JSON), kwargs.Compressed
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return stream.Send(&ai.Raw{Data: codec.EncodeResult([]byte(`{"a": "<"}`), kwargs.Compressed)})
			}
			if err != nil {
				return err
			}
			got.Messages = append(got.Messages, len(msg.Data))
		}
	})
	args := []string{
		"call", "f", "--legacy", "--generate", "3MiB", "-H", "X-Upstream: xxx", "-H", "x-upstream:yyy", "--job-id", "j",
		"--kwargs", `{"a": 1, "b": 2}`, "-k", "b=[true, null]", "-k", "c=text", "-k", `d="3"`, "-k", "e=", "--version", "2", "--heartbeat", "500ms",
	}
	want := seen{
		Header: map[string]string{"x-func-name": "f", "x-heartbeat": "500ms", "x-job-id": "j", "x-upstream": "xxx,yyy", "grpc-encoding": "gzip"},
		Kwargs: `{"a":1,"b":[true,null],"c":"text","d":"3","e":"","version":"2"}`, Zstd: true,
	}
	s := &session{addr: addr}
	if out := s.run(t, args...); out != (outcome{stdout: `{"a": "<"}` + "\n"}) {
		t.Fatalf("%+v", out)
	}
	sizes := got.Messages
	got.Messages = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, size := range sizes {
		if size > legacyChunk || (size < legacyChunk && i < len(sizes)-1) {
			t.Errorf("message %d of %d has %d bytes, want %d", i, len(sizes), size, legacyChunk)
		}
	}
	if len(sizes) < 96 {
		t.Errorf("%d messages carry 3 MiB, want at least 96", len(sizes))
	}
}
