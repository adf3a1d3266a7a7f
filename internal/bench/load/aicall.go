package load

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/bench/measure"
	"github.com/aipod/aipod/internal/codec"
)

// maxResult is the largest result of ai.AI, in bytes of JSON.
const maxResult = 256 << 20

// An aiCaller calls ai.AI/chaos.
type aiCaller struct {
	plan  *plan
	shard *measure.Shard
	link  *link
	ai    *connect.Client[ai.Raw, ai.Raw]
	reply rawReply
	clock beatClock
}

func newAICaller(p *plan, l *link, shard *measure.Shard) *aiCaller {
	c := &aiCaller{
		plan: p, shard: shard, link: l,
		ai: connect.NewClient[ai.Raw, ai.Raw](l.http, l.addr+aiconnect.AIChaosProcedure, l.options...),
	}
	c.reply.result = func(data []byte) error {
		result, err := codec.DecodeResult(data, maxResult)
		if err != nil {
			return &ResultError{err.Error()}
		}
		shard.Received(len(result))
		return p.expect.checkJSON(result)
	}
	return c
}

func (c *aiCaller) call(ctx context.Context, m *measure.Call) error {
	c.reply.failed = nil
	c.clock = beatClock{interval: c.plan.cfg.Heartbeat}
	stream := c.ai.CallBidiStream(ctx)
	header := stream.RequestHeader()
	c.link.headers(header)
	header.Set("x-func-name", c.plan.cfg.Func)
	header.Set("x-heartbeat", c.plan.cfg.Heartbeat.String())
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
	cancel()
	return errors.Join(err, <-sent)
}

// send sends kwargs and payload. Its error is about the payload only.
func (c *aiCaller) send(ctx context.Context, conn connect.StreamingClientConn) error {
	message := rawOf(c.plan.kwargs)
	if !put(conn, message) {
		return nil
	}
	broken := false
	err := c.plan.payload.each(ctx, &c.plan.cfg, func(p *codec.Chunk) bool {
		message.Data = p.Data
		if broken = !put(conn, message); broken {
			return false
		}
		c.shard.Sent(p.RawSize)
		return true
	})
	if over := broken || ctx.Err() != nil; over || err != nil {
		return unless(over, err)
	}
	_ = conn.CloseRequest() // if it fails, so does receiving
	return nil
}

// receive reads heartbeats up to the result. The first one comes at once, and the
// schedule begins with the second.
func (c *aiCaller) receive(conn connect.StreamingClientConn, m *measure.Call) error {
	for {
		err := conn.Receive(&c.reply)
		switch {
		case errors.Is(err, io.EOF):
			return errCut
		case err != nil:
			return err
		}
		begun := !m.FirstByte.IsZero()
		c.plan.answered(m)
		if !c.reply.pong {
			settle(conn, &c.reply)
			return c.reply.failed
		}
		first(&m.FirstBeat)
		if begun && c.plan.counts() {
			c.shard.Beat(c.clock.beat(time.Now()))
		}
	}
}
