package client

import (
	"context"
	"errors"
	"io"
	"time"
)

// AttachOptions say how a job is followed. The zero value is fit for use.
type AttachOptions struct {
	// AfterSeq is the seq of the last event that isn't wanted, default none.
	AfterSeq uint64
	// Output and Watch: see Call.
	Output io.Writer
	Watch  func(Event)
	// SkipOutput is for the events alone: Result has no output then.
	SkipOutput bool
	// Heartbeat and GiveUp: see Call.
	Heartbeat, GiveUp time.Duration
}

// Attach follows a job to its end, and returns what it gave. The errors are those
// of Run; a *JobError with the code NotFound if the pod has no such job. The job
// goes on if ctx ends.
func (c *Client) Attach(ctx context.Context, jobID string, o AttachOptions) (*Result, error) {
	if jobID == "" {
		return nil, errors.New("the id of the job is missing")
	}
	if err := checkHeartbeat(&o.Heartbeat); err != nil {
		return nil, err
	}
	if o.GiveUp <= 0 {
		o.GiveUp = defaultGiveUp
	}
	r := &run{
		view: view{notifier: &notifier{watch: o.Watch}, id: jobID, seq: o.AfterSeq, contact: time.Now()},
		c:    c, links: c.main, half: c.cfg.HalfDuplex,
		heartbeat: o.Heartbeat, giveUp: o.GiveUp,
		keep:   true,
		output: newWindow(),
	}
	if !o.SkipOutput {
		r.out = newSink(o.Output)
	}
	return r.run(ctx)
}
