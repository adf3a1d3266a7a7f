package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
)

// Functions describes the pod's model: what Call.Func and Call.Version may be.
func (c *Client) Functions(ctx context.Context) (*aipodv1.ListFunctionsResponse, error) {
	return ask(ctx, c, "", aipodv1connect.JobServiceClient.ListFunctions, &aipodv1.ListFunctionsRequest{})
}

// Get describes a job. The error is a *JobError with the code NotFound if there is
// no such job.
func (c *Client) Get(ctx context.Context, jobID string) (*aipodv1.Job, error) {
	res, err := ask(ctx, c, jobID, aipodv1connect.JobServiceClient.GetJob, &aipodv1.GetJobRequest{JobId: jobID})
	return res.GetJob(), err
}

// Cancel cancels a job; one that has ended stays as it is. It returns the job as
// it is then: its function may take a moment to notice.
func (c *Client) Cancel(ctx context.Context, jobID string) (*aipodv1.Job, error) {
	res, err := ask(ctx, c, jobID, aipodv1connect.JobServiceClient.CancelJob, &aipodv1.CancelJobRequest{JobId: jobID})
	return res.GetJob(), err
}

// Delete cancels a job, if it has not ended, and removes it. A job that isn't
// there is not an error.
func (c *Client) Delete(ctx context.Context, jobID string) error {
	_, err := ask(ctx, c, jobID, aipodv1connect.JobServiceClient.DeleteJob, &aipodv1.DeleteJobRequest{JobId: jobID})
	return err
}

// List lists the pod's durable jobs in one of the states, or all of them if none
// is given, the newest first. It asks for more of them as they are needed; after
// an error there are no more.
func (c *Client) List(ctx context.Context, states ...aipodv1.State) iter.Seq2[*aipodv1.Job, error] {
	return func(yield func(*aipodv1.Job, error) bool) {
		req := &aipodv1.ListJobsRequest{States: slices.Clone(states)}
		for {
			res, err := ask(ctx, c, "", aipodv1connect.JobServiceClient.ListJobs, req)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, job := range res.GetJobs() {
				if !yield(job, nil) {
					return
				}
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				return
			}
		}
	}
}

// ask makes one request. The error is a *JobError if the pod says so, and
// otherwise an *UnreachableError.
func ask[Req, Res any](ctx context.Context, c *Client, jobID string, call method[Req, Res], msg *Req) (*Res, error) {
	l, err := c.main.take()
	if err != nil {
		return nil, err
	}
	defer l.leave()
	res, err := unary(ctx, c.main, l, c.pace.unary, func(h http.Header) {
		c.header(h)
		if jobID != "" {
			h.Set("x-job-id", jobID)
		}
	}, call, msg)
	var rpc *connect.Error
	switch {
	case err == nil:
		return res, nil
	case ctx.Err() != nil:
		return nil, interrupted(ctx, "the request was abandoned")
	case errors.As(err, &rpc) && connect.IsWireError(rpc):
		return nil, &JobError{JobID: jobID, Code: rpc.Code(), Message: rpc.Message(), Refused: true}
	}
	return nil, &UnreachableError{Addr: c.addr, JobID: jobID, Attempts: 1, Err: err}
}
