package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

var (
	// errCut: a stream ended without the job's end.
	errCut = errors.New("the stream ended before the job")
	// errSilent: nothing came for too long.
	errSilent = errors.New("the pod fell silent")
	// errStalled: what is sent doesn't arrive.
	errStalled = errors.New("the pod gets none of what is sent")
	// errOver is why a stream's context ends when it is no longer needed.
	errOver = errors.New("the stream is over")
)

// A stream is events as they come. One goroutine receives them; another may send.
type stream struct {
	link   *link
	cancel context.CancelCauseFunc
	shut   func() // closes both sides

	events chan *aipodv1.Event
	ended  chan error // has one when there are no more events
	failed chan error // has one when the sender has failed
	wg     sync.WaitGroup
}

// newStream starts to receive. shut makes what blocks on the stream return.
func newStream(ctx context.Context, l *link, cancel context.CancelCauseFunc, receive func() (*aipodv1.Event, error), shut func()) *stream {
	s := &stream{
		link: l, cancel: cancel, shut: shut,
		events: make(chan *aipodv1.Event), ended: make(chan error, 1), failed: make(chan error, 1),
	}
	s.wg.Go(func() {
		for {
			e, err := receive()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errCut
				}
				s.ended <- err
				return
			}
			select {
			case s.events <- e:
			case <-ctx.Done():
				s.ended <- context.Cause(ctx)
				return
			}
		}
	})
	return s
}

// send runs the sender.
func (s *stream) send(send func() error) {
	s.wg.Go(func() {
		if err := send(); err != nil {
			s.failed <- err
		}
	})
}

// close ends the stream and waits for its goroutines. A cancelled context ends
// them at once, unless a write to a connection blocks: net/http's locks are then
// held, and only closing the connection helps.
func (s *stream) close() {
	s.cancel(errOver)
	s.wg.Go(s.shut)
	ended := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(ended)
	}()
	const patience = time.Second
	for silent := patience; ; silent = 0 {
		select {
		case <-ended:
			return
		case <-time.After(patience):
			s.link.closeConns(silent)
		}
	}
}

// follow takes in the events of a stream until the job has ended, which is nil, or
// the stream has. first is how long Accepted may take, and interval each event
// after it. after is called after each event; its error ends the stream.
func (r *run) follow(ctx context.Context, s *stream, creates bool, first, interval time.Duration, after func() error) error {
	accepted := false
	silence := time.NewTimer(first)
	defer silence.Stop()
	for {
		select {
		case e := <-s.events:
			err := r.take(e, creates)
			r.contact = time.Now() // it may have taken long to write the output
			if err != nil {
				return err
			}
			if r.done != nil {
				return nil
			}
			// Heartbeats may come before the pod has got to know what they are about,
			// which it never does if a proxy holds back what is sent.
			accepted = accepted || e.GetAccepted() != nil
			if !accepted {
				continue
			}
			r.mute, r.doubtful = 0, false
			if err := after(); err != nil {
				return err
			}
			silence.Reset(interval)
		case err := <-s.ended:
			return err
		case err := <-s.failed:
			return err
		case <-silence.C:
			return errSilent
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
