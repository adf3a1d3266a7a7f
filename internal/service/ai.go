package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/transport"
)

// aiHandler is the service ai.AI: one call, one job, one stream.
//
// The handler's goroutine is the only sender of its stream; a goroutine of the
// call's upload is the only receiver.
type aiHandler struct{ pod *Pod }

func (h *aiHandler) Chaos(ctx context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
	fn := stream.RequestHeader().Get(headerFunc)
	if fn == "" {
		fn = "chaos"
	}
	return h.call(ctx, stream.Conn(), fn, codec.NewRawPiece)
}

func (h *aiHandler) Train(ctx context.Context, stream *connect.BidiStream[ai.StreamInput, ai.Raw]) error {
	return h.call(ctx, stream.Conn(), "train", codec.NewInputPiece)
}

func (h *aiHandler) Predict(ctx context.Context, stream *connect.BidiStream[ai.StreamInput, ai.Raw]) error {
	return h.call(ctx, stream.Conn(), "predict", codec.NewInputPiece)
}

func (h *aiHandler) Log(ctx context.Context, stream *connect.BidiStream[ai.StreamInput, ai.Raw]) error {
	return h.call(ctx, stream.Conn(), "log", codec.NewInputPiece)
}

// The metadata that ai.AI knows.
const (
	headerFunc      = "x-func-name"
	headerJob       = "x-job-id"
	headerHeartbeat = "x-heartbeat"
)

// pong is the heartbeat. It is never written to.
var pong = &ai.Raw{Data: []byte(codec.Pong)}

// pongEnvelope is the same as it is on the wire.
var pongEnvelope = sync.OnceValue(func() []byte {
	data, err := proto.Marshal(pong)
	if err != nil {
		panic(err) // bytes can always be encoded
	}
	return transport.Envelope(data)
})

// sendPong sends a heartbeat that is not the first message.
func sendPong(x *transport.Exchange, conn connect.StreamingHandlerConn) error {
	if ok, err := x.SendEnvelope(pongEnvelope()); ok && err == nil {
		return nil
	}
	return conn.Send(pong) // which also knows how to say what is wrong with the stream
}

func (h *aiHandler) call(ctx context.Context, conn connect.StreamingHandlerConn, fn string, newPiece func(func(*codec.Piece) error) *codec.Piece) error {
	interval, err := heartbeat(conn.RequestHeader(), h.pod.cfg.Heartbeat)
	if err != nil {
		return err
	}
	id, err := jobID(conn.RequestHeader())
	if err != nil {
		return err
	}
	// Refusals come before the first message, so that they are Trailers-Only and
	// a gRPC client's retryPolicy applies to them.
	if err := h.pod.takes(id, job.Spec{Func: fn}); err != nil {
		return err
	}
	up := &upload{ctx: ctx, conn: conn, pod: h.pod, fn: fn, id: id, opened: make(chan *job.Job, 1)}
	up.piece = newPiece(up.consume)
	var j *job.Job // of a durable job not before the kwargs have come
	var done, lost <-chan struct{}
	if id == "" {
		if j, err = h.pod.table.Open(job.Spec{Func: fn, Size: -1}); err != nil {
			return err
		}
		defer j.Close()
		j.DropEvents() // ai.AI has no way to show them
		id, up.job, up.dst, done = j.ID, j, j.Input(), j.Done()
		// Not in the loop below: a sender whose client doesn't read is stuck in it.
		defer context.AfterFunc(ctx, func() { j.Cancel(context.Cause(ctx)) })()
	}

	conn.ResponseHeader().Set(headerJob, id)
	conn.ResponseHeader().Set(headerFunc, fn)
	beat := beatsOf(ctx).join(interval)
	defer beat.leave()
	received := make(chan error, 1)
	all := make(chan struct{})
	go func() {
		function, err := up.run()
		received <- err
		close(all)
		if function != nil { // in this goroutine, because it is there and warm
			function()
		}
	}()
	defer endReads(ctx, all) // whatever it says: the call ends for another reason

	exchange := transport.ExchangeOf(ctx)
	exchange.Hold()
	if err := conn.Send(pong); err != nil {
		return err
	}
	// On a busy pod the receiver comes to its turn before this goroutine does, and a
	// small call's answer leaves together with its first heartbeat.
	runtime.Gosched()
	if isClosed(done) && j.Output() == nil { // large answers take time to send
		return h.answer(conn, j, up)
	}
	if err := exchange.Release(); err != nil {
		return err
	}
	for {
		if received == nil && j != nil && !j.Named() {
			// Thousands wait here. Each channel of a select costs with each beat, and
			// all else that ends the call ends its job.
			select {
			case <-beat.next():
				beat.heard()
				if err := sendPong(exchange, conn); err != nil {
					return err
				}
			case <-done:
				return h.answer(conn, j, up)
			}
			continue
		}
		select {
		case j = <-up.opened:
			done = j.Done()
			if up.writer != nil {
				lost = up.writer.Lost()
			}
		case <-lost:
			return job.ErrSuperseded
		case err := <-received:
			received = nil
			if err == nil {
				continue
			}
			if j != nil && !j.Named() {
				j.Cancel(err)
			}
			return err
		case <-beat.next():
			beat.heard()
			if err := sendPong(exchange, conn); err != nil {
				return err
			}
		case <-done:
			return h.answer(conn, j, up)
		case <-h.pod.stopped:
			return job.ErrShutdown
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// takes refuses a call before it is sent, unless its job is there already.
func (p *Pod) takes(id string, spec job.Spec) error {
	if _, err := p.table.Get(id); err == nil {
		return nil
	}
	if err := p.admits(spec); err != nil {
		return err
	}
	if isClosed(p.table.Draining()) {
		return job.ErrDraining
	}
	return nil
}

// lastReads is how long a call that has its answer waits for the end of its request.
const lastReads = 10 * time.Millisecond

// endReads waits until nothing more is received, as done says. After a while, which
// what is on its way needs, the stream's reads fail. A stream with data after its end
// is reset, and nginx, which had the answer, would pass on only the reset.
func endReads(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
		return
	default:
	}
	timer := time.NewTimer(lastReads)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-ctx.Done():
	case <-timer.C:
	}
	if rc := transport.Controller(ctx); rc != nil {
		// A stream that is gone can't be read either.
		_ = rc.SetReadDeadline(time.Unix(1, 0))
	}
	<-done
}

// answer sends the job's result.
func (h *aiHandler) answer(conn connect.StreamingHandlerConn, j *job.Job, up *upload) error {
	result, err := j.Result()
	if err != nil {
		return err
	}
	text := []byte(result.JSON)
	if out := result.Output; out != nil {
		if text, err = outputJSON(out, h.pod.cfg.MaxMessage); err != nil {
			return err
		}
	}
	if len(text) == 0 {
		text = []byte("null") // a function with nothing to say
	}
	data := codec.EncodeResult(text, up.kwargs.Compressed)
	if len(data) > h.pod.cfg.MaxMessage {
		return tooLargeForOneMessage(int64(len(data)), h.pod.cfg.MaxMessage)
	}
	return conn.Send(&ai.Raw{Data: data})
}

// outputJSON is an output as the one JSON value that ai.AI can carry: itself, or a
// string.
func outputJSON(out *job.Output, limit int) ([]byte, error) {
	if out.Size() > int64(limit) {
		return nil, tooLargeForOneMessage(out.Size(), limit)
	}
	data := make([]byte, out.Size())
	if _, err := io.ReadFull(io.NewSectionReader(out, 0, out.Size()), data); err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	if out.JSON {
		return data, nil
	}
	if !utf8.Valid(data) {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New(
			"the result is binary, which ai.AI can't carry: call aipod.v1.JobService instead"))
	}
	return json.Marshal(string(data))
}

func tooLargeForOneMessage(size int64, limit int) error {
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(
		"the result of %s is larger than one message may be (%s): call aipod.v1.JobService instead, or raise --max-message",
		humanize.IBytes(uint64(size)), humanize.IBytes(uint64(limit))))
}

// The limits of x-heartbeat.
const (
	minHeartbeat = 200 * time.Millisecond
	maxHeartbeat = 30 * time.Second
)

func heartbeat(header http.Header, fallback time.Duration) (time.Duration, error) {
	value := header.Get(headerHeartbeat)
	if value == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < minHeartbeat || d > maxHeartbeat {
		return 0, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(
			"%s is %q: give a duration from %v to %v, like 1s", headerHeartbeat, value, minHeartbeat, maxHeartbeat))
	}
	return d, nil
}

var validJobID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// jobID is the id that the caller chose, or "".
func jobID(header http.Header) (string, error) {
	id := header.Get(headerJob)
	if id != "" && !validJobID.MatchString(id) {
		return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(
			"%s must be 1 to 64 of A-Z, a-z, 0-9, _ and -", headerJob))
	}
	return id, nil
}

// metadata is the caller's, without what belongs to the protocols.
func metadata(header http.Header) map[string]string {
	md := map[string]string{}
	for key, values := range header {
		switch {
		case strings.HasPrefix(key, "Grpc-"), strings.HasPrefix(key, "Connect-"), strings.HasPrefix(key, "Accept"),
			key == "Content-Type", key == "Content-Length", key == "Te", key == "User-Agent":
		default:
			md[strings.ToLower(key)] = strings.Join(values, ",")
		}
	}
	return md
}
