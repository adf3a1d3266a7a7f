package client

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

type bidi = *connect.BidiStreamForClient[aipodv1.RunRequest, aipodv1.RunResponse]

// duplex makes the job, or goes on with it, on one stream in both directions. It
// is nil when the job is done.
func (r *run) duplex(ctx context.Context) error {
	l, err := r.links.take()
	if err != nil {
		return err
	}
	defer l.leave()
	// What nobody else can have begun is sent without waiting for the answer.
	atOnce := r.streams == 0 && !r.keep
	r.began(false)
	open := &aipodv1.Open{
		JobId: r.id, Spec: r.spec, Heartbeat: durationpb.New(r.heartbeat), AfterSeq: r.seq,
		OutputOffset: r.out.offset, OutputAttempt: r.attempt, MaxChunk: r.maxChunk(), AcceptZstd: true,
	}
	ctx, cancel := context.WithCancelCause(ctx)
	conn := l.api.Run(ctx)
	r.header(conn.RequestHeader())
	f := newFlow()
	s := newStream(ctx, l, cancel, func() (*aipodv1.Event, error) {
		res, err := conn.Receive()
		return res.GetEvent(), err
	}, func() {
		r.input.src.interrupt()
		// net/http doesn't reset a stream while it reads its body.
		_ = conn.CloseRequest()
		_ = conn.CloseResponse() // it has ended, or is cut off
	})
	s.send(func() error { return r.send(ctx, conn, f, open, atOnce) })
	first, interval := r.patience()
	err = r.follow(ctx, s, true, first, interval, func() error {
		f.update(r.state <= aipodv1.State_STATE_RECEIVING, r.committed)
		r.input.src.stored(r.committed)
		if f.stalled(r.c.pace.stall) {
			return errStalled
		}
		return nil
	})
	s.close()
	r.ended(l, err)
	if n, given := f.carried(); given && err != nil {
		r.input.window.ended(n)
	}
	return err
}

// send sends Open, and the input from where the pod has it. The error is about
// the payload; what is wrong with the stream is for the receiver to say.
func (r *run) send(ctx context.Context, conn bidi, f *flow, open *aipodv1.Open, atOnce bool) error {
	if !put(conn, &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: open}}) {
		return nil
	}
	var offset int64
	if !atOnce {
		if !f.wait(ctx, func() bool { return f.accepted }) {
			return nil
		}
		receiving, committed := f.stand()
		if !receiving {
			_ = conn.CloseRequest() // if it fails, so does receiving
			return nil
		}
		offset = committed
	}
	f.start(offset)
	in := r.input
	if err := in.seek(ctx, offset, chunkSize(in.window.limit(0))); err != nil {
		return payloadError(ctx, err)
	}
	for {
		c, err := in.chunks.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return payloadError(ctx, err)
		}
		if !f.room(ctx, c.RawSize, in.window.limit) {
			in.chunks.Release(c)
			return nil
		}
		offset += int64(c.RawSize)
		r.sent(c.RawSize, len(c.Data), offset)
		ok := put(conn, &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: wireChunk(c)}})
		in.chunks.Release(c)
		if !ok {
			return nil
		}
		// A stream that carries far more than was expected deserves larger chunks.
		carried, _ := f.carried()
		if size := chunkSize(in.window.limit(carried)); size >= 4*in.size {
			if err := in.seek(ctx, offset, size); err != nil {
				return payloadError(ctx, err)
			}
		}
	}
	end, err := in.end(offset)
	if err != nil {
		return payloadError(ctx, err)
	}
	if put(conn, &aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: end}}) {
		r.tell(Uploaded{Size: offset})
		_ = conn.CloseRequest() // if it fails, so does receiving
	}
	return nil
}

// put sends a message. If that fails, so does receiving, which knows why.
func put(conn bidi, m *aipodv1.RunRequest) bool { return conn.Send(m) == nil }

// sent counts a chunk.
func (r *run) sent(raw, wire int, offset int64) {
	r.count(func(s *Stats) { s.Sent += int64(raw); s.Wire += int64(wire) }, func(s Stats) Event {
		return Sent{Offset: offset, Size: r.input.src.size(), Stats: s}
	})
}

// began counts a stream.
func (r *run) began(watch bool) {
	r.streams++
	r.count(func(s *Stats) { s.Streams++ }, func(s Stats) Event { return Connecting{Stream: s.Streams, Watch: watch} })
}

// ended draws conclusions from how a stream has ended.
func (r *run) ended(l *link, err error) {
	r.streamEnded()
	silent := errors.Is(err, errSilent) || errors.Is(err, errStalled)
	if silent || err != nil && r.failures >= 2 {
		r.links.retire(l)
	}
	if silent {
		_, interval := r.patience()
		l.closeConns(interval)
	}
}
