package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
)

// interrupts are the user's requests to stop. The first ends the command's
// context, with an interruption as the cause. The next kills the process, unless
// the command wants to know of it: then it closes again, and the one after kills.
type interrupts struct {
	wanted atomic.Bool
	again  chan struct{}
}

func newInterrupts() *interrupts { return &interrupts{again: make(chan struct{})} }

// An interruption is a signal that ended the command.
type interruption struct{ signal os.Signal }

func (i interruption) Error() string { return fmt.Sprintf("got the signal %v", i.signal) }

// run takes signals until done is closed.
func (i *interrupts) run(signals chan os.Signal, interrupt context.CancelCauseFunc, done <-chan struct{}) {
	defer signal.Stop(signals)
	select {
	case s := <-signals:
		interrupt(interruption{s})
	case <-done:
		return
	}
	if !i.wanted.Load() {
		return
	}
	select {
	case <-signals:
		close(i.again)
	case <-done:
	}
}

// byHand says that it was Ctrl-C.
func (i interruption) byHand() bool { return i.signal == os.Interrupt }
