package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
)

// logs gives p the log of a job's function: the lines that the pod has kept, and
// those to come if they are wanted.
func (a *app) logs(ctx context.Context, c *conn, id string, p *logPrinter, follow bool) error {
	seq, ended, err := c.keptLog(ctx, id, p)
	switch {
	case p.err != nil:
		return failf("write the log: %w", p.err)
	case err != nil && (!follow || jobError(err) != nil):
		return c.noJob(err)
	case ended, !follow:
		return nil
	}
	// What was cut before goes on here, and with patience.
	t := a.track(showing{heartbeat: time.Second})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err = c.api.Attach(ctx, id, client.AttachOptions{AfterSeq: seq, SkipOutput: true, Watch: func(e client.Event) {
		if l, ok := e.(client.Log); ok {
			if p.print(l.Time, l.Level, l.Line); p.err != nil {
				cancel()
			}
			return
		}
		t.watch(e)
	}})
	t.close()
	job := jobError(err)
	switch {
	case p.err != nil:
		return failf("write the log: %w", p.err)
	case err == nil, job != nil && !job.Refused:
		return nil // how the job ended is not this command's business
	}
	return c.noJob(err)
}

// keptTime is how long the pod may take for the lines that it has kept, which are
// not many.
const keptTime = 10 * time.Second

// keptLog prints the lines that are there already. It returns the seq of the last
// event that it has seen, and whether the job has ended. The error is a
// *client.JobError if it is what the pod said, and not that the way to it is cut.
func (c *conn) keptLog(ctx context.Context, id string, p *logPrinter) (seq uint64, ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, keptTime)
	defer cancel()
	defer func() {
		var rpc *connect.Error
		if errors.As(err, &rpc) && connect.IsWireError(rpc) && ctx.Err() == nil && rpc.Code() != connect.CodeUnavailable {
			err = &client.JobError{JobID: id, Code: rpc.Code(), Message: rpc.Message(), Refused: true}
		}
	}()
	req := connect.NewRequest(&aipodv1.WatchJobRequest{JobId: id, SkipOutput: true})
	for name, values := range c.header {
		req.Header()[name] = values
	}
	req.Header().Set("x-job-id", id)
	events, err := aipodv1connect.NewJobServiceClient(c.http, c.addr, c.options...).WatchJob(ctx, req)
	if err != nil {
		return 0, false, err
	}
	defer func() {
		cancel()
		_ = events.Close() // enough was read
	}()
	last := uint64(1<<64 - 1)
	for p.err == nil && seq < last && events.Receive() {
		e := events.Msg().GetEvent()
		seq = max(seq, e.GetSeq())
		switch e := e.GetEvent().(type) {
		case *aipodv1.Event_Accepted:
			last = e.Accepted.GetLastSeq()
			if e.Accepted.GetTruncated() {
				p.a.warn("the pod has kept only the newest lines")
			}
		case *aipodv1.Event_Log:
			p.print(events.Msg().GetEvent().GetTime().AsTime(), slog.Level(e.Log.GetLevel()), e.Log.GetLine())
		case *aipodv1.Event_Done, *aipodv1.Event_Failed:
			return seq, true, nil
		}
	}
	if seq >= last {
		return seq, false, nil
	}
	if err = events.Err(); err == nil {
		err = errCut
	}
	return seq, false, err
}

// A logPrinter prints lines of a log to stdout.
type logPrinter struct {
	a    *app
	json bool
	err  error // the first
}

// A logLine is a line of --json.
type logLine struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

func (p *logPrinter) print(at time.Time, level slog.Level, line string) {
	if p.json {
		p.err = errors.Join(p.err, p.a.printJSON(logLine{at.UTC(), level.String(), line}))
		return
	}
	_, err := fmt.Fprintf(p.a.stdout, "%s %-5s %s\n", at.Local().Format("2006-01-02 15:04:05.000"), level, printable(line))
	p.err = errors.Join(p.err, err)
}
