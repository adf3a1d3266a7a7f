package client

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// watch follows the job. It is nil when the job is done.
func (r *run) watch(ctx context.Context) error {
	l, err := r.links.take()
	if err != nil {
		return err
	}
	defer l.leave()
	r.began(true)
	r.watching = true
	req := &aipodv1.WatchJobRequest{
		JobId: r.id, Heartbeat: durationpb.New(r.heartbeat), AfterSeq: r.seq, MaxChunk: r.maxChunk(),
		AcceptZstd: true, SkipOutput: r.out == nil,
	}
	if r.out != nil {
		req.OutputOffset, req.OutputAttempt = r.out.offset, r.attempt
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var events *connect.ServerStreamForClient[aipodv1.WatchJobResponse]
	s := newStream(ctx, l, cancel, func() (*aipodv1.Event, error) {
		if events == nil {
			var err error
			if events, err = l.api.WatchJob(ctx, request(r, req)); err != nil {
				return nil, err
			}
		}
		if events.Receive() {
			return events.Msg().GetEvent(), nil
		}
		err := events.Err()
		_ = events.Close() // it has ended
		if err == nil {
			err = errCut
		}
		return nil, err
	}, func() {})
	first, interval := r.patience()
	if r.polling {
		// The answer is held back until it is complete, which may take long.
		first = max(first, 10*interval)
	}
	err = r.follow(ctx, s, false, first, interval, r.whileReceiving)
	s.close()
	r.ended(l, err)
	return r.goneIsLost(err)
}

// whileReceiving ends the watching of a job whose input doesn't come from anyone.
func (r *run) whileReceiving() error {
	switch {
	case r.input == nil || r.state != aipodv1.State_STATE_RECEIVING:
		return nil
	case r.superseded && r.committed > r.elsewhere:
		r.elsewhere, r.moved = r.committed, time.Now()
		return nil
	case r.superseded && time.Since(r.moved) < r.c.pace.takeOver:
		return nil
	case r.superseded:
		r.superseded = false
		r.tell(Resumed{})
	}
	return errOtherWay
}

// goneIsLost tells from an error that the pod doesn't have the job.
func (r *run) goneIsLost(err error) error {
	var rpc *connect.Error
	if r.accepted && errors.As(err, &rpc) && connect.IsWireError(rpc) && rpc.Code() == connect.CodeNotFound {
		return errLost
	}
	return err
}
