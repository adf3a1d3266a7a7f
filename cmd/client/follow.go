package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/client"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A following is a job that a command follows to its end.
type following struct {
	showing
	conn    *conn
	dial    *dialFlags
	jobID   string        // empty if the job goes away with the command
	out     string        // --output
	timeout time.Duration // 0 is never
	again   bool          // the same command would go on with the input
	typed   typedFlags    // of the command
	run     func(ctx context.Context, out io.Writer, watch func(client.Event)) (*client.Result, error)
}

// follow shows what happens to a job and writes its result.
func (a *app) follow(ctx context.Context, f *following) error {
	out, err := a.openOutput(f.out, f.json)
	if err != nil {
		return err
	}
	defer out.discard()
	f.typed = a.typed
	if f.jobID != "" {
		a.interrupts.wanted.Store(true)
	}
	t := a.track(f.showing)
	runCtx := ctx
	if f.timeout > 0 {
		var cancel context.CancelFunc
		runCtx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	result, err := f.run(runCtx, out.writer(t.close), t.watch)
	t.close()
	if err != nil {
		err = a.ended(ctx, f, t, err, runCtx.Err() != nil)
	} else if !f.json || out.path != "" {
		if err = out.result(result); err == nil {
			// What is written is not printed again.
			result = &client.Result{HasOutput: result.HasOutput, OutputSize: result.OutputSize}
		}
	}
	if v, ok := t.view.(*eventView); ok {
		return v.end(ctx, result, err)
	}
	return err
}

// ended explains why there is no result.
func (a *app) ended(ctx context.Context, f *following, t *tracker, err error, late bool) error {
	s := t.status()
	if ctx.Err() != nil {
		a.eraseKey()
		if f.jobID != "" && s.job != "" {
			return a.detach(ctx, f, t)
		}
		return &failure{exit: exitInterrupted, what: "interrupted", job: f.jobID, err: err}
	}
	if job := jobError(err); job != nil && !a.verbose && !f.json {
		for _, l := range job.Log {
			a.warn(logText(l))
		}
	}
	return f.explain(err, &s, late)
}

// explain makes the error of a job readable. late says that --timeout is over.
func (f *following) explain(err error, s *status, late bool) *failure {
	var (
		fail   *failure
		job    = jobError(err)
		lost   *client.UnreachableError
		called *callError
	)
	switch {
	case late, errors.As(err, &called) && connect.CodeOf(called.err) == connect.CodeDeadlineExceeded:
		fail = f.tooLate(s)
	case job != nil:
		fail = jobFailure(job)
	case errors.As(err, &lost):
		fail = f.unreachable(lost)
	case errors.As(err, &called):
		fail = f.conn.explainCall(called)
	default:
		fail = &failure{exit: exitFailed, what: text(err)}
	}
	fail.err, fail.job = err, f.jobID
	if fail.job == "" && f.legacy {
		fail.job = s.job // which is in the pod's log
	}
	return fail
}

// tooLate is for what took longer than --timeout.
func (f *following) tooLate(s *status) *failure {
	fail := &failure{exit: exitFailed, code: connect.CodeDeadlineExceeded, what: "no result", todo: "give it more time with --timeout"}
	if f.timeout > 0 {
		fail.what += " within " + f.timeout.String()
		if s.lastSeen.IsZero() {
			fail.exit, fail.what = exitUnreachable, "no answer from "+f.conn.addr+" within "+f.timeout.String()
		} else if f.jobID != "" {
			fail.todo = "it goes on: " + f.comeBack(s)
		}
	}
	return fail
}

// unreachable is for a pod that didn't answer, or not any more.
func (f *following) unreachable(lost *client.UnreachableError) *failure {
	if connect.IsWireError(lost.Err) {
		return f.conn.rpcFailure(lost.Err)
	}
	fail := f.conn.unreachable(lost.Err)
	if lost.Accepted {
		fail.what = fmt.Sprintf("no sign of the pod for %s: %s", short(lost.Silence), fail.what)
		if f.jobID != "" {
			fail.todo = "the pod keeps the job: call again when it is back"
		}
	}
	return fail
}

// incomplete says that the pod lacks some of the input. What speaks ai.AI knows only
// what it has sent.
func (f *following) incomplete(s *status) bool {
	return s.state == aipodv1.State_STATE_RECEIVING || f.legacy && !s.uploaded
}

// comeBack is what to type to see a job again.
func (f *following) comeBack(s *status) string {
	if f.again && f.incomplete(s) {
		return "the same command goes on with it"
	}
	return "client jobs attach " + f.jobID + f.dial.arguments(f.typed)
}

const (
	// secondThoughts is how long a second Ctrl-C cancels the job.
	secondThoughts = 3 * time.Second
	// cancelTime is how long the pod may take for that.
	cancelTime = 5 * time.Second
)

// detach leaves a job, which the pod goes on with, and says how to come back. If
// there is someone to press Ctrl-C again, that cancels the job.
func (a *app) detach(ctx context.Context, f *following, t *tracker) *failure {
	s := t.status()
	fail := &failure{exit: exitInterrupted, job: f.jobID, said: true, err: context.Cause(ctx)}
	fail.what = "interrupted: the job " + f.jobID + " goes on: " + f.comeBack(&s)
	switch {
	case !f.incomplete(&s):
	case f.legacy || f.again && s.size == 0:
		fail.what = "interrupted: the pod does not have all of the input of the job " + f.jobID + " yet: " + f.comeBack(&s)
	case f.again:
		fail.what = fmt.Sprintf("interrupted: the pod has %s of the input of the job %s: %s",
			amount(s.committed, s.size), f.jobID, f.comeBack(&s))
	}
	a.warn(fail.message())
	if v, ok := t.view.(*eventView); ok {
		e := v.stateOf("detached", &s)
		e.Job, e.Committed = f.jobID, &s.committed
		if s.size > 0 {
			e.Total = &s.size
		}
		v.print(e)
	}
	if !a.secondThoughts(ctx) {
		return fail
	}
	a.eraseKey()
	cancelCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	job, err := f.conn.api.Cancel(cancelCtx, f.jobID)
	if err != nil {
		fail.what = fmt.Sprintf("the job %s could not be canceled: %s", f.jobID, f.conn.rpcFailure(err).message())
	} else {
		fail.what = canceledText(job)
	}
	a.warn(fail.message())
	return fail
}

// eraseKey takes away what a terminal shows of Ctrl-C.
func (a *app) eraseKey() {
	if a.terminal(a.stderr) && !a.dumb() {
		fmt.Fprint(a.stderr, "\r\x1b[K")
	}
}

// secondThoughts says whether there was another Ctrl-C. It waits only if there is
// a terminal, and if it was Ctrl-C the first time: scripts don't hesitate.
func (a *app) secondThoughts(ctx context.Context) bool {
	var first interruption
	scripted := errors.As(context.Cause(ctx), &first) && !first.byHand()
	if a.terminal(a.stderr) && !scripted {
		a.warn(fmt.Sprintf("Ctrl-C again within %d s cancels it", secondThoughts/time.Second))
		timer := time.NewTimer(secondThoughts)
		defer timer.Stop()
		select {
		case <-a.interrupts.again:
			return true
		case <-timer.C:
			return false
		}
	}
	select {
	case <-a.interrupts.again:
		return true
	default:
		return false
	}
}

// canceledText is what CancelJob has led to.
func canceledText(job *aipodv1.Job) string {
	switch job.GetState() {
	case aipodv1.State_STATE_CANCELED:
		return "the job " + job.GetJobId() + " is canceled"
	case aipodv1.State_STATE_SUCCEEDED, aipodv1.State_STATE_FAILED:
		return "the job " + job.GetJobId() + " had " + stateName(job.GetState()) + " already"
	}
	return "the job " + job.GetJobId() + " is being canceled"
}

// jobFailure explains what the pod said of a job.
func jobFailure(job *client.JobError) *failure {
	f := &failure{exit: exitFailed, code: job.Code, what: job.Error(), job: job.JobID, err: job}
	switch {
	case job.Code == connect.CodeUnimplemented:
		f.todo = "see what there is: client functions"
	case job.Code == connect.CodeUnavailable && job.Refused:
		f.exit, f.todo = exitUnreachable, "try again later"
	}
	return f
}

// explainCall is for a call of ai.AI.
func (c *conn) explainCall(failed *callError) *failure {
	f := &failure{exit: exitFailed}
	switch {
	case failed.local:
		f.what = text(failed.err)
	case failed.wire:
		f.explainWire(failed)
	case failed.answered || errors.Is(failed.err, errCut):
		f.exit, f.code = exitUnreachable, connect.CodeUnavailable
		f.what = "the connection was cut before the result arrived"
		if !errors.Is(failed.err, errCut) {
			f.what += ": " + text(failed.err)
		}
		f.todo = "call again"
	default:
		f = c.unreachable(failed.err)
	}
	return f
}

// explainWire is for what the pod itself said.
func (f *failure) explainWire(failed *callError) {
	f.code, f.what = connect.CodeOf(failed.err), text(failed.err)
	switch f.code {
	case connect.CodeUnimplemented:
		f.todo = "see what there is: client functions"
	case connect.CodeUnavailable:
		if !failed.answered {
			f.exit = exitUnreachable
		}
		f.todo = "try again later"
	}
}
