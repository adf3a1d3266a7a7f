package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
)

// An upload receives one call of ai.AI: the kwargs, and the payload, which is
// decoded as it arrives, straight into the job's input. It belongs to the
// goroutine that runs it; kwargs may be read once the job is done, job and writer
// once the job has come out of opened.
type upload struct {
	ctx    context.Context //nolint:containedctx // the stream's
	conn   connect.StreamingHandlerConn
	pod    *Pod
	fn, id string        // id is empty for a job without a name
	opened chan *job.Job // gets a durable job
	piece  *codec.Piece

	kwargs  codec.Kwargs
	decoder *codec.Decoder // nil until the kwargs have come
	job     *job.Job       // nil until then, if it is durable
	writer  *job.Writer    // of a durable job that receives
	dst     io.Writer      // takes the payload
}

// run receives all messages and starts the job. After an error it has not
// started, and a job without a name never will. Unless function is nil, it has the
// function run, and the caller has to call it.
func (u *upload) run() (function func(), err error) {
	err = u.receive()
	if u.decoder != nil {
		if err != nil {
			u.decoder.Abort(err)
		} else {
			err = u.decoder.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	if dst, ok := u.dst.(*inputWriter); ok {
		if u.wrongSize(dst.off) {
			return nil, u.sizeError(dst.off)
		}
		return nil, dst.w.Close(context.WithoutCancel(u.ctx), dst.off, nil)
	}
	if u.job.Named() {
		return nil, nil // attached to one that has its input
	}
	if u.wrongSize(u.job.Committed()) {
		return nil, u.sizeError(u.job.Committed())
	}
	return u.job.Ready(u.spec())
}

func (u *upload) spec() job.Spec {
	var deadline time.Time
	if u.id == "" { // a durable job outlives the call
		deadline, _ = u.ctx.Deadline()
	}
	return job.Spec{
		Func:     u.fn,
		Version:  u.kwargs.Version,
		Kwargs:   u.kwargs.JSON,
		Size:     u.kwargs.Size,
		Metadata: metadata(u.conn.RequestHeader()),
		Deadline: deadline,
	}
}

// An inputWriter writes a durable job's input from its start.
type inputWriter struct {
	w   *job.Writer
	off int64
}

func (i *inputWriter) Write(p []byte) (int, error) {
	if _, err := i.w.Put(i.off, p); err != nil {
		return 0, err
	}
	i.off += int64(len(p))
	return len(p), nil
}

func (u *upload) receive() error {
	for {
		err := u.piece.Receive(u.conn)
		switch {
		case err == nil:
			continue
		case u.piece.Err != nil:
			return u.piece.Err
		case errors.Is(err, io.EOF):
			if u.decoder == nil {
				return &codec.PayloadError{Reason: "the call has no messages: the first one must carry the kwargs, a JSON object"}
			}
			return nil
		case connect.CodeOf(err) == connect.CodeResourceExhausted:
			return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf(
				"%w: send the payload in smaller messages, or raise --max-message", errors.Unwrap(err)))
		}
		return err
	}
}

// consume takes one message; see codec.Piece.
func (u *upload) consume(p *codec.Piece) error {
	data := p.Data
	if u.decoder == nil {
		first := p.Kwargs
		if u.conn.Spec().Procedure == chaosProcedure {
			first, data = p.Data, nil
		}
		if err := u.begin(first, p.Version); err != nil {
			return err
		}
	}
	if len(data) == 0 {
		return nil
	}
	if _, err := u.decoder.Write(data); err != nil {
		return err
	}
	if size := u.kwargs.Size; size >= 0 && u.writer == nil && !u.job.Named() && u.job.Committed() > size {
		return u.sizeError(u.job.Committed())
	}
	return nil
}

// begin takes the kwargs and refuses what can't be stored before it is sent.
func (u *upload) begin(first []byte, version string) error {
	kwargs, err := codec.ParseKwargs(first)
	if err != nil {
		return err
	}
	switch {
	case kwargs.Version == "":
		kwargs.Version = version
	case version != "" && version != kwargs.Version:
		return &codec.PayloadError{Reason: fmt.Sprintf(
			"the kwargs name version %q and the message names %q: name one", kwargs.Version, version)}
	}
	u.kwargs = kwargs
	if u.id == "" {
		if err := u.pod.fits(kwargs.Size); err != nil {
			return err
		}
	} else if err := u.open(); err != nil {
		return err
	}
	u.decoder = codec.NewDecoder(u.ctx, u.dst, kwargs.Compressed)
	return nil
}

// open makes a durable job, or attaches to it. This caller then writes its input,
// from the start, unless that is complete.
func (u *upload) open() error {
	j, _, err := u.pod.create(u.id, u.spec())
	if err != nil {
		return err
	}
	u.job, u.dst = j, io.Discard
	if j.State() == job.Receiving {
		u.writer = j.Writer()
		u.dst = &inputWriter{w: u.writer}
	}
	u.opened <- j
	return nil
}

// wrongSize says whether the payload hasn't the size that the kwargs name.
func (u *upload) wrongSize(size int64) bool { return u.kwargs.Size >= 0 && u.kwargs.Size != size }

func (u *upload) sizeError(size int64) error {
	return &codec.PayloadError{Reason: fmt.Sprintf("%d bytes of payload have arrived, but %s says %d",
		size, codec.SizeKey, u.kwargs.Size)}
}
