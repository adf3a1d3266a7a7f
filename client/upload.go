package client

import (
	"context"
	"errors"
	"io"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/codec"
)

// upload makes the job, or goes on with it, and sends the input in requests of one
// chunk each. It ends with errOtherWay when the pod has all of it.
func (r *run) upload(ctx context.Context) error {
	l, err := r.links.take()
	if err != nil {
		return err
	}
	defer l.leave()
	r.began(false)
	if err = r.makeOrFind(ctx, l); err == nil && r.state <= aipodv1.State_STATE_RECEIVING {
		began := r.committed
		var sent int64
		sent, err = r.write(ctx, l)
		if err != nil && sent > 0 {
			r.input.window.ended(r.committed - began)
		}
	}
	r.ended(l, err)
	if err != nil {
		return err
	}
	return errOtherWay
}

// makeOrFind learns where the job is.
func (r *run) makeOrFind(ctx context.Context, l *link) error {
	var job *aipodv1.Job
	if r.accepted {
		var err error
		if job, err = r.getJob(ctx, l); err != nil {
			return err
		}
	} else {
		res, err := unary(ctx, r.links, l, r.c.pace.unary, r.header, aipodv1connect.JobServiceClient.CreateJob, &aipodv1.CreateJobRequest{JobId: r.id, Spec: r.spec})
		if err != nil {
			return err
		}
		job = res.GetJob()
	}
	return r.take(&aipodv1.Event{Event: &aipodv1.Event_Accepted{Accepted: &aipodv1.Accepted{
		JobId: r.id, State: job.GetState(), Committed: job.GetCommitted(), Attempt: job.GetAttempt(),
		Attached: r.accepted || job.GetCommitted() > 0 || job.GetState() > aipodv1.State_STATE_RECEIVING,
	}}}, false)
}

// write sends the input from where the pod has it, and closes it. sent is how many
// bytes were tried.
func (r *run) write(ctx context.Context, l *link) (sent int64, err error) {
	in, offset := r.input, r.committed
	if err := in.seek(ctx, offset, chunkSize(in.window.limit(0))); err != nil {
		return 0, payloadError(ctx, err)
	}
	for r.state <= aipodv1.State_STATE_RECEIVING {
		c, err := in.chunks.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sent, payloadError(ctx, err)
		}
		r.contact = time.Now() // waiting for the payload is not the pod's silence
		n := int64(c.RawSize)
		sent += n
		err = r.writeChunk(ctx, l, c)
		in.chunks.Release(c)
		if err != nil {
			return sent, err
		}
		if offset += n; offset != r.committed && r.state <= aipodv1.State_STATE_RECEIVING {
			// Someone else writes, too, or what was written is gone.
			offset = r.committed
			if err := in.seek(ctx, offset, in.size); err != nil {
				return sent, payloadError(ctx, err)
			}
		}
		in.src.stored(r.committed)
	}
	return sent, r.closeInput(ctx, l, offset)
}

// writeChunk sends one chunk, and the end of the input with the last one.
func (r *run) writeChunk(ctx context.Context, l *link, c *codec.Chunk) error {
	req := &aipodv1.WriteInputRequest{JobId: r.id, Chunk: wireChunk(c)}
	behind := c.Offset + int64(c.RawSize)
	if behind == r.input.src.size() {
		end, err := r.input.end(behind)
		if err != nil {
			return payloadError(ctx, err)
		}
		req.CloseInput = end
	}
	r.sent(c.RawSize, len(c.Data), behind)
	return r.writeInput(ctx, l, req, len(c.Data))
}

func (r *run) writeInput(ctx context.Context, l *link, req *aipodv1.WriteInputRequest, size int) error {
	within := r.c.pace.unary + time.Duration(float64(size)/slowLink*float64(time.Second))
	res, err := unary(ctx, r.links, l, within, r.header, aipodv1connect.JobServiceClient.WriteInput, req)
	if err != nil {
		return r.goneIsLost(err)
	}
	r.mute, r.contact = 0, time.Now()
	r.observe(res.GetState(), res.GetCommitted())
	return nil
}

// closeInput says that the input is complete until the pod has taken it, which
// takes a while if it is large.
func (r *run) closeInput(ctx context.Context, l *link, size int64) error {
	r.tell(Uploaded{Size: size})
	for n := 1; r.state <= aipodv1.State_STATE_RECEIVING; n++ {
		end, err := r.input.end(size)
		if err != nil {
			return payloadError(ctx, err)
		}
		if err := r.writeInput(ctx, l, &aipodv1.WriteInputRequest{JobId: r.id, CloseInput: end}, 0); err != nil {
			return err
		}
		if r.state <= aipodv1.State_STATE_RECEIVING {
			if err := sleep(ctx, min(time.Duration(n)*20*time.Millisecond, time.Second)); err != nil {
				return err
			}
		}
	}
	return nil
}
