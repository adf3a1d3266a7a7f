package service

import (
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/spool"
)

// An upload receives one call of ai.AI: the kwargs, and the payload, which is
// decoded as it arrives, straight into the job's input. It belongs to the
// goroutine that runs it; kwargs may be read once the job is done.
type upload struct {
	ctx   context.Context //nolint:containedctx // the stream's
	conn  connect.StreamingHandlerConn
	pod   *Pod
	job   *job.Job
	piece *codec.Piece

	kwargs  codec.Kwargs
	decoder *codec.Decoder // nil until the kwargs have come
}

// run receives all messages and starts the job. After an error the job has not
// started and never will.
func (u *upload) run() error {
	err := u.receive()
	if u.decoder != nil {
		if err != nil {
			u.decoder.Abort(err)
		} else {
			err = u.decoder.Close()
		}
	}
	if err != nil {
		return err
	}
	if size := u.kwargs.Size; size >= 0 && size != u.job.Received() {
		return u.wrongSize()
	}
	return u.job.Start(job.Spec{
		Version:  u.kwargs.Version,
		Kwargs:   u.kwargs.JSON,
		Metadata: metadata(u.conn.RequestHeader()),
	})
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
	if size := u.kwargs.Size; size >= 0 && u.job.Received() > size {
		return u.wrongSize()
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
	if size := kwargs.Size; size > 0 {
		if limit := u.pod.cfg.MaxPayload; limit > 0 && size > limit {
			return &spool.LimitError{Limit: limit}
		}
		if err := u.pod.spool.Fits(size); err != nil {
			return err
		}
	}
	u.kwargs = kwargs
	u.decoder = codec.NewDecoder(u.ctx, u.job.Input(), kwargs.Compressed)
	return nil
}

func (u *upload) wrongSize() error {
	return &codec.PayloadError{Reason: fmt.Sprintf("%d bytes of payload have arrived, but %s says %d",
		u.job.Received(), codec.SizeKey, u.kwargs.Size)}
}
