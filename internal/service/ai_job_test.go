package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// An aiCall is a call of ai.AI with x-job-id: chaos of the function "hold", or
// predict.
type aiCall struct {
	send  func(data []byte) error
	close func() error
	cut   func() // leaves without a word
	next  func() (*ai.Raw, error)
}

func startAI(t testing.TB, c aiconnect.AIClient, method, id, kwargs string) aiCall {
	t.Helper()
	ctx, cancel := context.WithCancel(soon(t))
	t.Cleanup(cancel)
	if method == "predict" {
		return beginAI(t, c.Predict(ctx), cancel, id, &ai.StreamInput{KwargsJson: []byte(kwargs)},
			func(data []byte) *ai.StreamInput { return &ai.StreamInput{Raw: &ai.Raw{Data: data}} })
	}
	return beginAI(t, c.Chaos(ctx), cancel, id, &ai.Raw{Data: []byte(kwargs)},
		func(data []byte) *ai.Raw { return &ai.Raw{Data: data} })
}

func beginAI[Req any](t testing.TB, s *connect.BidiStreamForClient[Req, ai.Raw], cancel func(), id string, first *Req, wrap func([]byte) *Req) aiCall {
	t.Helper()
	if id != "" {
		s.RequestHeader().Set(headerJob, id)
	}
	s.RequestHeader().Set(headerFunc, "hold")
	if err := s.Send(first); err != nil && !errors.Is(err, io.EOF) { // else the answer says why
		t.Fatal(err)
	}
	leave := func() {
		cancel()
		_ = s.CloseResponse() // net/http resets the stream only then
	}
	t.Cleanup(leave)
	return aiCall{
		send: func(data []byte) error { return s.Send(wrap(data)) }, close: s.CloseRequest, cut: leave, next: s.Receive,
	}
}

// upload sends a payload and closes it; if that fails, it is the answer that says
// why.
func (c aiCall) upload(payload []byte) {
	for _, part := range cut(payload, 1<<20) {
		if c.send(part) != nil {
			return
		}
	}
	_ = c.close()
}

// result is the last message but the heartbeats.
func (c aiCall) result() (string, error) {
	defer c.cut()
	var last string
	for {
		m, err := c.next()
		switch {
		case errors.Is(err, io.EOF):
			return last, nil
		case err != nil:
			return last, err
		case string(m.GetData()) != codec.Pong:
			last = string(m.GetData())
		}
	}
}

func (c aiCall) want(t testing.TB, text string) {
	t.Helper()
	if got, err := c.result(); got != text || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, text)
	}
}

// startHolding makes a pod whose predict and train do what hold does.
func startHolding(t testing.TB, change func(*Config)) *testPod {
	t.Helper()
	m := newTestModel()
	m.funcs["predict"], m.funcs["train"] = m.funcs["hold"], m.funcs["hold"]
	tp := startPod(t, func(cfg *Config) {
		cfg.OpenModel = func(string) (worker.Model, error) { return m, nil }
		if change != nil {
			change(cfg)
		}
	})
	tp.model = m
	return tp
}

func eachAI(t *testing.T, tp *testPod, test func(t *testing.T, c aiconnect.AIClient, method string)) {
	t.Helper()
	for _, p := range transport.Protocols {
		for _, method := range []string{"chaos", "predict"} {
			t.Run(fmt.Sprintf("%s %s", method, p), func(t *testing.T) { test(t, tp.client(t, p), method) })
		}
	}
}

func (tp *testPod) untilCommitted(t testing.TB, id string, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("the %d bytes did not come", n), func() (any, bool) {
		j, err := tp.table.Get(id)
		return err, err == nil && j.Committed() >= n
	})
}

// The same call again attaches, whenever the one before was cut, and the function
// is begun once.
func TestAINamedCallAgain(t *testing.T) {
	tp := startHolding(t, nil)
	payload := randomBytes(3<<20 + 5)
	kwargs := fmt.Sprintf(`{"a":1,%q:%d}`, codec.SizeKey, len(payload))
	want := fmt.Sprint(len(payload))
	eachAI(t, tp, func(t *testing.T, c aiconnect.AIClient, method string) {
		call := startAI(t, c, method, "a", kwargs)
		if err := call.send(payload[:2<<20]); err != nil {
			t.Fatal(err)
		}
		tp.untilCommitted(t, "a", 2<<20)
		call.cut() // in mid-upload

		call = startAI(t, c, method, "a", kwargs)
		call.upload(payload)
		<-tp.model.started
		call.cut() // in mid-run

		call = startAI(t, c, method, "a", kwargs)
		other := startAI(t, c, method, "a", `{"a":1}`) // the size may be left out
		call.upload(payload)
		other.upload(payload)
		close(tp.model.release)
		call.want(t, want)
		other.want(t, want)

		call = startAI(t, c, method, "a", kwargs) // after the end
		call.upload(payload)
		call.want(t, want)
		if n := tp.model.runs("a"); n != 1 {
			t.Errorf("the function was begun %d times", n)
		}

		for kwargs, diff := range map[string]string{
			`{"a":2}`:                "kwargs is",
			`{"a":1,"version":"v1"}`: "version is",
			fmt.Sprintf(`{"a":1,%q:1}`, codec.SizeKey): "size is",
		} {
			call = startAI(t, c, method, "a", kwargs)
			_, err := call.result()
			wantCode(t, err, connect.CodeAlreadyExists, diff)
		}
		if err := tp.table.Delete("a"); err != nil {
			t.Error(err)
		}
		tp.model.reset()
	})
}

// The seed's client sends zstd, cut anywhere; again it is the same payload,
// whatever the frames.
func TestAINamedCallAgainInZstd(t *testing.T) {
	tp := startPod(t, nil)
	payload := append(randomBytes(1<<20), bytes.Repeat([]byte("text "), 100_000)...)
	c := tp.client(t, transport.GRPC)
	ctx, cancel := context.WithCancel(t.Context())
	stream := c.Chaos(ctx)
	stream.RequestHeader().Set(headerFunc, "sha256")
	stream.RequestHeader().Set(headerJob, "a")
	for _, m := range zstdParts(t, "", payload, 100_000)[:8] {
		if err := stream.Send(&ai.Raw{Data: m}); err != nil {
			t.Fatal(err)
		}
	}
	tp.untilCommitted(t, "a", 300_000)
	cancel()
	_ = stream.CloseResponse()
	for _, messages := range [][][]byte{
		zstdParts(t, "", payload, 32<<10),
		append([][]byte{[]byte("{}")}, cut(payload, 1<<20)...),
	} {
		stream := c.Chaos(soon(t))
		stream.RequestHeader().Set(headerFunc, "sha256")
		stream.RequestHeader().Set(headerJob, "a")
		r, err := exchange(stream, messages)
		if err != nil {
			t.Fatal(err)
		}
		got, err := codec.DecodeResult(r.result, 1<<20)
		if err != nil || string(got) != digest(payload) {
			t.Errorf("%s, %v", got, err)
		}
		if packed := strings.HasPrefix(string(r.result), "\x28\xb5\x2f\xfd"); packed == (string(messages[0]) == "{}") {
			t.Errorf("%q was answered with %q", messages[0], r.result)
		}
	}
	if n := tp.model.runs("a"); n != 1 {
		t.Errorf("the function was begun %d times", n)
	}
}

// Of two calls at once the newer one writes, and there is one execution.
func TestAINamedCallsAtOnce(t *testing.T) {
	tp := startHolding(t, nil)
	payload := randomBytes(2 << 20)
	eachAI(t, tp, func(t *testing.T, c aiconnect.AIClient, method string) {
		older := startAI(t, c, method, "a", "{}")
		if err := older.send(payload[:1<<20]); err != nil {
			t.Fatal(err)
		}
		tp.untilCommitted(t, "a", 1<<20)
		newer := startAI(t, c, method, "a", "{}")
		begun := time.Now()
		_, err := older.result() // though it sends nothing
		wantCode(t, err, connect.CodeAborted, "superseded")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the older call was ended after %v", took)
		}
		newer.upload(payload)
		<-tp.model.started
		// The input is there, so a third takes nothing away.
		third := startAI(t, c, method, "a", "{}")
		third.upload(payload)
		close(tp.model.release)
		newer.want(t, fmt.Sprint(len(payload)))
		third.want(t, fmt.Sprint(len(payload)))
		if n := tp.model.runs("a"); n != 1 {
			t.Errorf("the function was begun %d times", n)
		}
		if err := tp.table.Delete("a"); err != nil {
			t.Error(err)
		}
		tp.model.reset()
	})
}

// What has no room for new calls has room for those that attach.
func TestAINamedCallAttachesToFullPod(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Pool = worker.Config{Instances: 1, Slots: 1, Queue: 1} })
	c := tp.client(t, transport.GRPC)
	a := startAI(t, c, "chaos", "a", "{}")
	a.upload([]byte("abc"))
	<-tp.model.started
	b := startAI(t, c, "chaos", "b", "{}")
	b.upload(nil)
	eventually(t, "the queue is not full", func() (any, bool) { return nil, tp.pool.Full() != nil })
	again := startAI(t, c, "chaos", "a", "{}")
	again.upload([]byte("abc"))
	if m, err := again.next(); err != nil || string(m.GetData()) != codec.Pong {
		t.Errorf("attached to a full pod: %v, %v", m, err)
	}
	_, err := startAI(t, c, "chaos", "c", "{}").result()
	wantCode(t, err, connect.CodeResourceExhausted, "queue is full")
	close(tp.model.release)
	again.want(t, "3")
	a.want(t, "3")
	b.want(t, "0")
}

// durable is all that the pod has on its disk for later, as digests.
func (tp *testPod) durable(t testing.TB) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(tp.cfg.DataDir, func(path string, d fs.DirEntry, err error) error {
		name, rerr := filepath.Rel(tp.cfg.DataDir, path)
		if err != nil || rerr != nil || d.IsDir() || strings.HasPrefix(name, "spool/payload-") {
			return errors.Join(err, rerr)
		}
		data, err := os.ReadFile(path)
		files[name] = fmt.Sprintf("%x", sha256.Sum256(data))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// A call without an id leaves nothing behind, not even for a while.
func TestAIWithoutNameIsNotDurable(t *testing.T) {
	tp := startHolding(t, nil)
	before := tp.durable(t)
	if len(before) == 0 {
		t.Fatal("there is no jobs.db to compare with")
	}
	eachAI(t, tp, func(t *testing.T, c aiconnect.AIClient, method string) {
		call := startAI(t, c, method, "", "{}")
		call.upload(randomBytes(2 << 20))
		<-tp.model.started
		if diff := cmp.Diff(before, tp.durable(t)); diff != "" {
			t.Errorf("while it runs (-before +after):\n%s", diff)
		}
		close(tp.model.release)
		call.want(t, fmt.Sprint(2<<20))
		tp.model.reset()
	})
	if diff := cmp.Diff(before, tp.durable(t)); diff != "" {
		t.Errorf("in the end (-before +after):\n%s", diff)
	}
	// To see that this can fail:
	call := startAI(t, tp.client(t, transport.GRPC), "chaos", "a", "{}")
	call.upload(randomBytes(2 << 20))
	<-tp.model.started
	if after := tp.durable(t); cmp.Equal(before, after) || after["spool/named/a.in"] == "" {
		t.Errorf("a named call has left %v", after)
	}
	close(tp.model.release)
	call.want(t, fmt.Sprint(2<<20))
}
