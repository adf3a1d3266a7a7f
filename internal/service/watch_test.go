package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A watcher is a client's side of a WatchJob.
type watcher struct {
	stream *connect.ServerStreamForClient[aipodv1.WatchJobResponse]
	cut    func()
	err    error // of the call
	seen
}

func watch(s steps, req *aipodv1.WatchJobRequest) *watcher {
	s.t.Helper()
	ctx, cancel := context.WithCancel(soon(s.t))
	w := &watcher{seen: seen{t: s.t, offset: req.GetOutputOffset()}}
	w.stream, w.err = s.c.WatchJob(ctx, connect.NewRequest(req))
	w.cut = func() {
		cancel()
		if w.stream != nil {
			_ = w.stream.Close()
		}
	}
	s.t.Cleanup(w.cut)
	return w
}

func (w *watcher) next() (*aipodv1.Event, error) {
	if w.err != nil {
		return nil, w.err
	}
	if !w.stream.Receive() {
		if err := w.stream.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	e := w.stream.Msg().GetEvent()
	w.add(e)
	return e, nil
}

func (w *watcher) accept() *aipodv1.Accepted {
	w.t.Helper()
	if _, err := w.next(); err != nil {
		w.t.Fatalf("no Accepted: %v", err)
	}
	return w.accepted
}

// until gets events until one of them will do.
func (w *watcher) until(what string, ok func(*aipodv1.Event) bool) {
	w.t.Helper()
	for {
		e, err := w.next()
		if err != nil {
			w.t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(e) {
			return
		}
	}
}

// end gets all that is left. The error is nil at the stream's clean end.
func (w *watcher) end() (*seen, error) {
	for {
		if _, err := w.next(); err != nil {
			w.cut()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return &w.seen, err
		}
	}
}

func (w *watcher) result() *seen {
	w.t.Helper()
	s, err := w.end()
	if err != nil || s.done == nil {
		w.t.Fatalf("the watch ended without Done: failed %v, error %v", s.failed, err)
	}
	return s
}

// Output comes while it grows: the watcher has each part before the function
// writes the next.
func TestWatchOutputAsItGrows(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = maxHeartbeat })
	eachStep(t, tp, func(t *testing.T, s steps) {
		s.made("grow", specOf("grow", ""), "")
		<-tp.model.started
		all := watch(s, &aipodv1.WatchJobRequest{JobId: "grow", AcceptZstd: true})
		late := watch(s, &aipodv1.WatchJobRequest{JobId: "grow", OutputOffset: 100, OutputAttempt: 1, MaxChunk: 10})
		none := watch(s, &aipodv1.WatchJobRequest{JobId: "grow", SkipOutput: true})
		var whole []byte
		for n := range int64(10) {
			part := []byte(strings.Repeat(fmt.Sprint(n), 50))
			whole = append(whole, part...)
			tp.model.parts <- part
			for _, w := range []*watcher{all, late} {
				w.until("the output", func(*aipodv1.Event) bool { return w.offset >= int64(len(whole)) })
			}
			none.until("progress", func(e *aipodv1.Event) bool { return e.GetProgress().GetDone() == n+1 })
		}
		if state := s.mustGet("grow").GetState(); state != aipodv1.State_STATE_RUNNING {
			t.Errorf("the job is %v", state)
		}
		if size := watch(s, &aipodv1.WatchJobRequest{JobId: "grow"}).accept().GetOutputSize(); size != int64(len(whole)) {
			t.Errorf("output_size %d", size)
		}
		close(tp.model.parts)
		all.result().wantOutput(whole, 0, false)
		late.result().wantOutput(whole, 100, false)
		if got := none.result(); got.chunks != nil || got.done.GetOutputSize() != int64(len(whole)) || !got.done.GetHasOutput() {
			t.Errorf("without output: %d chunks, %v", len(got.chunks), got.done)
		}
		tp.model.reset()
		if err := s.delete("grow"); err != nil {
			t.Error(err)
		}
	})
}

// A stream that has reached its age ends cleanly, and who attaches again misses
// nothing and gets nothing twice.
func TestWatchStreamAge(t *testing.T) {
	const age, n = 50 * time.Millisecond, 20
	tp := startPod(t, func(cfg *Config) { cfg.StreamAge = age })
	eachStep(t, tp, func(t *testing.T, s steps) {
		s.made("grow", specOf("grow", ""), "")
		<-tp.model.started
		var whole []byte
		for i := range n {
			whole = append(whole, strings.Repeat(fmt.Sprint(i), 1000)...)
		}
		fed := make(chan struct{})
		go func() {
			defer close(fed)
			tick := time.NewTicker(age / 5)
			defer tick.Stop()
			for i := range n {
				tp.model.parts <- []byte(strings.Repeat(fmt.Sprint(i), 1000))
				<-tick.C
			}
			close(tp.model.parts)
		}()
		var steps int64
		sum := seen{t: t}
		streams := 0
		for sum.done == nil {
			begun := time.Now()
			w := watch(s, &aipodv1.WatchJobRequest{JobId: "grow", AfterSeq: sum.last, OutputOffset: sum.offset, OutputAttempt: 1, MaxChunk: 700})
			w.last = sum.last
			got, err := w.end()
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); got.done == nil && took < age {
				t.Errorf("a stream ended after %v", took)
			}
			if streams++; streams > 1000 {
				t.Fatal("it does not end")
			}
			for _, done := range got.progress {
				if steps++; done != steps {
					t.Errorf("progress %d, want %d", done, steps)
				}
			}
			sum.output = append(sum.output, got.output...)
			sum.last, sum.offset, sum.done = got.last, got.offset, got.done
		}
		if streams < 3 || steps != n {
			t.Errorf("%d streams, %d steps", streams, steps)
		}
		sum.wantOutput(whole, 0, false)
		<-fed
		tp.model.reset()
		if err := s.delete("grow"); err != nil {
			t.Error(err)
		}
	})
	// A Run in the middle of its upload is no exception, an unnamed one is.
	c := tp.jobs(t, grpcWay.p)
	r := startRun(t, c, &aipodv1.Open{JobId: "run", Spec: specOf("hello", "")})
	if s, err := r.end(); err != nil || s.done != nil || s.failed != nil {
		t.Errorf("the run ended with %v, %v, %v", s.done, s.failed, err)
	}
	r = startRun(t, c, &aipodv1.Open{Spec: specOf("hello", "")})
	r.until("a beat after the age", func(e *aipodv1.Event) bool { return e.GetHeartbeat().GetElapsed().AsDuration() > 2*age })
	r.closeInput(endOf(nil))
	r.result()
}

// A watcher that doesn't read holds up nobody, and has it all when it does.
func TestWatchSlowReader(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.made("grow", specOf("grow", ""), "")
	slow := watch(s, &aipodv1.WatchJobRequest{JobId: "grow"})
	part := randomBytes(1 << 20)
	var whole []byte
	for range 24 { // more than HTTP/2's windows
		tp.model.parts <- part
		whole = append(whole, part...)
	}
	close(tp.model.parts)
	s.untilState("grow", aipodv1.State_STATE_SUCCEEDED)
	slow.result().wantOutput(whole, 0, false)
}

// A job that is deleted is over for those who watch it.
func TestWatchDeletedJob(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = maxHeartbeat })
	eachStep(t, tp, func(t *testing.T, s steps) {
		for _, state := range []aipodv1.State{aipodv1.State_STATE_RECEIVING, aipodv1.State_STATE_RUNNING} {
			s.mustCreate("a", specOf("wait", ""))
			s.mustWrite("a", chunkOf(0, []byte("abc")), nil)
			if state == aipodv1.State_STATE_RUNNING {
				s.mustWrite("a", nil, endOf([]byte("abc")))
			}
			s.untilState("a", state)
			w := watch(s, &aipodv1.WatchJobRequest{JobId: "a"})
			w.accept()
			if err := s.delete("a"); err != nil {
				t.Fatal(err)
			}
			got, err := w.end()
			if err != nil || connect.Code(got.failed.GetCode()) != connect.CodeCanceled || got.failed.GetMessage() != "the job was deleted" {
				t.Errorf("%v: %v, %v", state, got.failed, err)
			}
			if state == aipodv1.State_STATE_RUNNING {
				<-tp.model.gone
			}
		}
		// In the middle of an upload nothing comes back.
		if strings.HasSuffix(t.Name(), "http1") {
			return // no duplex
		}
		r := startRun(t, s.c, &aipodv1.Open{JobId: "a", Spec: specOf("wait", "")})
		r.chunk(chunkOf(0, make([]byte, 1000)))
		r.untilCommitted(1000)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for off := int64(1000); off < 1000_000; off += 1000 {
				if r.stream.Send(&aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: chunkOf(off, make([]byte, 1000))}}) != nil {
					return
				}
			}
		}()
		r.untilCommitted(10_000)
		if err := s.delete("a"); err != nil {
			t.Fatal(err)
		}
		if got, err := r.end(); err != nil || connect.Code(got.failed.GetCode()) != connect.CodeCanceled {
			t.Errorf("the upload: %v, %v", got.failed, err)
		}
		<-sent
	})
}

// Done says that all of the output has come, so it doesn't come when the output is
// deleted while it is read.
func TestWatchOutputDeleted(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	for _, zstd := range []bool{false, true} {
		r := startRun(t, s.c, &aipodv1.Open{JobId: "a", Spec: specOf("chaos", "")})
		r.upload(randomBytes(24<<20), 0) // more than HTTP/2's windows
		r.until("the end", func(e *aipodv1.Event) bool { return e.GetDone() != nil })
		r.cut()
		w := watch(s, &aipodv1.WatchJobRequest{JobId: "a", AcceptZstd: zstd})
		w.until("output", func(e *aipodv1.Event) bool { return e.GetOutput() != nil })
		if err := s.delete("a"); err != nil {
			t.Fatal(err)
		}
		got, err := w.end()
		wantCode(t, err, connect.CodeAborted, "deleted")
		if got.done != nil {
			t.Errorf("done %v after %d bytes", got.done, len(got.output))
		}
	}
}

// Who only watches hears of the upload, and is never left in silence.
func TestWatchHeartbeats(t *testing.T) {
	tp := startPod(t, func(cfg *Config) { cfg.Heartbeat = maxHeartbeat })
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.mustCreate("silent", specOf("hold", ""))
	w := watch(s, &aipodv1.WatchJobRequest{JobId: "silent", Heartbeat: durationpb.New(minHeartbeat)})
	begun := time.Now()
	for len(w.beats) < 4 {
		if _, err := w.next(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("4 beats took %v", took)
	}
	w.cut()
	eachStep(t, tp, func(t *testing.T, s steps) {
		s.mustCreate("a", specOf("hold", ""))
		w := watch(s, &aipodv1.WatchJobRequest{JobId: "a"})
		w.accept()
		s.mustWrite("a", chunkOf(0, []byte("abc")), nil)
		w.until("the bytes", func(e *aipodv1.Event) bool { return e.GetHeartbeat().GetCommitted() == 3 })
		s.mustWrite("a", nil, endOf([]byte("abc")))
		w.until("the function", func(e *aipodv1.Event) bool {
			return e.GetHeartbeat().GetState() == aipodv1.State_STATE_RUNNING && e.GetSeq() > 0
		})
		if err := s.delete("a"); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []time.Duration{0, time.Millisecond, time.Minute, -time.Second} {
		_, err := watch(s, &aipodv1.WatchJobRequest{JobId: "a", Heartbeat: durationpb.New(d)}).end()
		wantCode(t, err, connect.CodeInvalidArgument, "from 200ms to 30s")
	}
}
