package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/transport"
)

const (
	// maxMessage is the largest unary request in bytes that is tried: the pod takes
	// 6 MiB, which is a chunk of 4 MiB in JSON.
	maxMessage = 6<<20 - 1<<10
	// uploadTime is how long the first streamed upload may take; what it has sent
	// then is enough.
	uploadTime = 8 * time.Second
	// attemptTime is for one request of any size.
	attemptTime = 40 * time.Second
	// stallTime is how long nothing more can be sent until an upload is taken for
	// stalled.
	stallTime = 5 * time.Second
	// uploadChunk is the payload of a message of a streamed upload, in bytes.
	uploadChunk = 256 << 10
	// fineness is how close the search for a limit comes, as a share of it; 1 KiB
	// at best.
	fineness = 1024
)

// errSlow is a request that took longer than attemptTime: it says nothing.
var errSlow = errors.New("it took too long")

// A stallError is an upload that has stopped although nobody has ended it.
type stallError struct{ sent int64 } // bytes

func (e *stallError) Error() string { return "it stalled after " + size(e.sent) }

// An attempt sends a request of a size in bytes. It returns the bytes that were
// really sent, and why they didn't come to the pod: refused, or err if the
// attempt itself failed.
type attempt func(ctx context.Context, size int64) (sent int64, refused, err error)

// probeSizes finds the limits of request bodies, in one message and streamed.
func (d *doctor) probeSizes(ctx context.Context, w *way) {
	if ctx.Err() == nil {
		done := d.during("message sizes over " + w.over)
		d.probeLimit(ctx, w, MessageLimit, maxMessage, w.sendMessage)
		done()
	}
	if ctx.Err() == nil && w.fn != "" && !w.stops {
		done := d.during("upload sizes over " + w.over)
		d.probeLimit(ctx, w, UploadLimit, d.cfg.Upload, w.sendUpload)
		done()
	}
}

func (d *doctor) probeLimit(ctx context.Context, w *way, kind Kind, most int64, try attempt) {
	what := map[Kind]string{MessageLimit: "requests of one message", UploadLimit: "streamed uploads"}[kind]
	begun := time.Now()
	sent, refused, err := try(ctx, most)
	took := time.Since(begun)
	if err == nil && refused != nil {
		// Once is no limit: connections break.
		sent, refused, err = try(ctx, most)
	}
	var stall *stallError
	switch {
	case errors.As(err, &stall):
		d.found.add(Finding{
			Level: w.duplexLevel(), Kind: HalfDuplex, Over: w.over, Value: float64(stall.sent), Unit: "bytes",
			Text: "a streamed upload stalls when its answer has begun, here after " + size(stall.sent),
		}, "")
		return
	case err != nil:
		d.unprobed(ctx, w, "the size of "+what, err)
		return
	case refused == nil:
		f := Finding{Level: OK, Kind: kind, Over: w.over, Value: float64(sent), Unit: "bytes"}
		f.Text = fmt.Sprintf("%s of %s pass", what, size(sent))
		if kind == UploadLimit {
			speed := float64(sent) / took.Seconds()
			f.Text += ", at " + rate(speed)
			f.Facts = map[string]float64{"upload_bytes_per_second": speed}
		}
		d.found.add(f, "")
		return
	}
	least, err := search(ctx, most, try)
	if err != nil {
		d.unprobed(ctx, w, "the size of "+what, errors.Join(err, refused))
		return
	}
	d.found.add(Finding{
		Level: Problem, Kind: kind, Over: w.over, Value: float64(least), Unit: "bytes",
		Text: fmt.Sprintf("%s of more than %s don't pass (%s)", what, size(least), why(refused)),
	}, size(least))
}

// search finds the largest size that passes; most doesn't. The result is a
// multiple of 1 KiB.
func search(ctx context.Context, most int64, try attempt) (int64, error) {
	const kib = 1 << 10
	pass, fail := int64(0), (most+kib-1)/kib
	for fail-pass > max(1, fail/fineness) {
		middle := pass + (fail-pass)/2
		if pass == 0 && middle > 1 {
			// Limits are small numbers more often than large ones, and every failure of
			// a large body costs its transfer.
			middle = max(1, fail/8)
		}
		_, refused, err := try(ctx, middle*kib)
		switch {
		case err != nil:
			return 0, err
		case refused == nil:
			pass = middle
		default:
			fail = middle
		}
	}
	if pass == 0 {
		return 0, errors.New("not even the smallest request passes")
	}
	return pass * kib, nil
}

// sendMessage writes to a job that doesn't exist: the pod reads the request and
// then says so.
func (w *way) sendMessage(ctx context.Context, size int64) (sent int64, refused, err error) {
	protocol := w.protocol
	for _, p := range w.works {
		if p == transport.Connect {
			protocol = p // its body is the message and nothing else
		}
	}
	l, err := w.open(protocol)
	if err != nil {
		return 0, nil, err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	id := newJobID()
	msg := &aipodv1.WriteInputRequest{JobId: id, Chunk: &aipodv1.Chunk{Data: make([]byte, size)}}
	msg.Chunk.Data = msg.Chunk.Data[:max(0, 2*size-int64(proto.Size(msg)))]
	_, err = l.jobs.WriteInput(ctx, jobRequest(id, msg))
	if ctx.Err() != nil {
		return 0, nil, errSlow
	}
	if err == nil || saidByPod(err) {
		return size, nil, nil
	}
	return 0, err, nil
}

// envelope is what the protocols put before each message of a stream, in bytes.
const envelope = 5

// sendUpload streams a body of unknown length on Run. It ends with a chunk that
// leaves a gap: the pod complains, and says how much is there. Nothing of it stays
// on the pod.
func (w *way) sendUpload(ctx context.Context, size int64) (sent int64, refused, err error) {
	l, err := w.open(w.protocol)
	if err != nil {
		return 0, nil, err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	stream := l.jobs.Run(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer func() { _ = stream.CloseResponse() }()
	var payload int64
	var stalled atomic.Bool
	watchdog := time.AfterFunc(stallTime, func() {
		stalled.Store(true)
		cancel()
	})
	defer watchdog.Stop()
	wg.Go(func() {
		defer func() { _ = stream.CloseRequest() }()
		open, gap := w.openMessage("", MaxSilence), chunkMessage(1<<50, []byte{0})
		if stream.Send(open) != nil {
			return
		}
		sent = int64(2*envelope + proto.Size(open) + proto.Size(gap))
		for begun := time.Now(); size-sent > chunkAround && time.Since(begun) < uploadTime; {
			data := zeros[:min(size-sent-chunkAround, uploadChunk)]
			m := chunkMessage(payload, data)
			if stream.Send(m) != nil {
				return
			}
			watchdog.Reset(stallTime)
			sent += int64(envelope + proto.Size(m))
			payload += int64(len(data))
		}
		_ = stream.Send(gap)          // after an error the receiving side knows why
		watchdog.Reset(2 * stallTime) // for what is still on the way
	})
	for err == nil {
		_, err = stream.Receive()
	}
	slow := ctx.Err() != nil
	cancel()
	wg.Wait()
	switch there, said := committed(err); {
	case stalled.Load():
		return 0, nil, &stallError{sent}
	case slow:
		return 0, nil, errSlow
	case said && there == payload:
		return sent, nil, nil
	case said:
		return 0, fmt.Errorf("only %d of %d bytes came to the pod: %w", there, payload, err), nil
	case saidByPod(err):
		return 0, nil, err // the pod's own limit, or it is busy
	}
	return 0, err, nil
}

// committed is how much of an input is there, if an error of the pod says it.
func committed(err error) (int64, bool) {
	var rpc *connect.Error
	if !errors.As(err, &rpc) || rpc.Code() != connect.CodeOutOfRange {
		return 0, false
	}
	for _, detail := range rpc.Details() {
		if value, err := detail.Value(); err == nil {
			if m, ok := value.(*aipodv1.Committed); ok {
				return m.GetOffset(), true
			}
		}
	}
	return 0, false
}

// chunkAround is the most that a chunk's message has besides the payload, in
// bytes, with its envelope.
const chunkAround = 32

var zeros [uploadChunk]byte

func chunkMessage(offset int64, data []byte) *aipodv1.RunRequest {
	return &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: &aipodv1.Chunk{Offset: offset, Data: data}}}
}
