package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

const (
	// fastBeat is the fastest heartbeat that a pod has.
	fastBeat = 200 * time.Millisecond
	// mostCuts is how often a cut is measured, if there is time.
	mostCuts = 2
	// apart is by how much, as a share, two times may differ that have the same
	// cause.
	apart = 0.25
)

// errPodEnded is a stream that the pod has ended in order: --stream-age.
var errPodEnded = errors.New("the pod ended the stream")

// A cut is the end of a stream that should have gone on.
type cut struct {
	lasted time.Duration // since the call began
	silent time.Duration // since the last byte of the answer
	err    error
}

// A streamTest is how streams of one sort fared.
type streamTest struct {
	cuts []cut         // none: the stream lasted
	held time.Duration // the longest that one lasted
	err  error         // the test itself failed
}

// probeStreams finds the timeouts: a silent answer against one with heartbeats,
// and an upload that stalls against one that flows. All four run at a time, since
// what cuts only the silent one of a pair is an idle timeout, and what cuts both a
// limit of their total time.
func (d *doctor) probeStreams(ctx context.Context, w *way) {
	if w.fn == "" {
		return
	}
	defer d.during("timeouts over " + w.over)()
	l, err := w.open(w.protocol)
	if err != nil {
		d.unprobed(ctx, w, "timeouts", err)
		return
	}
	defer l.close()
	id, err := w.createJob(ctx, l)
	defer w.deleteJob(ctx, id)
	if err != nil {
		d.unprobed(ctx, w, "timeouts", err)
		return
	}
	d.probeSticky(ctx, w, id)

	// The first beat comes later than the end of the test.
	silence := min(d.cfg.Silence+time.Second, MaxSilence)
	var silent, beating, stalled, flowing streamTest
	var wg sync.WaitGroup
	wg.Go(func() {
		silent = repeat(ctx, d.cfg.Silence, func(ctx context.Context) (cut, error) { return w.watch(ctx, id, silence) })
	})
	wg.Go(func() {
		beating = repeat(ctx, d.cfg.Max, func(ctx context.Context) (cut, error) { return w.watch(ctx, id, fastBeat) })
	})
	wg.Go(func() {
		stalled = repeat(ctx, d.cfg.Silence, func(ctx context.Context) (cut, error) { return w.upload(ctx, false) })
	})
	wg.Go(func() {
		flowing = repeat(ctx, d.cfg.Max, func(ctx context.Context) (cut, error) { return w.upload(ctx, true) })
	})
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	d.tellStreams(w, "answers", TimeLimit, IdleTimeout, beating, silent)
	d.tellStreams(w, "uploads", UploadTimeLimit, UploadIdleTimeout, flowing, stalled)
}

// repeat holds a stream until limit, and if it is cut before, once more.
func repeat(ctx context.Context, limit time.Duration, once func(context.Context) (cut, error)) streamTest {
	var t streamTest
	for begun := time.Now(); len(t.cuts) < mostCuts; {
		if n := len(t.cuts); n > 0 && time.Since(begun)+t.cuts[n-1].lasted*3/2 > limit {
			break
		}
		// Not a deadline, which calls tell to proxies and pod.
		ctx, end := context.WithCancel(ctx)
		timer := time.AfterFunc(limit, end)
		c, err := once(ctx)
		over := ctx.Err() != nil
		timer.Stop()
		end()
		t.held = max(t.held, c.lasted)
		switch {
		case over:
			return t
		case err != nil:
			t.err = err
			return t
		}
		t.cuts = append(t.cuts, c)
	}
	return t
}

// watch follows a job until ctx ends or the stream does. Other pods than the
// job's, behind a proxy that doesn't look at x-job-id, are asked again.
func (w *way) watch(ctx context.Context, id string, heartbeat time.Duration) (cut, error) {
	for attempt := 1; ; attempt++ {
		l, err := w.open(w.protocol)
		if err != nil {
			return cut{}, err
		}
		c, err := watchOnce(ctx, l, id, heartbeat)
		l.close()
		if connect.CodeOf(err) == connect.CodeNotFound && attempt < 16 {
			continue
		}
		return c, err
	}
}

func watchOnce(ctx context.Context, l *link, id string, heartbeat time.Duration) (cut, error) {
	begun := time.Now()
	last := begun
	stream, err := l.jobs.WatchJob(ctx, jobRequest(id, &aipodv1.WatchJobRequest{
		JobId: id, Heartbeat: durationpb.New(heartbeat),
	}))
	if err != nil {
		return ended(ctx, begun, last, err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		last = time.Now()
	}
	return ended(ctx, begun, last, stream.Err())
}

// upload opens an upload of which either nothing comes, or a byte every fastBeat,
// and holds it until ctx ends or the stream does. The pod answers all the time.
func (w *way) upload(ctx context.Context, flows bool) (cut, error) {
	l, err := w.open(w.protocol)
	if err != nil {
		return cut{}, err
	}
	defer l.close()
	ctx, stop := context.WithCancel(ctx)
	begun := time.Now()
	last := begun
	stream := l.jobs.Run(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	defer func() { _ = stream.CloseResponse() }()
	wg.Go(func() {
		// After an error the receiving side knows why.
		if stream.Send(w.openMessage("", fastBeat)) != nil || !flows {
			return
		}
		tick := time.NewTicker(fastBeat)
		defer tick.Stop()
		for offset := int64(0); ; offset++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if stream.Send(chunkMessage(offset, []byte{0})) != nil {
				return
			}
		}
	})
	for {
		if _, err = stream.Receive(); err != nil {
			break
		}
		last = time.Now()
	}
	return ended(ctx, begun, last, err)
}

// ended sorts the ends of streams: ctx, the pod, or a cut.
func ended(ctx context.Context, begun, last time.Time, err error) (cut, error) {
	now := time.Now()
	c := cut{lasted: now.Sub(begun), silent: now.Sub(last), err: err}
	switch {
	case context.Cause(ctx) != nil:
		return c, nil //nolint:nilerr // it has lasted as long as it had to
	case err == nil || errors.Is(err, io.EOF):
		return c, errPodEnded
	case saidByPod(err):
		return c, err
	}
	return c, nil
}

// tellStreams compares streams that were never idle with streams that were.
func (d *doctor) tellStreams(w *way, what string, limit, idle Kind, busy, lazy streamTest) {
	for _, t := range []streamTest{busy, lazy} {
		switch {
		case errors.Is(t.err, errPodEnded):
			d.found.add(Finding{
				Level: OK, Kind: Unprobed, Over: w.over,
				Text: fmt.Sprintf("the pod itself ends streams after %s (--stream-age): longer ones were not tried", seconds(t.held)),
			}, "")
		case t.err != nil:
			d.found.add(Finding{Level: Note, Kind: Unprobed, Over: w.over, Text: "the timeouts of " + what + " could not be tried: " + why(t.err)}, "")
			return
		}
	}
	whole, wholeSteady := typical(busy.cuts, func(c cut) time.Duration { return c.lasted })
	part := func(c cut) time.Duration { return c.lasted }
	if idle == IdleTimeout {
		part = func(c cut) time.Duration { return c.silent }
	}
	quiet, quietSteady := typical(lazy.cuts, part)
	lazyLasted, _ := typical(lazy.cuts, func(c cut) time.Duration { return c.lasted })
	switch {
	case !wholeSteady || !quietSteady:
		cuts := slices.Concat(busy.cuts, lazy.cuts)
		d.found.add(Finding{
			Level: Problem, Kind: Unstable, Over: w.over,
			Text: fmt.Sprintf("%s break at times that have no pattern, the first after %s: %s", what, seconds(cuts[0].lasted), why(cuts[0].err)),
		}, "")
	case whole > 0:
		d.found.add(Finding{
			Level: Problem, Kind: limit, Over: w.over, Value: whole.Seconds(), Unit: "s",
			Text: fmt.Sprintf("%s are cut after %s in all, whatever they carry (%s)", what, seconds(whole), why(busy.cuts[0].err)),
		}, seconds(whole))
	case busy.err == nil:
		d.found.add(Finding{
			Level: OK, Kind: limit, Over: w.over, Value: busy.held.Seconds(), Unit: "s",
			Text: fmt.Sprintf("%s with something every 0.2 s last %s and more", what, seconds(d.cfg.Max)),
		}, "")
	}
	switch {
	case !wholeSteady || !quietSteady || (whole > 0 && alike(whole, lazyLasted)):
		// Said already: it is no idleness that cuts them.
	case quiet > 0:
		name := "silent answers"
		if idle == UploadIdleTimeout {
			name = "uploads that stall"
		}
		d.found.add(Finding{
			Level: Problem, Kind: idle, Over: w.over, Value: quiet.Seconds(), Unit: "s",
			Text: fmt.Sprintf("%s are cut after %s; those with something every 0.2 s live on (%s)", name, seconds(quiet), why(lazy.cuts[0].err)),
		}, seconds(quiet))
	case lazy.err == nil:
		d.found.add(Finding{
			Level: OK, Kind: idle, Over: w.over, Value: lazy.held.Seconds(), Unit: "s",
			Text: fmt.Sprintf("%s may be idle for %s and more", what, seconds(d.cfg.Silence)),
		}, "")
	}
}

// typical is the time of the last cut, 0 without any: it was measured when the
// other probes had ended. steady says that the cuts agree.
func typical(cuts []cut, of func(cut) time.Duration) (last time.Duration, steady bool) {
	if len(cuts) == 0 {
		return 0, true
	}
	least, most := of(cuts[0]), of(cuts[0])
	for _, c := range cuts {
		least, most = min(least, of(c)), max(most, of(c))
	}
	return of(cuts[len(cuts)-1]), alike(least, most)
}

// alike says whether two times may have the same cause. Short ones differ by what
// the machine does besides.
func alike(a, b time.Duration) bool {
	return float64((a - b).Abs()) <= apart*float64(max(a, b))+float64(300*time.Millisecond)
}

// unprobed says that a probe has failed itself.
func (d *doctor) unprobed(ctx context.Context, w *way, what string, err error) {
	if ctx.Err() == nil {
		d.found.add(Finding{Level: Note, Kind: Unprobed, Over: w.over, Text: what + " could not be tried: " + why(err)}, "")
	}
}

// probeSticky looks whether requests about one job come to one pod.
func (d *doctor) probeSticky(ctx context.Context, w *way, id string) {
	const times = 8
	lost := 0
	for range times {
		l, err := w.open(w.protocol)
		if err != nil {
			return
		}
		has, err := hasJob(ctx, l, id)
		l.close()
		if err != nil {
			d.unprobed(ctx, w, "whether requests about one job come to one pod", err)
			return
		}
		if !has {
			lost++
		}
	}
	if lost > 0 {
		w.astray.Store(true)
		d.found.add(Finding{
			Level: Problem, Kind: Sticky, Over: w.over, Value: float64(lost), Unit: "requests",
			Text: fmt.Sprintf("%d of %d requests with the same x-job-id came to a pod that doesn't have the job", lost, times),
		}, "")
		return
	}
	d.found.add(Finding{Level: OK, Kind: Sticky, Over: w.over, Text: "requests with the same x-job-id come to the same pod"}, "")
}
