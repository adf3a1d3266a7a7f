package load

import (
	"syscall"
	"time"
)

// sleepRest waits for a moment that is near, more exactly than a timer does, at the
// cost of a thread.
func sleepRest(at time.Time) {
	for {
		d := time.Until(at)
		if d <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
	}
}
