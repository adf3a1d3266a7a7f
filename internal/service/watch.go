package service

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/transport"
)

func (h *jobHandler) WatchJob(ctx context.Context, req *connect.Request[aipodv1.WatchJobRequest], stream *connect.ServerStream[aipodv1.WatchJobResponse]) error {
	v, err := h.pod.newView(req.Msg)
	if err != nil {
		return err
	}
	if v.job, err = h.pod.get(req.Msg.GetJobId()); err != nil {
		return err
	}
	v.skipOutput = req.Msg.GetSkipOutput()
	v.attached = true
	v.send = func(e *aipodv1.Event) error { return stream.Send(&aipodv1.WatchJobResponse{Event: e}) }
	stream.ResponseHeader().Set(headerJob, v.job.ID)
	return v.follow(ctx, nil)
}

// A view is one stream's view of a job. It belongs to the handler's goroutine.
type view struct {
	pod      *Pod
	job      *job.Job
	send     func(*aipodv1.Event) error
	exchange *transport.Exchange // holds events, so that those of a moment leave together
	interval time.Duration
	attached bool // the job was there before

	after      uint64 // seq of the last event that was sent
	offset     int64  // of the next byte of output
	attempt    int    // whose output it is, 0 when not known yet
	maxChunk   int
	zstd       bool
	skipOutput bool
	committed  int64              // told last
	packed     *codec.ChunkReader // of the finished output, nil until it is needed
}

// viewRequest has what Open and WatchJobRequest have in common.
type viewRequest interface {
	GetHeartbeat() *durationpb.Duration
	GetAfterSeq() uint64
	GetOutputOffset() int64
	GetOutputAttempt() int32
	GetMaxChunk() int32
	GetAcceptZstd() bool
}

func (p *Pod) newView(req viewRequest) (*view, error) {
	interval, err := p.interval(req.GetHeartbeat())
	if err != nil {
		return nil, err
	}
	v := &view{
		pod: p, interval: interval, after: req.GetAfterSeq(), offset: req.GetOutputOffset(),
		attempt: int(req.GetOutputAttempt()), maxChunk: int(req.GetMaxChunk()), zstd: req.GetAcceptZstd(),
	}
	switch {
	case v.offset < 0:
		return nil, invalidf("output_offset is %d: give 0 or more", v.offset)
	case v.maxChunk < 0:
		return nil, invalidf("max_chunk is %d: give 1 or more, or 0", v.maxChunk)
	case v.maxChunk == 0:
		v.maxChunk = codec.DefaultChunk
	}
	v.maxChunk = min(v.maxChunk, codec.DefaultChunk)
	return v, nil
}

// follow sends what happens to the job until it has ended, or until stop says
// that the stream has to end. Between messages it is never silent for longer than
// the interval. It returns nil after the job's end, and when the stream has
// reached its age.
func (v *view) follow(ctx context.Context, stop <-chan error) error {
	defer v.close()
	beat := beatsOf(ctx).join(v.interval)
	defer beat.leave()
	var aged <-chan time.Time
	if age := v.pod.cfg.StreamAge; age > 0 && v.job.Named() {
		timer := time.NewTimer(age)
		defer timer.Stop()
		aged = timer.C
	}
	var draining <-chan struct{}
	if v.job.Named() {
		draining = v.pod.table.Draining()
	}
	v.exchange = transport.ExchangeOf(ctx)
	if err := v.accept(); err != nil {
		return err
	}
	for {
		v.exchange.Hold()
		changed := v.job.Changed()
		ended := isClosed(v.job.Done())
		more, err := v.catchUp()
		switch {
		case err != nil:
			return err
		case !more && ended:
			if err := v.end(); err != nil {
				return err
			}
			return v.exchange.Release() // the caller may end its request only then
		case more: // with a look at what else there is
			changed = closed
		}
		if err := v.exchange.Release(); err != nil {
			return err
		}
		select {
		case err := <-stop:
			// What ended the job is told as its end.
			if err != nil && !isClosed(v.job.Done()) {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-aged:
			return nil
		case <-draining:
			// Nobody waits for these; the next process goes on with them.
			if !v.job.State().Final() && v.job.State() != job.Running {
				return job.ErrShutdown
			}
			draining = nil
		case <-v.pod.stopped:
			return job.ErrShutdown
		case <-changed:
		case <-beat.next():
			beat.heard()
			if err := v.beat(); err != nil {
				return err
			}
		}
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (v *view) accept() error {
	s := v.job.Snapshot()
	_, lost := v.job.Events(v.after)
	a := &aipodv1.Accepted{
		JobId: v.job.ID, State: stateTo(s.State), Committed: s.Committed, LastSeq: s.LastSeq,
		Truncated: lost, Attempt: int32(s.Attempt), Attached: v.attached,
	}
	if out := v.job.Output(); out != nil {
		a.OutputSize = out.Size()
	}
	if v.after > s.LastSeq {
		v.after = 0
	}
	v.committed = s.Committed
	return v.send(&aipodv1.Event{Time: timestamppb.Now(), Event: &aipodv1.Event_Accepted{Accepted: a}})
}

// beat tells where the job is.
func (v *view) beat() error {
	s := v.job.Snapshot()
	v.committed = s.Committed
	return v.send(&aipodv1.Event{Time: timestamppb.Now(), Event: &aipodv1.Event_Heartbeat{Heartbeat: heartbeatTo(s)}})
}

// catchUp sends the events that have not been sent, and one chunk of output. more
// says that there is more output already.
func (v *view) catchUp() (more bool, err error) {
	events, _ := v.job.Events(v.after)
	for _, e := range events {
		if err := v.send(v.event(e)); err != nil {
			return false, err
		}
		v.after = e.Seq
	}
	if v.job.Committed() != v.committed {
		if err := v.beat(); err != nil {
			return false, err
		}
	}
	if v.skipOutput {
		return false, nil
	}
	return v.output()
}

func (v *view) event(e job.Event) *aipodv1.Event {
	m := &aipodv1.Event{Seq: e.Seq, Time: timestamppb.New(e.Time)}
	switch {
	case e.Progress != nil:
		m.Event = &aipodv1.Event_Progress{Progress: progressTo(e.Progress)}
	case e.Log != nil:
		m.Event = &aipodv1.Event_Log{Log: logTo(e.Log)}
	default:
		s := v.job.Snapshot()
		v.committed = s.Committed
		beat := heartbeatTo(s)
		beat.State = stateTo(e.State)
		m.Event = &aipodv1.Event_Heartbeat{Heartbeat: beat}
	}
	return m
}

// end tells how the job has ended.
func (v *view) end() error {
	m := &aipodv1.Event{Time: timestamppb.Now()}
	result, err := v.job.Result()
	if err != nil {
		m.Event = &aipodv1.Event_Failed{Failed: v.pod.failedTo(v.job, err)}
		return v.send(m)
	}
	if out := result.Output; out != nil && !v.skipOutput && v.offset < out.Size() {
		return job.ErrGone // deleted while it was read
	}
	done, err := doneTo(result)
	if err != nil {
		return err
	}
	m.Event = &aipodv1.Event_Done{Done: done}
	return v.send(m)
}

// smallOutput is how much, in bytes, is worth neither a buffer of a whole chunk nor
// compression.
const smallOutput = 16 << 10

// pieces are buffers for output.
var pieces = sync.Pool{New: func() any { return new([codec.DefaultChunk]byte) }}

// output sends the next chunk of output, if there is one.
func (v *view) output() (more bool, err error) {
	out := v.job.Output()
	if out == nil {
		return false, nil
	}
	if out.Attempt != v.attempt {
		// A new one starts over, and the caller hears of it before.
		if v.attempt != 0 {
			v.offset = 0
			if err := v.beat(); err != nil {
				return false, err
			}
		}
		v.attempt = out.Attempt
	}
	rest := out.Size() - v.offset
	if rest <= 0 {
		return false, nil
	}
	// A stream that a chunk is too large for must have brought all else: the client
	// then asks for smaller ones. Nor need that wait for the chunk to be coded.
	if err := v.exchange.Release(); err != nil {
		return false, err
	}
	if v.zstd && v.job.State() == job.Succeeded && (v.packed != nil || rest > smallOutput) {
		return v.packedOutput(out)
	}
	var p []byte
	if rest <= smallOutput {
		p = make([]byte, min(rest, int64(v.maxChunk)))
	} else {
		buf := pieces.Get().(*[codec.DefaultChunk]byte)
		defer pieces.Put(buf)
		p = buf[:v.maxChunk]
	}
	n, err := out.ReadAt(p, v.offset)
	switch {
	case errors.Is(err, job.ErrGone):
		return false, nil // there will be another, or the end
	case err != nil && !errors.Is(err, io.EOF):
		return false, err
	case n == 0:
		return false, nil
	}
	crc := codec.Checksum(p[:n])
	err = v.sendOutput(out, &aipodv1.Chunk{
		Offset: v.offset, Data: p[:n], Coding: aipodv1.Coding_CODING_RAW, RawSize: int32(n), Crc32C: &crc,
	})
	return v.offset < out.Size(), err
}

func (v *view) sendOutput(out *job.Output, c *aipodv1.Chunk) error {
	c.Json = out.JSON
	if err := v.send(&aipodv1.Event{Event: &aipodv1.Event_Output{Output: c}}); err != nil {
		return err
	}
	v.offset += int64(c.GetRawSize())
	return nil
}

// packWorkers is how many chunks of one output are coded at a time. Other jobs
// need processors, too.
const packWorkers = 2

// packedOutput sends output that is complete, compressed as far as it pays.
func (v *view) packedOutput(out *job.Output) (more bool, err error) {
	if v.packed == nil {
		rest := out.Size() - v.offset
		v.packed, err = codec.NewChunkReader(io.NewSectionReader(out, v.offset, rest), v.offset,
			codec.ChunkConfig{Size: int(min(int64(v.maxChunk), rest)), Workers: packWorkers})
		if err != nil {
			return false, err
		}
	}
	c, err := v.packed.Next(context.Background())
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer v.packed.Release(c)
	coding := aipodv1.Coding_CODING_RAW
	if c.Coding == codec.CodingZstd {
		coding = aipodv1.Coding_CODING_ZSTD
	}
	err = v.sendOutput(out, &aipodv1.Chunk{
		Offset: c.Offset, Data: c.Data, Coding: coding, RawSize: int32(c.RawSize), Crc32C: &c.CRC32C,
	})
	return true, err
}

func (v *view) close() {
	if v.packed != nil {
		_ = v.packed.Close()
	}
}
