package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench/measure"
)

// A cutCaller runs named jobs with the project's client, which has to get them
// through whatever happens to its connections.
type cutCaller struct {
	plan  *plan
	shard *measure.Shard
	api   *client.Client
	sink  sink
}

// newClient makes a client of the project's own.
func newClient(cfg *Config, addr string) (*client.Client, error) {
	return client.New(client.Config{Addr: addr, Protocol: string(cfg.Protocol), TLS: cfg.TLS, Header: cfg.Header})
}

// Write is for io.Writer: the output.
func (c *cutCaller) Write(b []byte) (int, error) { return len(b), c.sink.write(b) }

// newJob is a job of the plan with a name of its own.
func (p *plan) newJob() client.Call {
	return client.Call{
		Func: p.cfg.Func, Version: p.cfg.Version, Kwargs: p.cfg.Kwargs, Payload: client.ReaderAt(p.payload, p.payload.size),
		JobID: "bench-" + uuid.NewString(), Heartbeat: p.cfg.Heartbeat, Level: client.Level(p.cfg.Level.String()),
		GiveUp: time.Minute,
	}
}

func (c *cutCaller) call(ctx context.Context, m *measure.Call) error {
	c.sink = sink{got: c.shard.Received}
	lost := false
	watch := func(e client.Event) {
		switch e := e.(type) {
		case client.Accepted:
			c.plan.answered(m)
		case client.Heartbeat:
			first(&m.FirstBeat)
		case client.Reconnecting:
			c.plan.cuts.reconnects.Add(1)
		case client.Restarted:
			c.sink.reset()
		case client.Lost:
			lost = true
		case client.Sent:
			c.shard.Sent(int(e.Stats.Sent - c.sink.sent))
			c.sink.sent = e.Stats.Sent
		}
	}
	var (
		res *client.Result
		err error
	)
	if c.plan.output != "" {
		res, err = c.api.Attach(ctx, c.plan.output, client.AttachOptions{Output: c, Watch: watch, Heartbeat: c.plan.cfg.Heartbeat, GiveUp: time.Minute})
	} else {
		job := c.plan.newJob()
		job.Output, job.Watch = c, watch
		res, err = c.api.Run(ctx, job)
		defer c.remove(ctx, job.JobID)
		c.plan.cuts.resent.Add(max(0, c.sink.sent-c.plan.payload.size))
	}
	if err == nil {
		err = c.check(res)
	}
	if lost || err != nil && ctx.Err() == nil {
		c.plan.cuts.lost.Add(1)
	}
	var job *client.JobError
	if errors.As(err, &job) {
		return &JobError{job.Code, job.Message}
	}
	var gone *client.UnreachableError
	if errors.As(err, &gone) {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return err
}

func (c *cutCaller) check(res *client.Result) error {
	if res.HasOutput {
		return c.sink.check(&c.plan.expect)
	}
	return c.plan.expect.checkJSON(res.JSON)
}

// remove removes a job that has ended, or that nobody waits for any more. If that
// fails, its pod does it in time.
func (c *cutCaller) remove(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.api.Delete(ctx, id)
}

// prepare puts an output on the pod that calls then read. The pod forgets it when
// the returned function is called.
func (p *plan) prepare(ctx context.Context) (remove func(), err error) {
	api, err := newClient(&p.cfg, p.cfg.Addr)
	if err != nil {
		return nil, err
	}
	job := p.newJob()
	sum := sink{got: func(int) {}}
	job.Output = writerFunc(sum.write)
	res, err := api.Run(ctx, job)
	remove = func() {
		(&cutCaller{api: api}).remove(ctx, job.JobID)
		api.Close()
	}
	switch {
	case err == nil && !res.HasOutput:
		err = configf("the function %s writes no output that could be downloaded", p.cfg.Func)
	case err != nil:
		err = fmt.Errorf("make an output to download: %w", err)
	}
	if err != nil {
		remove()
		return nil, err
	}
	p.output = job.JobID
	p.expect.size, p.expect.crc = sum.n, sum.crc
	return remove, nil
}

// A writerFunc is an io.Writer that takes all.
type writerFunc func(b []byte) error

func (f writerFunc) Write(b []byte) (int, error) { return len(b), f(b) }
