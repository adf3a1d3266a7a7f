package load

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/codec"
)

// inline is up to how many bytes a payload is sent before anything is received:
// no window is smaller.
const inline = 32 << 10

// A jobCaller calls JobService: Run without a name, or WatchJob of a job that is
// there.
type jobCaller struct {
	plan  *plan
	shard *measure.Shard
	link  *link
	run   *connect.Client[aipodv1.RunRequest, aipodv1.RunResponse]
	watch *connect.Client[aipodv1.WatchJobRequest, aipodv1.WatchJobResponse]
	open  *aipodv1.RunRequest
	end   *aipodv1.RunRequest
	reply reply
	sink  sink
	clock beatClock
}

func newJobCaller(p *plan, l *link, shard *measure.Shard) *jobCaller {
	c := &jobCaller{
		plan: p, shard: shard, link: l,
		run:   connect.NewClient[aipodv1.RunRequest, aipodv1.RunResponse](l.http, l.addr+aipodv1connect.JobServiceRunProcedure, l.options...),
		watch: connect.NewClient[aipodv1.WatchJobRequest, aipodv1.WatchJobResponse](l.http, l.addr+aipodv1connect.JobServiceWatchJobProcedure, l.options...),
		open: &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{
			Spec: &aipodv1.Spec{
				Func: p.cfg.Func, Version: p.cfg.Version, KwargsJson: p.cfg.Kwargs, Size: &p.payload.size,
			},
			Heartbeat: durationpb.New(p.cfg.Heartbeat), AcceptZstd: p.cfg.Level != codec.LevelRaw,
		}}},
		end: &aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: &aipodv1.CloseInput{
			Size: p.payload.size, Crc32C: &p.payload.crc,
		}}},
	}
	c.sink.got = shard.Received
	c.reply.output = c.sink.take
	return c
}

func (c *jobCaller) call(ctx context.Context, m *measure.Call) error {
	c.sink.reset()
	c.reply.failed = nil
	c.clock = beatClock{interval: c.plan.cfg.Heartbeat}
	if c.plan.output != "" {
		return c.watchOutput(ctx, m)
	}
	stream := c.run.CallBidiStream(ctx)
	c.link.headers(stream.RequestHeader())
	conn, err := stream.Conn()
	if err != nil {
		return err
	}
	if c.plan.payload.size <= inline {
		if err := c.send(ctx, conn); err != nil {
			return err
		}
		return c.receive(conn, m)
	}
	sent := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { sent <- c.send(ctx, conn) }()
	err = c.receive(conn, m)
	cancel() // for a sender whom nobody listens to
	return errors.Join(err, <-sent)
}

// send sends a whole job. Its error is about the payload: what is wrong with the
// stream is for the receiver to say.
func (c *jobCaller) send(ctx context.Context, conn connect.StreamingClientConn) error {
	if !put(conn, c.open) {
		return nil
	}
	chunk := &aipodv1.Chunk{}
	message := &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: chunk}}
	broken := false
	err := c.plan.payload.each(ctx, &c.plan.cfg, func(p *codec.Chunk) bool {
		chunk.Offset, chunk.Data, chunk.RawSize, chunk.Crc32C = p.Offset, p.Data, int32(p.RawSize), &p.CRC32C
		chunk.Coding = aipodv1.Coding_CODING_RAW
		if p.Coding == codec.CodingZstd {
			chunk.Coding = aipodv1.Coding_CODING_ZSTD
		}
		if broken = !put(conn, message); broken {
			return false
		}
		c.shard.Sent(p.RawSize)
		return true
	})
	if over := broken || ctx.Err() != nil; over || err != nil {
		return unless(over, err)
	}
	if put(conn, c.end) {
		_ = conn.CloseRequest() // if it fails, so does receiving
	}
	return nil
}

// watchOutput reads an output that is there.
func (c *jobCaller) watchOutput(ctx context.Context, m *measure.Call) error {
	request := connect.NewRequest(&aipodv1.WatchJobRequest{
		JobId: c.plan.output, Heartbeat: durationpb.New(c.plan.cfg.Heartbeat), AcceptZstd: c.plan.cfg.Level != codec.LevelRaw,
	})
	c.link.headers(request.Header())
	stream, err := c.watch.CallServerStream(ctx, request)
	if err != nil {
		return err
	}
	conn, err := stream.Conn()
	if err != nil {
		return err
	}
	return c.receive(conn, m)
}

// receive reads a job to its end.
func (c *jobCaller) receive(conn connect.StreamingClientConn, m *measure.Call) error {
	for {
		err := conn.Receive(&c.reply)
		switch {
		case errors.Is(err, io.EOF):
			return errCut
		case err != nil:
			return err
		case c.reply.failed != nil:
			return c.reply.failed
		}
		c.plan.answered(m)
		switch e := c.reply.event.GetEvent().(type) {
		case *aipodv1.Event_Progress, *aipodv1.Event_Log:
			if c.plan.counts() {
				c.shard.Silent(c.clock.other(time.Now()))
			}
		case *aipodv1.Event_Heartbeat:
			c.beat(c.reply.event.GetSeq(), e.Heartbeat.GetState(), m)
		case *aipodv1.Event_Done:
			settle(conn, &c.reply)
			if len(e.Done.GetResultJson()) > 0 {
				return c.plan.expect.checkJSON(e.Done.GetResultJson())
			}
			return c.sink.check(&c.plan.expect)
		case *aipodv1.Event_Failed:
			err := &JobError{connect.Code(e.Failed.GetCode()), e.Failed.GetMessage()}
			settle(conn, &c.reply)
			return err
		}
	}
}

// beat takes in a heartbeat. Those of a schedule have no seq, and while the input
// arrives there are others between them.
func (c *jobCaller) beat(seq uint64, state aipodv1.State, m *measure.Call) {
	first(&m.FirstBeat)
	if seq == 0 && state > aipodv1.State_STATE_RECEIVING && c.plan.counts() {
		c.shard.Beat(c.clock.beat(time.Now()))
	}
}
