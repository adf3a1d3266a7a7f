package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
)

const (
	// floodPings is how many PINGs are sent at once: a strict server has enough of
	// three, and a lenient one does not notice them.
	floodPings = 20
	// floodRequests is how many calls one connection gets: nginx closes it after
	// 1000 unless told otherwise.
	floodRequests = 1100
	// parallelRequests is how many of them are under way at a time.
	parallelRequests = 50
	// fewRequests is what a connection must bear to be no problem.
	fewRequests = 1000
	// fewStreams is how many streams a connection should have.
	fewStreams = 250
	// fastUpload and slowUpload are rates in bytes per second: below the first the
	// windows are worth a word, below the second they are a problem.
	fastUpload, slowUpload = 50 << 20, 10 << 20
	// nearby is a round-trip time at which windows don't matter.
	nearby = time.Millisecond
)

// probeHop looks at the first HTTP/2 hop frame by frame. rtt is that of calls;
// the result is the longer of it and that of PINGs.
func (d *doctor) probeHop(ctx context.Context, ways []*way, rtt time.Duration) time.Duration {
	defer d.during("HTTP/2 frames")()
	w := ways[0]
	h, err := d.openHop(ctx)
	if err != nil {
		d.unprobed(ctx, w, "HTTP/2 frames", err)
		return rtt
	}
	defer h.close()
	d.tellSettings(h)
	least, median, err := sample(ctx, func(context.Context) error {
		h.allow()
		return h.ping(1)
	})
	if err == nil {
		d.tellRTT(overHTTP2, "an HTTP/2 PING is answered", "ping", least, median)
		d.tellWindow(ctx, w, h, least)
		h.allow()
		err = h.ping(floodPings)
	}
	switch {
	case ctx.Err() != nil:
		return rtt
	case err != nil || (h.goaway != nil && h.goaway.ErrCode != http2.ErrCodeNo):
		d.found.add(Finding{
			Level: Problem, Kind: Pings, Over: overHTTP2, Value: float64(h.pings), Unit: "pings",
			Text: fmt.Sprintf("%d PINGs on one connection are too many: %s", h.pings, h.farewell(err)),
		}, "")
	default:
		d.found.add(Finding{
			Level: OK, Kind: Pings, Over: overHTTP2, Value: float64(h.pings), Unit: "pings",
			Text: fmt.Sprintf("%d PINGs on one connection are all answered", h.pings),
		}, "")
	}
	d.probeGoaway(ctx, w)
	return max(rtt, least)
}

// tellSettings says what the hop's SETTINGS say.
func (d *doctor) tellSettings(h *hop) {
	get := func(id http2.SettingID, otherwise uint32) uint32 {
		if v, ok := h.settings[id]; ok {
			return v
		}
		return otherwise
	}
	window, frame := get(http2.SettingInitialWindowSize, defaultWindow), get(http2.SettingMaxFrameSize, defaultFrame)
	facts := map[string]float64{"initial_window_bytes": float64(window), "max_frame_bytes": float64(frame)}
	streams, headers := "any number of streams", "headers of any size"
	if v, ok := h.settings[http2.SettingMaxConcurrentStreams]; ok {
		streams = fmt.Sprintf("%d streams", v)
		facts["max_streams"] = float64(v)
		if v < fewStreams {
			d.found.add(Finding{
				Level: Note, Kind: Streams, Over: overHTTP2, Value: float64(v), Unit: "requests",
				Text: fmt.Sprintf("a connection may have only %d calls at a time", v),
			}, fmt.Sprint(v))
		}
	}
	if v, ok := h.settings[http2.SettingMaxHeaderListSize]; ok {
		headers = "headers of " + size(int64(v))
		facts["max_header_bytes"] = float64(v)
	}
	d.found.add(Finding{
		Level: OK, Kind: Settings, Over: overHTTP2, Facts: facts,
		Text: fmt.Sprintf("the first hop allows %s, windows of %s, frames of %s, %s", streams, size(int64(window)), size(int64(frame)), headers),
	}, "")
}

// tellWindow opens an upload, which is when a hop grants what it really gives, and
// says how fast that lets it be.
func (d *doctor) tellWindow(ctx context.Context, w *way, h *hop, rtt time.Duration) {
	message, err := proto.Marshal(w.openMessage("", fastBeat))
	if err != nil {
		d.unprobed(ctx, w, "windows", err)
		return
	}
	h.allow()
	id, err := h.request(aipodv1connect.JobServiceRunProcedure, message, true)
	if err == nil {
		// When the answer has come, and some time has passed, all is granted that
		// will be. Who holds back the upload doesn't answer.
		for deadline := time.Now().Add(d.cfg.patience); err == nil && h.answers[id] < 2 && time.Now().Before(deadline); {
			time.Sleep(fastBeat / 2)
			err = h.ping(1)
		}
	}
	if err == nil {
		err = h.framer.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	if err == nil {
		err = h.ping(1)
	}
	if err != nil {
		d.unprobed(ctx, w, "windows", err)
		return
	}
	initial, ok := h.settings[http2.SettingInitialWindowSize]
	if !ok {
		initial = defaultWindow
	}
	sent := int64(len(message)) + envelope
	stream := max(int64(initial), int64(initial)+h.credit[id]-sent)
	conn := max(defaultWindow, defaultWindow+h.credit[0]-sent)
	window := min(stream, conn)
	f := Finding{
		Level: OK, Kind: Window, Over: overHTTP2, Value: float64(window), Unit: "bytes",
		Text:  fmt.Sprintf("an upload may have %s under way (the stream %s, the connection %s)", size(window), size(stream), size(conn)),
		Facts: map[string]float64{"stream_window_bytes": float64(stream), "conn_window_bytes": float64(conn)},
	}
	limit := ""
	if rtt > nearby {
		speed := float64(window) / rtt.Seconds()
		limit = rate(speed)
		f.Text += fmt.Sprintf(": at most %s at %s", limit, millis(rtt))
		f.Facts["window_bytes_per_second"] = speed
		switch {
		case speed < slowUpload:
			f.Level = Problem
		case speed < fastUpload:
			f.Level = Note
		}
	}
	d.found.add(f, limit)
}

// probeGoaway makes many small calls on one connection.
func (d *doctor) probeGoaway(ctx context.Context, w *way) {
	h, err := d.openHop(ctx)
	if err != nil {
		d.unprobed(ctx, w, "many calls on one connection", err)
		return
	}
	defer h.close()
	h.allow()
	parallel := parallelRequests
	if v, ok := h.settings[http2.SettingMaxConcurrentStreams]; ok {
		parallel = max(1, min(parallel, int(v)))
	}
	asked, answered := 0, 0
	ask := func() error {
		asked++
		_, err := h.request("/grpc.health.v1.Health/Check", nil, false)
		return err
	}
	for range min(parallel, d.cfg.requests) {
		if err = errors.Join(err, ask()); err != nil {
			break
		}
	}
	var failed error // of asking
	read := h.read(func(f http2.Frame) bool {
		if ends(f) {
			answered++
			if asked < d.cfg.requests {
				failed = ask()
			}
		}
		return failed != nil || h.goaway != nil || answered == d.cfg.requests
	})
	err = errors.Join(err, failed, read)
	switch {
	case ctx.Err() != nil:
	case h.goaway == nil && err == nil:
		d.found.add(Finding{
			Level: OK, Kind: Goaway, Over: overHTTP2, Value: float64(d.cfg.requests), Unit: "requests",
			Text: fmt.Sprintf("one connection bears %d calls and more", d.cfg.requests),
		}, "")
	case h.goaway == nil && errors.Is(err, os.ErrDeadlineExceeded):
		d.unprobed(ctx, w, "many calls on one connection", fmt.Errorf("%d had answers in %v: %w", answered, hopLimit, err))
	default:
		served := answered
		if h.goaway != nil {
			served = int(h.goaway.LastStreamID+1) / 2
			if h.goaway.LastStreamID > h.next {
				served = answered // it promises to serve what comes meanwhile
			}
		}
		f := Finding{
			Level: Problem, Kind: Goaway, Over: overHTTP2, Value: float64(served), Unit: "requests",
			Text: fmt.Sprintf("the first hop closes a connection after %d calls (%s)", served, h.farewell(err)),
		}
		if served >= fewRequests {
			f.Level = Note
		}
		d.found.add(f, fmt.Sprintf("%d calls", served))
	}
}
