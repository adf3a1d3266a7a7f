package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestChaosOverEachProtocolAndCompression(t *testing.T) {
	tp := startPod(t, nil)
	payload := append(randomBytes(3<<20), bytes.Repeat([]byte("text "), 100_000)...)
	for _, p := range transport.Protocols {
		for _, enc := range []string{"identity", codec.Gzip, codec.Zstd} {
			t.Run(fmt.Sprintf("%s %s", p, enc), func(t *testing.T) {
				c := tp.client(t, p, connect.WithSendCompression(enc))
				first := fmt.Appendf(nil, `{%q:%d}`, codec.SizeKey, len(payload))
				r, err := chaos(t.Context(), c, "sha256", append([][]byte{first}, cut(payload, 1<<20)...)...)
				if err != nil || string(r.result) != digest(payload) {
					t.Errorf("plain: %s, %v", r.result, err)
				}
				r, err = chaos(t.Context(), c, "sha256", zstdParts(t, "", payload, 32<<10)...)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(r.result, []byte("\x28\xb5\x2f\xfd")) {
					t.Errorf("zstd kwargs were answered with %q", r.result)
				}
				got, err := codec.DecodeResult(r.result, 1<<20)
				if err != nil || string(got) != digest(payload) {
					t.Errorf("zstd: %s, %v", got, err)
				}
			})
		}
	}
}

func TestChaosAnswersAtOnce(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = 30 * time.Second })
	for _, p := range transport.Protocols {
		stream := tp.client(t, p).Chaos(t.Context())
		stream.RequestHeader().Set(headerFunc, "hello")
		stream.RequestHeader().Set(headerJob, "my-job")
		if err := stream.Send(nil); err != nil { // only the headers
			t.Fatal(err)
		}
		m, err := stream.Receive()
		if err != nil || string(m.GetData()) != codec.Pong {
			t.Fatalf("%s: first message %v, %v", p, m, err)
		}
		h := stream.ResponseHeader()
		if h.Get(headerJob) != "my-job" || h.Get(headerFunc) != "hello" {
			t.Errorf("%s: response headers %v", p, h)
		}
		if err := stream.Send(&ai.Raw{Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseRequest(); err != nil {
			t.Fatal(err)
		}
		if r, err := receive(stream); err != nil || string(r.result) != `"hello"` {
			t.Errorf("%s: %s, %v", p, r.result, err)
		}
	}
}

// Silence never lasts longer than the interval, while uploading, while queued
// and while running.
func TestHeartbeatsInEachPhase(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		cfg.Heartbeat = time.Second
		cfg.Pool = worker.Config{Instances: 1, Slots: 1}
	})
	const interval = 250 * time.Millisecond
	const slack = 200 * time.Millisecond // the machine may be busy
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	blocker := tp.client(t, transport.GRPC).Chaos(ctx) // holds the only slot
	blocker.RequestHeader().Set(headerFunc, "wait")
	if err := errors.Join(blocker.Send(&ai.Raw{Data: []byte("{}")}), blocker.CloseRequest()); err != nil {
		t.Fatal(err)
	}
	<-tp.model.started

	stream := tp.client(t, transport.GRPC).Chaos(t.Context())
	stream.RequestHeader().Set(headerFunc, "wait")
	stream.RequestHeader().Set(headerHeartbeat, interval.String())
	if err := stream.Send(&ai.Raw{Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	beats := func(phase string) {
		t.Helper()
		for range 3 {
			begun := time.Now()
			m, err := stream.Receive()
			if err != nil || string(m.GetData()) != codec.Pong {
				t.Fatalf("%s: %v, %v", phase, m, err)
			}
			if gap := time.Since(begun); gap > interval+slack {
				t.Errorf("%s: silent for %v", phase, gap)
			}
		}
	}
	beats("uploading")
	if err := stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	beats("queued")
	cancel()
	<-tp.model.started
	beats("running")
	if err := stream.CloseResponse(); err != nil && connect.CodeOf(err) != connect.CodeCanceled {
		t.Log(err)
	}
	<-tp.model.gone
	<-tp.model.gone
}

func TestFixedFunctionsTakeStreamInput(t *testing.T) {
	tp := startPod(t, nil)
	for _, p := range transport.Protocols {
		c := tp.client(t, p)
		for name, open := range map[string]func(context.Context) *connect.BidiStreamForClient[ai.StreamInput, ai.Raw]{
			"train": c.Train, "predict": c.Predict, "log": c.Log,
		} {
			stream := open(t.Context())
			for _, m := range []*ai.StreamInput{
				{KwargsJson: []byte(`{"a":1}`), Version: "v1", Raw: &ai.Raw{Data: []byte("12")}},
				{KwargsJson: []byte(`{}`), Raw: &ai.Raw{Data: []byte("345")}},
				{},
			} {
				if err := stream.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.CloseRequest(); err != nil {
				t.Fatal(err)
			}
			var last []byte
			for {
				m, err := stream.Receive()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					break
				}
				last = m.GetData()
			}
			if want := fmt.Sprintf(`[%q,"v1",{"a":1},5]`, name); string(last) != want {
				t.Errorf("%s %s: %s, want %s", p, name, last, want)
			}
		}
	}
}

func TestMetadataAndVersionReachTheFunction(t *testing.T) {
	tp := startPod(t, nil)
	stream := tp.client(t, transport.GRPC).Chaos(t.Context())
	stream.RequestHeader().Set(headerFunc, "meta")
	stream.RequestHeader().Set("X-Tenant", "a")
	r, err := exchange(stream, [][]byte{[]byte(`{"version":"v1"}`)})
	var md map[string]string
	if err != nil || json.Unmarshal(r.result, &md) != nil || md["x-tenant"] != "a" || md["content-type"] != "" {
		t.Errorf("metadata %s, %v", r.result, err)
	}
	if v := tp.model.calls[0].Version; v != "v1" {
		t.Errorf("version %q", v)
	}
}

func TestBadInput(t *testing.T) {
	const maxMessage, maxPayload, budget = 1 << 20, 8 << 20, 16 << 20
	tp := startPod(t, func(cfg *Config) {
		cfg.MaxMessage, cfg.MaxPayload, cfg.SpoolBudget = maxMessage, maxPayload, budget
	})
	frame := compress(t, randomBytes(100_000))
	flipped := bytes.Clone(frame)
	flipped[len(flipped)/2] ^= 0x55
	plain := func(kwargs string, parts ...[]byte) [][]byte { return append([][]byte{[]byte(kwargs)}, parts...) }
	seed := func(parts ...[]byte) [][]byte { return append(zstdParts(t, "", nil, 1<<20)[:1], parts...) }
	zstdNoSize := func(parts ...[]byte) [][]byte {
		first, err := codec.EncodeKwargs(nil, -1, true)
		if err != nil {
			t.Fatal(err)
		}
		return append([][]byte{first}, parts...)
	}
	// 400 KB that decode to 4 GiB: a frame of 1 GiB of zeros, four times.
	bomb := bytes.Repeat(compressZeros(t, 1<<30), 4)

	for _, test := range []struct {
		name     string
		messages [][]byte
		code     connect.Code
		want     string
	}{
		{"no messages", nil, connect.CodeInvalidArgument, "no messages"},
		{"empty kwargs", plain(""), connect.CodeInvalidArgument, "kwargs are empty"},
		{"not JSON", plain("nope"), connect.CodeInvalidArgument, "not JSON"},
		{"not an object", plain("[1]"), connect.CodeInvalidArgument, "must be a JSON object, not an array"},
		{"huge kwargs", plain(`{"a":"` + strings.Repeat("x", maxMessage) + `"}`), connect.CodeResourceExhausted, "--max-message"},
		{"reserved key", plain(`{"_aipod_x":1}`), connect.CodeInvalidArgument, "reserved"},
		{"size is not a number", plain(`{"_aipod_bin_size":"1"}`), connect.CodeInvalidArgument, "integer"},
		{"size over the limit", plain(`{"_aipod_bin_size":8388609}`), connect.CodeResourceExhausted, "limit of 8.0 MiB"},
		{"two versions", plain(`{"version":1}`), connect.CodeInvalidArgument, "must be a string"},
		{"unknown version", plain(`{"version":"v9"}`), connect.CodeNotFound, `version "v9" does not exist: choose one of v1`},
		{"too little", plain(`{"_aipod_bin_size":3}`, []byte("12")), connect.CodeInvalidArgument, "2 bytes of payload have arrived, but _aipod_bin_size says 3"},
		{"too much", plain(`{"_aipod_bin_size":1}`, []byte("12")), connect.CodeInvalidArgument, "2 bytes of payload have arrived, but _aipod_bin_size says 1"},
		{"message too large", plain(`{}`, make([]byte, maxMessage+1)), connect.CodeResourceExhausted, "--max-message"},
		{"payload too large", plain(`{}`, slices.Repeat([][]byte{make([]byte, maxMessage-10)}, 9)...), connect.CodeResourceExhausted, "limit of 8.0 MiB"},
		{"truncated zstd", zstdNoSize(frame[:len(frame)-10]), connect.CodeInvalidArgument, "middle of a frame"},
		{"corrupt zstd", zstdNoSize(flipped), connect.CodeInvalidArgument, "corrupt"},
		{"garbage after zstd", zstdNoSize(frame, []byte("garbage")), connect.CodeInvalidArgument, "not a frame"},
		{"not zstd", zstdNoSize([]byte("garbage")), connect.CodeInvalidArgument, "payload is not zstd"},
		{"bomb", zstdNoSize(cut(bomb, 1<<18)...), connect.CodeResourceExhausted, "limit of 8.0 MiB"},
		{"zstd size mismatch", seed(frame), connect.CodeInvalidArgument, "_aipod_bin_size says 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, p := range transport.Protocols {
				r, err := chaos(t.Context(), tp.client(t, p), "hello", test.messages...)
				wantCode(t, err, test.code, test.want)
				if r.result != nil {
					t.Errorf("%s: a result came: %q", p, r.result)
				}
			}
		})
	}
	if used := tp.Spool(); used.Bytes > budget {
		t.Errorf("spool %+v", used)
	}
}

func compressZeros(t *testing.T, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := codec.NewEncoder(&out, 1)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range n / len(zeros) {
		if _, err := enc.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBadMetadata(t *testing.T) {
	tp := startPod(t, nil)
	for _, test := range []struct{ key, value, want string }{
		{headerHeartbeat, "soon", "x-heartbeat"},
		{headerHeartbeat, "1ms", "from 200ms to 30s"},
		{headerHeartbeat, "1h", "from 200ms to 30s"},
		{headerJob, "../x", "x-job-id"},
		{headerJob, strings.Repeat("x", 65), "x-job-id"},
	} {
		stream := tp.client(t, transport.GRPC).Chaos(t.Context())
		stream.RequestHeader().Set(headerFunc, "hello")
		stream.RequestHeader().Set(test.key, test.value)
		_, err := exchange(stream, [][]byte{[]byte("{}")})
		wantCode(t, err, connect.CodeInvalidArgument, test.want)
	}
}

// The refusal comes before the upload: the client has sent nothing but headers.
func TestUnknownFunctionIsRefusedBeforeTheUpload(t *testing.T) {
	tp := startPod(t, nil)
	for _, p := range transport.Protocols {
		stream := tp.client(t, p).Chaos(t.Context())
		stream.RequestHeader().Set(headerFunc, "nope")
		if err := stream.Send(nil); err != nil {
			t.Fatal(err)
		}
		_, err := receive(stream)
		wantCode(t, err, connect.CodeUnimplemented, `"test.nope" not implemented yet`)
	}
}

func TestQueueFullIsRefusedWithRetryInfo(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Pool = worker.Config{Instances: 1, Slots: 1, Queue: 1} })
	ctx, cancel := context.WithCancel(t.Context())
	c := tp.client(t, transport.GRPC)
	for range 2 { // one runs, one waits
		stream := c.Chaos(ctx)
		stream.RequestHeader().Set(headerFunc, "wait")
		if err := errors.Join(stream.Send(&ai.Raw{Data: []byte("{}")}), stream.CloseRequest()); err != nil {
			t.Fatal(err)
		}
	}
	<-tp.model.started
	eventually(t, "nothing waits", func() (any, bool) { err := tp.pool.Full(); return err, err != nil })
	_, err := chaos(t.Context(), c, "hello", []byte("{}"))
	wantCode(t, err, connect.CodeResourceExhausted, "queue is full")
	if d := retryDelay(err); d <= 0 {
		t.Errorf("no RetryInfo in %v", err)
	}
	cancel()
	<-tp.model.gone
}

func retryDelay(err error) time.Duration {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return 0
	}
	for _, d := range ce.Details() {
		if v, verr := d.Value(); verr == nil {
			if info, ok := v.(*errdetails.RetryInfo); ok {
				return info.GetRetryDelay().AsDuration()
			}
		}
	}
	return 0
}

func TestFullSpool(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.SpoolBudget = 4 << 20 })
	c := tp.client(t, transport.GRPC)
	_, err := chaos(t.Context(), c, "hello", []byte(`{"_aipod_bin_size":4194305}`))
	wantCode(t, err, connect.CodeResourceExhausted, "the spool is full")
	if retryDelay(err) <= 0 {
		t.Errorf("no RetryInfo in %v", err)
	}
	_, err = chaos(t.Context(), c, "hello", append([][]byte{[]byte(`{}`)}, cut(make([]byte, 5<<20), 1<<20)...)...)
	wantCode(t, err, connect.CodeResourceExhausted, "the spool is full")
	// The output counts, too.
	_, err = chaos(t.Context(), c, "chaos", append([][]byte{[]byte(`{}`)}, cut(make([]byte, 3<<20), 1<<20)...)...)
	wantCode(t, err, connect.CodeResourceExhausted, "the spool is full")
	if r, err := chaos(t.Context(), c, "hello", []byte("{}")); err != nil {
		t.Errorf("the next call: %q, %v", r.result, err)
	}
}

func TestFunctionPanics(t *testing.T) {
	tp := startPod(t, nil)
	c := tp.client(t, transport.GRPC)
	_, err := chaos(t.Context(), c, "panic", []byte("{}"))
	wantCode(t, err, connect.CodeInternal, "panicked")
	_, err2 := chaos(t.Context(), c, "fail", []byte("{}"))
	wantCode(t, err2, connect.CodeInternal, "internal error")
	if strings.Contains(err.Error()+err2.Error(), "secret") {
		t.Errorf("the callers were told what is for the log: %v, %v", err, err2)
	}
	if n := strings.Count(tp.log.String(), "secret"); n < 2 {
		t.Errorf("the log does not have the causes:\n%s", tp.log)
	}
	if _, err := chaos(t.Context(), c, "hello", []byte("{}")); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestOutputAsJSON(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.MaxMessage = 1 << 20 })
	c := tp.client(t, transport.GRPC)
	r, err := chaos(t.Context(), c, "chaos", []byte("{}"), []byte("naïve \"text\""))
	if err != nil || string(r.result) != `"naïve \"text\""` {
		t.Errorf("%s, %v", r.result, err)
	}
	_, err = chaos(t.Context(), c, "chaos", []byte("{}"), []byte("\xff\xfe"))
	wantCode(t, err, connect.CodeFailedPrecondition, "aipod.v1.JobService")
	half := bytes.Repeat([]byte("a"), 600_000)
	_, err = chaos(t.Context(), c, "chaos", []byte("{}"), half, half)
	wantCode(t, err, connect.CodeFailedPrecondition, "aipod.v1.JobService")
}

func TestClientGoneInEachPhase(t *testing.T) {
	for _, p := range transport.Protocols {
		t.Run(string(p)+" uploading", func(t *testing.T) {
			tp := startPod(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			stream := tp.client(t, p).Chaos(ctx)
			stream.RequestHeader().Set(headerFunc, "hello")
			for _, m := range zstdParts(t, "", randomBytes(3<<20), 1<<20)[:3] {
				if err := stream.Send(&ai.Raw{Data: m}); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "no upload", func() (any, bool) { u := tp.Spool(); return u, u.Bytes > 1<<20 })
			cancel()
			_ = stream.CloseResponse() // net/http resets the stream only then: its write loop waits for us
		})
		t.Run(string(p)+" queued", func(t *testing.T) {
			tp := startPod(t, func(cfg *Config) { cfg.Pool = worker.Config{Instances: 1, Slots: 1} })
			ctx, cancel := context.WithCancel(t.Context())
			leave, left := context.WithCancel(t.Context())
			c := tp.client(t, p)
			for _, ctx := range []context.Context{ctx, leave} {
				stream := c.Chaos(ctx)
				stream.RequestHeader().Set(headerFunc, "wait")
				if err := errors.Join(stream.Send(&ai.Raw{Data: []byte("{}")}), stream.CloseRequest()); err != nil {
					t.Fatal(err)
				}
				eventually(t, "no job", func() (any, bool) { return tp.table.Len(), tp.table.Len() >= 1 })
			}
			<-tp.model.started
			eventually(t, "no second job", func() (any, bool) { return tp.table.Len(), tp.table.Len() == 2 })
			left()
			eventually(t, "the job that waits is still there", func() (any, bool) { return tp.table.Len(), tp.table.Len() == 1 })
			cancel()
			<-tp.model.gone
		})
		t.Run(string(p)+" loading", func(t *testing.T) {
			tp := startPod(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			stream := tp.client(t, p).Chaos(ctx)
			stream.RequestHeader().Set(headerFunc, "hello")
			if err := errors.Join(stream.Send(&ai.Raw{Data: []byte(`{"version":"slow"}`)}), stream.CloseRequest()); err != nil {
				t.Fatal(err)
			}
			if what := <-tp.model.started; what != "load" {
				t.Fatalf("%s was started", what)
			}
			cancel()
			eventually(t, "the job is still there", func() (any, bool) { return tp.table.Len(), tp.table.Len() == 0 })
			close(tp.model.release) // the version is loaded all the same, for the next caller
		})
		t.Run(string(p)+" running", func(t *testing.T) {
			tp := startPod(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			stream := tp.client(t, p).Chaos(ctx)
			stream.RequestHeader().Set(headerFunc, "wait")
			if err := errors.Join(stream.Send(&ai.Raw{Data: []byte("{}")}), stream.CloseRequest()); err != nil {
				t.Fatal(err)
			}
			<-tp.model.started
			begun := time.Now()
			cancel()
			<-tp.model.gone
			if took := time.Since(begun); took > time.Second {
				t.Errorf("the function was told after %v", took)
			}
		})
	}
}

func TestDeadlineReachesTheFunction(t *testing.T) {
	tp := startPod(t, nil)
	for _, p := range transport.Protocols {
		for timeout, ran := 300*time.Millisecond, false; !ran; timeout *= 2 { // until the function has begun by then
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			_, err := chaos(ctx, tp.client(t, p), "wait", []byte("{}"))
			wantCode(t, err, connect.CodeDeadlineExceeded, "")
			cancel()
			select {
			case <-tp.model.started:
				ran = true
			default:
			}
		}
		<-tp.model.gone
	}
}

func TestFunctionIgnoresCancellation(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Pool = worker.Config{Instances: 1, Slots: 1} })
	c := tp.client(t, transport.GRPC)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var begun time.Time
	go func() {
		<-tp.model.started
		begun = time.Now()
		cancel()
	}()
	_, err := chaos(ctx, c, "deaf", []byte("{}"), make([]byte, 2<<20))
	wantCode(t, err, connect.CodeCanceled, "")
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the caller waited %v for a function that does not listen", took)
	}
	if used := tp.Spool().Bytes; used != 2<<20 {
		t.Errorf("the spool holds %d bytes: the input must stay while the function reads it", used)
	}
	close(tp.model.release)
	if _, err := chaos(t.Context(), c, "hello", []byte("{}")); err != nil {
		t.Errorf("the slot was lost: %v", err)
	}
}

func TestDrain(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.DrainTimeout = time.Minute })
	c := tp.client(t, transport.GRPC)
	stream := c.Chaos(t.Context())
	stream.RequestHeader().Set(headerFunc, "deaf")
	if err := errors.Join(stream.Send(&ai.Raw{Data: []byte("{}")}), stream.CloseRequest()); err != nil {
		t.Fatal(err)
	}
	<-tp.model.started
	stopped := make(chan struct{})
	go func() { tp.stop(); close(stopped) }()
	eventually(t, "not draining", func() (any, bool) { return nil, isClosed(tp.table.Draining()) })
	_, err := chaos(t.Context(), c, "hello", []byte("{}"))
	wantCode(t, err, connect.CodeUnavailable, "shutting down")
	close(tp.model.release)
	if _, err := receive(stream); err != nil {
		t.Errorf("the call that ran: %v", err)
	}
	ended := time.Now()
	<-stopped
	if took := time.Since(ended); took > 1500*time.Millisecond {
		t.Errorf("the pod stopped %v after the last call", took)
	}
}

func TestDrainTimeout(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.DrainTimeout = 300 * time.Millisecond })
	c := tp.client(t, transport.GRPC)
	errs := make(chan error, 1)
	go func() {
		_, err := chaos(t.Context(), c, "wait", []byte("{}"))
		errs <- err
	}()
	<-tp.model.started
	tp.stop()
	wantCode(t, <-errs, connect.CodeUnavailable, "shut down before the job had ended")
}

func TestTwoPodsCannotShareADataDirectory(t *testing.T) {
	dir := t.TempDir()
	startPod(t, func(cfg *Config) { cfg.DataDir = dir })
	if _, err := Open(Config{OpenModel: func(string) (worker.Model, error) {
		t.Error("the model was opened in a directory that is not ours")
		return newTestModel(), nil
	}, DataDir: dir}); err == nil || !strings.Contains(err.Error(), "another pod uses") {
		t.Errorf("got %v", err)
	}
}

// Over HTTP/1.1 the streams are half-duplex: the request goes out whole, then
// the answer is read. Go's connect client doesn't do that for bidi streams, so
// the messages are put into their envelopes by hand.
func TestHTTP1(t *testing.T) {
	tp := startPod(t, nil)
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: true})
	defer client.CloseIdleConnections()
	payload := randomBytes(3 << 20)
	var body []byte
	for _, data := range append([][]byte{[]byte("{}")}, cut(payload, 1<<20)...) {
		m, err := proto.Marshal(&ai.Raw{Data: data})
		if err != nil {
			t.Fatal(err)
		}
		body = append(binary.BigEndian.AppendUint32(append(body, 0), uint32(len(m))), m...)
	}
	for _, contentType := range []string{"application/connect+proto", "application/grpc-web+proto"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tp.url+aiconnect.AIChaosProcedure, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		req.Header.Set(headerFunc, "sha256")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		if res.Proto != "HTTP/1.1" || res.StatusCode != http.StatusOK || res.Header.Get(headerJob) == "" {
			t.Errorf("%s: %s %s %v", contentType, res.Proto, res.Status, res.Header)
		}
		if !bytes.Contains(answer, []byte(codec.Pong)) || !bytes.Contains(answer, []byte(digest(payload))) {
			t.Errorf("%s: no heartbeat or no digest in %q", contentType, answer)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}
