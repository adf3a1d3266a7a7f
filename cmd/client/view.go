package main

import (
	"fmt"
	"io"
	"time"
)

// A view shows a call to whoever waits for it.
type view interface {
	watcher
	// close ends the showing; the view is not used after it, but for what its
	// type has besides.
	close()
}

// newView is JSON lines if asked for, else a live display for a terminal, else
// next to nothing.
func (a *app) newView(state *callState, spec callSpec, json bool) view {
	switch {
	case json:
		return newEventView(a.stdout, state, spec.payload.size)
	case a.terminal(a.stderr):
		return newTerminalView(a.stderr, state, spec, a.color())
	}
	return plainView{out: a.stderr, verbose: a.verbose}
}

// A plainView is for pipes and logs: lines, and those only with -v.
type plainView struct {
	out     io.Writer
	verbose bool
}

func (v plainView) accepted(job, fn string) { v.printf("the pod runs %s as job %s", fn, job) }
func (v plainView) beat()                   {}
func (v plainView) close()                  {}

func (v plainView) retrying(next int, pause time.Duration, why error) {
	v.printf("%s", retryLine(next, pause, why))
}

func (v plainView) printf(format string, args ...any) {
	if v.verbose {
		fmt.Fprintf(v.out, "client: "+format+"\n", args...)
	}
}

func retryLine(next int, pause time.Duration, why error) string {
	return fmt.Sprintf("%s; attempt %d in %v", text(why), next, pause.Round(100*time.Millisecond))
}
