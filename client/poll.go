package client

import (
	"context"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// poll asks for the job again and again until it has ended: for proxies that pass
// on an answer only when it is complete. The output, if there is one, is watched
// for afterwards: the answer is then complete at once.
func (r *run) poll(ctx context.Context) error {
	l, err := r.links.take()
	if err != nil {
		return err
	}
	defer l.leave()
	r.began(true)
	for {
		job, err := r.getJob(ctx, l)
		if err != nil {
			r.ended(l, err)
			return err
		}
		r.doubtful = false
		if err := r.takeJob(job); err != nil || r.done != nil {
			return err
		}
		if err := r.whileReceiving(); err != nil {
			return err
		}
		if err := sleep(ctx, r.heartbeat); err != nil {
			return err
		}
	}
}

// takeJob takes in what GetJob says.
func (r *run) takeJob(job *aipodv1.Job) error {
	if job.GetFailed() != nil {
		return r.failure(job.GetFailed())
	}
	if job.GetDone().GetHasOutput() && len(job.GetDone().GetResultJson()) == 0 && r.out != nil {
		r.state = job.GetState()
		return errOtherWay
	}
	err := r.take(&aipodv1.Event{Event: &aipodv1.Event_Heartbeat{Heartbeat: &aipodv1.Heartbeat{
		State: job.GetState(), QueuePosition: job.GetQueuePosition(), Committed: job.GetCommitted(),
		Progress: job.GetProgress(), Attempt: job.GetAttempt(),
	}}}, false)
	if err == nil {
		r.done = job.GetDone()
	}
	return err
}

// outputReady says that the job has ended, with an output to be read.
func (r *run) outputReady() bool { return r.state == aipodv1.State_STATE_SUCCEEDED }
