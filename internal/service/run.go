package service

import (
	"context"
	"errors"
	"io"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
)

type runStream = connect.BidiStream[aipodv1.RunRequest, aipodv1.RunResponse]

// Run's goroutine is the only sender of the stream; one of the runInput is the
// only receiver.
func (h *jobHandler) Run(ctx context.Context, stream *runStream) error {
	in := startRunInput(ctx, stream)
	defer in.end()
	send := func(e *aipodv1.Event) error { return stream.Send(&aipodv1.RunResponse{Event: e}) }
	open, err := h.awaitOpen(ctx, in, send)
	if err != nil {
		return err
	}
	v, err := h.pod.newView(open)
	if err != nil {
		return err
	}
	v.send = send
	// Refusals come before the first message, so that they are Trailers-Only and a
	// gRPC client's retryPolicy applies to them.
	if err := h.open(ctx, v, open); err != nil {
		return err
	}
	if !v.job.Named() {
		defer v.job.Close()
		// Not in the view's loop: a sender whose client doesn't read is stuck in it.
		defer context.AfterFunc(ctx, func() { v.job.Cancel(context.Cause(ctx)) })()
		// Before Close, which frees what the receiver may still write to.
		defer in.end()
	}
	stream.ResponseHeader().Set(headerJob, v.job.ID)
	in.jobs <- v.job
	return v.follow(ctx, in.stop)
}

// awaitOpen waits for the first message. A proxy that holds it back hears
// heartbeats meanwhile.
func (h *jobHandler) awaitOpen(ctx context.Context, in *runInput, send func(*aipodv1.Event) error) (*aipodv1.Open, error) {
	beat := beatsOf(ctx).join(h.pod.cfg.Heartbeat)
	defer beat.leave()
	for {
		select {
		case open := <-in.opened:
			return open, nil
		case err := <-in.stop:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-beat.next():
			beat.heard()
			m := &aipodv1.Event{Time: timestamppb.Now(), Event: &aipodv1.Event_Heartbeat{Heartbeat: &aipodv1.Heartbeat{}}}
			if err := send(m); err != nil {
				return nil, err
			}
		}
	}
}

// open makes the job that the stream is about, or finds it.
func (h *jobHandler) open(ctx context.Context, v *view, open *aipodv1.Open) error {
	spec, err := specFrom(open.GetSpec())
	if err != nil {
		return err
	}
	if id := open.GetJobId(); id != "" {
		if err := checkJobID(id); err != nil {
			return err
		}
		v.job, v.attached, err = h.pod.create(id, spec)
		return err
	}
	if err := h.pod.admits(spec); err != nil {
		return err
	}
	if err := h.pod.fits(spec.Size); err != nil {
		return err
	}
	spec.Deadline, _ = ctx.Deadline()
	v.job, err = h.pod.table.Open(spec)
	return err
}

// A runInput receives one Run in a goroutine of its own.
type runInput struct {
	ctx    context.Context //nolint:containedctx // the stream's
	stream *runStream
	opened chan *aipodv1.Open // capacity 1: the first message
	jobs   chan *job.Job      // capacity 1: what the handler made of it
	// stop says why the stream has to end, or nil when the caller has no more to
	// send. It has room for all that is ever sent: a result and a supersession.
	stop  chan error
	done  chan struct{} // closed when nothing more is received
	ended sync.Once
	wg    sync.WaitGroup

	// Of the receiver.
	begun  bool
	job    *job.Job
	writer *job.Writer // nil until the first chunk or end
	closed bool        // the input is
}

// startRunInput begins to receive. It must be ended.
func startRunInput(ctx context.Context, stream *runStream) *runInput {
	in := &runInput{
		ctx: ctx, stream: stream, opened: make(chan *aipodv1.Open, 1), jobs: make(chan *job.Job, 1),
		stop: make(chan error, 2), done: make(chan struct{}),
	}
	in.wg.Go(func() {
		err := in.run()
		close(in.done)
		in.stop <- err
	})
	return in
}

// end waits until nothing more is received.
func (in *runInput) end() {
	in.ended.Do(func() {
		close(in.jobs)
		endReads(in.ctx, in.done)
		in.wg.Wait()
	})
}

func (in *runInput) run() error {
	p := codec.NewRunPiece(in.consume)
	for {
		err := p.Receive(in.stream.Conn())
		switch {
		case err == nil:
		case p.Err != nil:
			return p.Err
		case errors.Is(err, io.EOF):
			return in.eof()
		default:
			return err
		}
	}
}

// eof takes the end of what the caller sends. A durable job may get more on
// another stream.
func (in *runInput) eof() error {
	switch {
	case !in.begun:
		return invalidf("the stream has no messages: the first one must be open")
	case in.closed || in.job == nil || in.job.Named():
		return nil
	}
	// Nobody can tell this from a cut.
	return invalidf("the stream ended before close_input")
}

// awaitSupersession ends the stream for a newer one while the receiver waits for
// its own caller, which may be gone. Who has sent all of the input has nothing to
// lose: somebody else may send it again, and both wait for the same result.
func (in *runInput) awaitSupersession() {
	select {
	case <-in.writer.Lost():
		if in.job.State() == job.Receiving {
			in.stop <- job.ErrSuperseded
		}
	case <-in.done:
	}
}

// consume takes one message; see codec.RunPiece.
func (in *runInput) consume(msg *aipodv1.RunRequest) error {
	if !in.begun {
		return in.begin(msg.GetOpen())
	}
	if in.job == nil {
		return nil // refused: the stream ends
	}
	if in.writer == nil {
		in.writer = in.job.Writer()
		in.wg.Go(in.awaitSupersession)
	}
	switch m := msg.GetMessage().(type) {
	case *aipodv1.RunRequest_Chunk:
		return put(m.Chunk, in.writer.Put)
	case *aipodv1.RunRequest_CloseInput:
		// The handler's heartbeats go on meanwhile, however long it takes.
		in.closed = true
		return in.writer.Close(context.WithoutCancel(in.ctx), m.CloseInput.GetSize(), m.CloseInput.Crc32C)
	case *aipodv1.RunRequest_Open:
		return invalidf("open is sent twice: a stream is about one job")
	}
	return invalidf("a message has neither chunk nor close_input")
}

// begin hands the first message to the handler and waits for the job.
func (in *runInput) begin(open *aipodv1.Open) error {
	in.begun = true
	if open == nil {
		return invalidf("the first message must be open")
	}
	in.opened <- proto.CloneOf(open)
	in.job = <-in.jobs // nil if it is refused
	return nil
}
