package load

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// A fakePod answers as a pod does, but when a test wants.
type fakePod struct {
	aipodv1connect.UnimplementedJobServiceHandler
	aiconnect.UnimplementedAIHandler

	// run answers a Run whose input has come.
	run func(ctx context.Context, send func(*aipodv1.Event) error, input []byte) error
	// beats says when PONGs are sent, since the first.
	beats []time.Duration
}

func (f *fakePod) Run(ctx context.Context, s *connect.BidiStream[aipodv1.RunRequest, aipodv1.RunResponse]) error {
	var input []byte
	for {
		m, err := s.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		input = append(input, m.GetChunk().GetData()...)
	}
	return f.run(ctx, func(e *aipodv1.Event) error { return s.Send(&aipodv1.RunResponse{Event: e}) }, input)
}

func (f *fakePod) Chaos(ctx context.Context, s *connect.BidiStream[ai.Raw, ai.Raw]) error {
	begin := time.Now()
	if err := s.Send(rawOf([]byte(codec.Pong))); err != nil {
		return err
	}
	for _, at := range f.beats {
		if err := sleepUntil(ctx, begin.Add(at)); err != nil {
			return err
		}
		if err := s.Send(rawOf([]byte(codec.Pong))); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func servePod(t *testing.T, f *fakePod) (addr string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(aipodv1connect.NewJobServiceHandler(f, codec.HandlerOptions()...))
	mux.Handle(aiconnect.NewAIHandler(f, codec.HandlerOptions()...))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := transport.NewServer(transport.ServerConfig{Logger: slog.New(slog.DiscardHandler)}, mux)
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

// echo is what a pod does without heartbeats.
func echo(_ context.Context, send func(*aipodv1.Event) error, input []byte) error {
	return errors.Join(
		send(&aipodv1.Event{Event: &aipodv1.Event_Accepted{Accepted: &aipodv1.Accepted{}}}),
		send(&aipodv1.Event{Event: &aipodv1.Event_Output{Output: &aipodv1.Chunk{Data: input}}}),
		send(&aipodv1.Event{Event: &aipodv1.Event_Done{Done: &aipodv1.Done{HasOutput: true, OutputSize: int64(len(input))}}}),
	)
}

func mustRun(t *testing.T, cfg Config) *measure.Run {
	t.Helper()
	cfg.Level = codec.LevelRaw
	run, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// A server that stands still for a second is seen by an open loop over the wire,
// too.
func TestStallOverTheWire(t *testing.T) {
	t.Parallel()
	var stall sync.Once
	begin := time.Now()
	addr := servePod(t, &fakePod{run: func(ctx context.Context, send func(*aipodv1.Event) error, input []byte) error {
		if time.Since(begin) > time.Second {
			stall.Do(func() { time.Sleep(time.Second) })
		}
		return echo(ctx, send, input)
	}})
	run := mustRun(t, Config{Scenario: Call, Addr: addr, Rate: 200, Duration: 3 * time.Second, Timeout: 10 * time.Second})
	if run.Failed() > 0 || run.Calls < 500 {
		t.Fatalf("%d calls, errors %v", run.Calls, run.Details)
	}
	corrected, raw := run.Latency.Percentile(99), run.Raw.Percentile(99)
	if corrected < 800*time.Millisecond || raw > corrected/4 {
		t.Errorf("p99 is %v, raw %v: want a second, and far less", corrected, raw)
	}
	if run.Deferred < 150 {
		t.Errorf("%d were deferred, want some 200", run.Deferred)
	}
}

func TestProtocolsAndCounts(t *testing.T) {
	addr := servePod(t, &fakePod{run: echo})
	for _, protocol := range transport.Protocols {
		run := mustRun(t, Config{Scenario: Call, Addr: addr, Protocol: protocol, Size: 100_000, Chunk: 30_000, Count: 20, Conns: 2, Streams: 2})
		if run.Calls != 20 || run.Failed() != 0 || run.Sent != 2_000_000 || run.Received != 2_000_000 || run.FirstByte.Count() != 20 {
			t.Errorf("%s: %d calls, errors %v, %d B up, %d B down", protocol, run.Calls, run.Details, run.Sent, run.Received)
		}
		if run.Self.CPU <= 0 {
			t.Error("the generator takes no CPU")
		}
	}
}

// What comes back is checked.
func TestWrongResults(t *testing.T) {
	for code, answer := range map[string]func(context.Context, func(*aipodv1.Event) error, []byte) error{
		"wrong_result": func(ctx context.Context, send func(*aipodv1.Event) error, input []byte) error {
			input[7]++
			return echo(ctx, send, input)
		},
		"cut": func(context.Context, func(*aipodv1.Event) error, []byte) error { return nil },
		"unavailable": func(context.Context, func(*aipodv1.Event) error, []byte) error {
			return connect.NewError(connect.CodeUnavailable, errors.New("draining"))
		},
		"invalid_argument": func(_ context.Context, send func(*aipodv1.Event) error, _ []byte) error {
			return send(&aipodv1.Event{Event: &aipodv1.Event_Failed{Failed: &aipodv1.Failed{Code: 3, Message: "no"}}})
		},
	} {
		addr := servePod(t, &fakePod{run: answer})
		run := mustRun(t, Config{Scenario: Call, Addr: addr, Count: 3})
		if run.Calls != 0 || run.Errors[code] != 3 || run.Details[code] == "" {
			t.Errorf("%s: %d calls, errors %v", code, run.Calls, run.Errors)
		}
	}
}

// A server that beats late, once by 150 ms, and leaves out one heartbeat.
func TestIdleLateness(t *testing.T) {
	t.Parallel()
	const interval = 200 * time.Millisecond
	var beats []time.Duration
	for n := range 10 {
		at := time.Duration(n+1) * interval
		switch n {
		case 3:
			at += 150 * time.Millisecond
		case 6:
			continue
		}
		beats = append(beats, at)
	}
	addr := servePod(t, &fakePod{beats: beats})
	run := mustRun(t, Config{
		Scenario: Idle, Service: AI, Addr: addr, Heartbeat: interval, Conns: 2, Streams: 5, Duration: 2300 * time.Millisecond,
	})
	if run.Canceled != 10 || run.Failed() != 0 || run.Beats != 90 {
		t.Fatalf("%d waited, errors %v, %d heartbeats, want 10 and 90", run.Canceled, run.Details, run.Beats)
	}
	if run.MissedBeats != 10 {
		t.Errorf("%d were missed, want 10", run.MissedBeats)
	}
	// Of the 80 that are not the first of their streams, 10 are 150 ms late and 10 a
	// whole interval.
	if p50, p82, most := run.Lateness.Percentile(50), run.Lateness.Percentile(82), run.Lateness.Max(); p50 > 50*time.Millisecond ||
		p82 < 120*time.Millisecond || most < 180*time.Millisecond || most > 350*time.Millisecond {
		t.Errorf("lateness p50 %v, p82 %v, max %v", p50, p82, most)
	}
	if got := run.Silence.Max(); got < 350*time.Millisecond || got > 550*time.Millisecond {
		t.Errorf("the longest silence is %v, want 400ms", got)
	}
}
