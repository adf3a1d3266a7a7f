package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
)

// slowLink is the rate, in bytes/s, below which a request counts as lost.
const slowLink = 64 << 10

// A method is a unary method of the pod.
type method[Req, Res any] func(aipodv1connect.JobServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)

// unary makes a request that must be answered within a time; otherwise the error
// is errSilent and the connection isn't used any more.
func unary[Req, Res any](ctx context.Context, s *links, l *link, within time.Duration, header func(http.Header), call method[Req, Res], msg *Req) (*Res, error) {
	timed, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req := connect.NewRequest(msg)
	header(req.Header())
	res, err := call(l.api, timed, req)
	if err == nil {
		return res.Msg, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if timed.Err() != nil {
		s.retire(l)
		l.closeConns(within)
		return nil, fmt.Errorf("%w: no answer in %v", errSilent, within)
	}
	return nil, err
}

// request makes a request about the job.
func request[T any](r *run, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	r.header(req.Header())
	return req
}

// header adds what each request of the job carries. Proxies may choose the pod by
// the id.
func (r *run) header(h http.Header) {
	r.c.header(h)
	if r.id != "" {
		h.Set("x-job-id", r.id)
	}
}

func (c *Client) header(h http.Header) {
	for name, values := range c.cfg.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
}

// getJob asks how the job is.
func (r *run) getJob(ctx context.Context, l *link) (*aipodv1.Job, error) {
	res, err := unary(ctx, r.links, l, r.c.pace.unary, r.header, aipodv1connect.JobServiceClient.GetJob, &aipodv1.GetJobRequest{JobId: r.id})
	if err != nil {
		return nil, r.goneIsLost(err)
	}
	r.contact = time.Now()
	return res.GetJob(), nil
}

// tryOtherWay finds out whether a proxy keeps streams from working that would work
// as single requests, and says whether to go on in such a way.
func (r *run) tryOtherWay(ctx context.Context, err error) bool {
	c := r.c
	odd := !r.accepted && strange(err)
	switch {
	case !r.half && !r.watching && (odd || r.mute >= 2) && c.answers(ctx, r.links):
	case r.links == c.main && odd && !c.cfg.HTTP1 && c.answers(ctx, c.fallback):
		r.links = c.fallback
	case r.watching && !r.polling && r.mute >= 2 && c.answers(ctx, r.links):
		r.polling = true
	default:
		return false
	}
	r.half, r.mute, r.failures = true, 0, 0
	if r.ephemeral {
		// Only a named job can be sent in pieces.
		r.ephemeral = false
		if r.name() != nil {
			return false
		}
	}
	r.tell(HalfDuplex{JobID: r.id, Polling: r.polling})
	return true
}

// answers says whether the pod answers a single request.
func (c *Client) answers(ctx context.Context, s *links) bool {
	l, err := s.take()
	if err != nil {
		return false
	}
	defer l.leave()
	_, err = unary(ctx, s, l, c.pace.probe, c.header, aipodv1connect.JobServiceClient.ListFunctions, &aipodv1.ListFunctionsRequest{})
	return err == nil
}

// remove deletes a job that nobody else knows of, which also cancels it. If that
// fails the pod will do it when the job has expired.
func (r *run) remove(ctx context.Context, err error) {
	if r.keep || r.ephemeral || r.streams == 0 {
		return
	}
	var job *JobError
	if !r.accepted && errors.As(err, &job) {
		return // it was refused
	}
	l, err := r.links.take()
	if err != nil {
		return
	}
	defer l.leave()
	ctx = context.WithoutCancel(ctx)
	_, _ = unary(ctx, r.links, l, r.c.pace.cleanup, r.header, aipodv1connect.JobServiceClient.DeleteJob, &aipodv1.DeleteJobRequest{JobId: r.id})
}
