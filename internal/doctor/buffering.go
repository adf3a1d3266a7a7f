package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

const (
	// beatsWanted is how many messages are waited for, each at a time of its own.
	beatsWanted = 4
	// beatsEnough is how many of them show that nothing is held back: some may come
	// together on a busy machine.
	beatsEnough = 3
)

// probeBuffering finds out whether answers and uploads pass as they come.
func (d *doctor) probeBuffering(ctx context.Context, w *way, rtt time.Duration) {
	if w.fn == "" || ctx.Err() != nil {
		return
	}
	defer d.during("buffering over " + w.over)()
	wait := d.cfg.patience + 6*rtt
	flows, err := d.responseFlows(ctx, w, wait)
	if err != nil {
		d.unprobed(ctx, w, "response buffering", err)
		return
	}
	d.requestFlows(ctx, w, wait, flows)
}

// responseFlows watches a job with fast heartbeats, which must not come in one
// heap.
func (d *doctor) responseFlows(ctx context.Context, w *way, wait time.Duration) (flows bool, err error) {
	l, err := w.open(w.protocol)
	if err != nil {
		return false, err
	}
	defer l.close()
	id, err := w.createJob(ctx, l)
	defer w.deleteJob(ctx, id)
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer time.AfterFunc(wait+beatsWanted*fastBeat, stop).Stop()
	seen, apartSeen := 0, 0
	var last time.Time
	for attempt := 0; attempt < 16 && ctx.Err() == nil && seen == 0; attempt++ {
		stream, err := l.jobs.WatchJob(ctx, jobRequest(id, &aipodv1.WatchJobRequest{JobId: id, Heartbeat: durationpb.New(fastBeat)}))
		if err != nil {
			break // what holds back the whole answer is seen as silence
		}
		for apartSeen < beatsWanted && stream.Receive() {
			seen++
			if now := time.Now(); now.Sub(last) > fastBeat/4 {
				apartSeen++
				last = now
			}
		}
		_ = stream.Close()
	}
	switch {
	case apartSeen >= beatsEnough:
		d.found.add(Finding{Level: OK, Kind: ResponseBuffering, Over: w.over, Text: "answers come as they are sent"}, "")
		return true, nil
	case seen > 0 && ctx.Err() == nil:
		return false, errors.New("the stream was cut early")
	}
	f := Finding{Level: Problem, Kind: ResponseBuffering, Over: w.over, Value: float64(seen), Unit: "messages"}
	if f.Text = "answers are buffered: nothing came within " + seconds(wait) + " of a stream with a heartbeat every 0.2 s"; seen > 0 {
		f.Text = fmt.Sprintf("answers are buffered: of heartbeats every 0.2 s, %d came within %s, at %d times", seen, seconds(wait), apartSeen)
	}
	d.found.add(f, "")
	return false, nil
}

// requestFlows begins an upload and asks the pod, by other requests, whether it
// knows of it.
func (d *doctor) requestFlows(ctx context.Context, w *way, wait time.Duration, responseFlows bool) {
	side, err := w.open(w.protocol)
	if err != nil {
		return
	}
	defer side.close()
	up, err := w.beginUpload(ctx)
	if err != nil {
		d.unprobed(ctx, w, "request buffering", err)
		return
	}
	defer w.deleteJob(ctx, up.id)
	defer func() { _ = up.end() }()
	seen, err := untilJob(ctx, side, up.id, wait)
	switch {
	case err != nil:
		d.unprobed(ctx, w, "request buffering", err)
		return
	case seen:
		d.found.add(Finding{Level: OK, Kind: RequestBuffering, Over: w.over, Text: "uploads come to the pod as they are sent"}, "")
		if responseFlows {
			d.probeDuplex(ctx, w, up, side, wait)
		}
		return
	}
	if w.astray.Load() {
		d.unprobed(ctx, w, "request buffering", errors.New("requests about the upload's job come to other pods"))
		return
	}
	// What comes with the end of the upload has been buffered.
	_ = up.stream.CloseRequest()
	if seen, err = untilJob(ctx, side, up.id, wait); err != nil || !seen {
		d.unprobed(ctx, w, "request buffering", errors.Join(errors.New("streamed uploads don't come to the pod"), up.end(), err))
		return
	}
	d.found.add(Finding{
		Level: Problem, Kind: RequestBuffering, Over: w.over,
		Text: "uploads are buffered: the pod saw nothing of one that was open for " + seconds(wait) + ", and all of it at its end",
	}, "")
}

// probeDuplex says whether the pod's answer comes while the upload is open, and
// whether the upload goes on then.
func (d *doctor) probeDuplex(ctx context.Context, w *way, up *openUpload, side *link, wait time.Duration) {
	f := Finding{Level: w.duplexLevel(), Kind: HalfDuplex, Over: w.over}
	select {
	case <-up.answered:
	case <-time.After(wait):
		f.Text = "the pod isn't heard while an upload is open"
		d.found.add(f, "")
		return
	case <-ctx.Done():
		return
	}
	if up.stream.Send(chunkMessage(0, []byte{0})) == nil {
		for deadline := time.Now().Add(wait); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(fastBeat / 4) {
			if job, err := getJob(ctx, side, up.id); err == nil && job.GetCommitted() > 0 {
				d.found.add(Finding{
					Level: OK, Kind: HalfDuplex, Over: w.over, Text: "a small upload and its answer flow at the same time",
				}, "")
				return
			}
		}
	}
	if w.astray.Load() {
		return // other pods know nothing of it
	}
	w.stops = true
	f.Text = "an upload stops when its answer begins; large ones were not tried for that"
	d.found.add(f, "")
}

// duplexLevel is that of what stands against full duplex. HTTP/1.1 doesn't promise
// it, and there aipod's client and browsers don't count on it.
func (w *way) duplexLevel() Level {
	if w.over == overHTTP2 {
		return Problem
	}
	return Note
}

// An openUpload is a Run of a durable job whose request is open.
type openUpload struct {
	id       string
	stream   *connect.BidiStreamForClient[aipodv1.RunRequest, aipodv1.RunResponse]
	answered chan struct{} // closed when the first message has come, or the stream's end
	end      func() error  // ends it, and says how it had ended if it had by itself
}

// beginUpload must be ended, and its job be deleted.
func (w *way) beginUpload(ctx context.Context) (*openUpload, error) {
	l, err := w.open(w.protocol)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	up := &openUpload{id: newJobID(), stream: l.jobs.Run(ctx), answered: make(chan struct{})}
	up.stream.RequestHeader().Set(headerJob, up.id)
	var refused error // of the receiver, until answered
	go func() {
		defer close(up.answered)
		_, refused = up.stream.Receive()
	}()
	up.end = func() error {
		select {
		case <-up.answered:
			err = refused
		default:
		}
		stop()
		<-up.answered
		_ = up.stream.CloseResponse()
		l.close()
		return err
	}
	if err := up.stream.Send(w.openMessage(up.id, fastBeat)); err != nil {
		return nil, errors.Join(up.end(), err)
	}
	return up, nil
}

// untilJob asks for a job until it is there, at least for wait and some times: it
// may be on one of several pods.
func untilJob(ctx context.Context, l *link, id string, wait time.Duration) (bool, error) {
	const least = 12 // times
	deadline := time.Now().Add(wait)
	for times := 1; ; times++ {
		has, err := hasJob(ctx, l, id)
		if has || err != nil || (times >= least && time.Now().After(deadline)) {
			return has, err
		}
		select {
		case <-time.After(fastBeat / 2):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}
