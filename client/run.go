package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
)

// A run is a job on its way. It belongs to the goroutine that called Run or
// Attach, but for what the sender of a stream uses while there is one: input.
type run struct {
	view
	c         *Client
	links     *links
	spec      *aipodv1.Spec // nil for Attach
	input     *input        // nil for Attach
	heartbeat time.Duration
	giveUp    time.Duration
	keep      bool   // the job outlives the run
	ephemeral bool   // the job lives on one stream
	output    window // of the chunks of the output

	streams  int  // that were begun
	half     bool // in single requests instead of streams
	polling  bool // not even answers are streams
	watching bool // the last stream was to follow the job only

	doubtful   bool      // the pod said that the job has ended or was deleted
	superseded bool      // someone else sends the input
	elsewhere  int64     // how much of it they sent; bytes
	moved      time.Time // when that last became more

	mute     int // streams in a row without any event
	failures int // streams in a row without progress
	failed   int // of those, that the pod ended with an error of its own
	losses   int // how often the pod lost the job
	resends  int // how often the input or output wasn't what was sent
}

// errOtherWay: this stream has done its part, and another goes on.
var errOtherWay = errors.New("go on in another way")

// Run gets a job done and returns what it gave. It returns early with a *JobError
// if the job fails or is refused, an *UnreachableError if there is no pod to be
// found, an error of the payload or the output, or when ctx ends.
func (c *Client) Run(ctx context.Context, call Call) (*Result, error) {
	call, level, err := call.check()
	if err != nil {
		return nil, err
	}
	src, err := call.Payload.source()
	if err != nil {
		return nil, fmt.Errorf("open the payload: %w", err)
	}
	r := &run{
		view: view{
			notifier: &notifier{watch: call.Watch}, id: call.JobID, out: newSink(call.Output), contact: time.Now(),
		},
		c: c, links: c.main, half: c.cfg.HalfDuplex,
		input:     &input{src: src, level: level, window: newWindow()},
		heartbeat: call.Heartbeat, giveUp: call.GiveUp,
		keep: call.JobID != "", ephemeral: call.Ephemeral,
		output: newWindow(),
	}
	defer r.input.close()
	r.spec = &aipodv1.Spec{
		Func: call.Func, Version: call.Version, KwargsJson: call.Kwargs, Sha256: call.SHA256,
		Metadata: call.Metadata, MaxAttempts: int32(call.MaxAttempts),
	}
	if n := src.size(); n >= 0 {
		r.spec.Size = proto.Int64(n)
	}
	if r.half {
		r.ephemeral = false // needs a stream
	}
	if !r.ephemeral {
		if err := r.name(); err != nil {
			return nil, err
		}
	}
	defer func() { r.remove(ctx, err) }()
	var result *Result
	result, err = r.run(ctx)
	return result, err
}

// name makes up an id for a job that has none.
func (r *run) name() error {
	if r.id != "" {
		return nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make up a job id: %w", err)
	}
	r.id = id.String()
	return nil
}

// run streams until the job has ended.
func (r *run) run(ctx context.Context) (*Result, error) {
	for {
		advances, began := r.advances, time.Now()
		err := r.step(ctx)
		if err == nil {
			return r.result()
		}
		if ctx.Err() != nil {
			return nil, r.interrupted(ctx)
		}
		if r.advances > advances || r.accepted && time.Since(began) > r.c.pace.reconnect.max {
			r.failures, r.failed = 0, 0
		}
		pause, err := r.next(ctx, err)
		if err != nil {
			if ctx.Err() != nil {
				return nil, r.interrupted(ctx)
			}
			return nil, err
		}
		if sleep(ctx, pause) != nil {
			return nil, r.interrupted(ctx)
		}
	}
}

// step does what is next in the job's life, on one stream.
func (r *run) step(ctx context.Context) error {
	r.watching = false
	switch {
	case r.input == nil || r.superseded || r.doubtful || r.state > aipodv1.State_STATE_RECEIVING:
		if r.polling && !r.outputReady() {
			return r.poll(ctx)
		}
		return r.watch(ctx)
	case r.half:
		return r.upload(ctx)
	}
	return r.duplex(ctx)
}

// next decides what the end of a stream means: an error is the end, or else another
// one begins after the pause.
func (r *run) next(ctx context.Context, err error) (time.Duration, error) {
	var (
		local localError
		job   *JobError
	)
	switch {
	case errors.As(err, &local):
		return 0, r.localFailure(local)
	case errors.As(err, &job), errors.Is(err, errClosed):
		return 0, err
	case errors.Is(err, errOtherWay):
		return 0, nil
	case errors.Is(err, errLost):
		return 0, r.lost()
	case r.ephemeral && r.accepted:
		return 0, r.cutOff(err)
	}
	if errors.Is(err, errSilent) || errors.Is(err, errStalled) {
		r.mute++
	}
	if r.tryOtherWay(ctx, err) {
		return 0, nil
	}
	v, after := judge(err)
	switch v {
	case final:
		return 0, r.ending(err)
	case evicted:
		r.superseded, r.elsewhere, r.moved = true, r.committed, time.Now()
		r.tell(Superseded{})
		return 0, nil
	case resend:
		if r.resends++; r.resends > 2 {
			return 0, r.ending(err)
		}
		if r.input != nil {
			r.input.forget()
		}
		return 0, nil
	case over:
		r.doubtful = r.accepted
	}
	if v == failing || v == over {
		if r.failed++; r.failed > connectAttempts {
			return 0, r.ending(err)
		}
	}
	r.failures++
	if r.hopeless(v, err) {
		return 0, r.unreachable(err)
	}
	pause := r.pause(v, after)
	r.tell(Reconnecting{Failures: r.failures, Pause: pause, Why: err, Refused: v == refused})
	return pause, nil
}

// hopeless says when to give up.
func (r *run) hopeless(v verdict, err error) bool {
	switch {
	case time.Since(r.contact) >= r.giveUp:
		return true
	case r.accepted || v == refused:
		return false
	}
	return r.failures >= connectAttempts || permanent(err)
}

// pause is how long to wait before the next stream. What the pod says is the
// least.
func (r *run) pause(v verdict, after time.Duration) time.Duration {
	jitter := rand.Float64()
	if v == refused {
		return after + time.Duration(jitter*float64(after)/5)
	}
	b := r.c.pace.reconnect
	if !r.accepted {
		b = r.c.pace.connect
	}
	return max(b.pause(r.failures, jitter), after)
}

// lost makes the job again, once.
func (r *run) lost() error {
	if r.losses++; r.input == nil || r.losses > 1 {
		return &JobError{JobID: r.id, Code: connect.CodeNotFound, Message: "the pod no longer has the job " + r.id +
			": it has expired, was deleted, or the pod has lost its data; run it again"}
	}
	if r.doubtful {
		return &JobError{JobID: r.id, Code: connect.CodeCanceled, Message: "the job " + r.id + " was deleted"}
	}
	r.tell(Lost{JobID: r.id})
	r.superseded = false
	return r.forget()
}

// ending is the error for what the pod, or what is in its place, has said.
func (r *run) ending(err error) error {
	var rpc *connect.Error
	switch {
	case errors.As(err, &rpc) && connect.IsWireError(rpc):
		return &JobError{JobID: r.id, Code: rpc.Code(), Message: rpc.Message(), Refused: true}
	case rpc == nil:
		return fmt.Errorf("job %s: %w", r.id, err)
	}
	return r.unreachable(err)
}

func (r *run) unreachable(err error) error {
	return &UnreachableError{
		Addr: r.c.addr, JobID: r.id, Accepted: r.accepted, Attempts: r.failures, Silence: time.Since(r.contact), Err: err,
	}
}

// cutOff is the error for an ephemeral job whose stream is gone.
func (r *run) cutOff(err error) error {
	if v, _ := judge(err); v == final {
		return r.ending(err)
	}
	return fmt.Errorf("%w: an ephemeral job ends with its stream: run it again, or as one that isn't ephemeral", r.unreachable(err))
}

func (r *run) localFailure(err localError) error {
	if r.keep && r.accepted {
		return fmt.Errorf("%w (the job %s is kept by the pod)", err, r.id)
	}
	return err
}

func (r *run) interrupted(ctx context.Context) error {
	if r.keep && r.accepted {
		return interrupted(ctx, "the job "+r.id+" was left, and goes on")
	}
	return interrupted(ctx, "the job was abandoned")
}

// patience is how long the first event of a stream may take, and then the others.
// If nothing came twice it grows, for networks that are that slow.
func (r *run) patience() (first, interval time.Duration) {
	interval = max(3*r.heartbeat, r.c.pace.silence)
	first = interval
	for i := 2; i <= r.mute && first < 30*time.Second; i++ {
		first *= 2
	}
	return first, interval
}

// maxChunk is how large chunks of the output should be; 0 leaves it to the pod.
func (r *run) maxChunk() int32 {
	if n := chunkSize(r.output.limit(0)); n < codec.DefaultChunk {
		return int32(n)
	}
	return 0
}

// streamEnded learns from what a stream brought.
func (r *run) streamEnded() {
	if r.received > 0 || r.pending {
		r.output.ended(r.received)
	}
	r.received, r.pending = 0, false
}
