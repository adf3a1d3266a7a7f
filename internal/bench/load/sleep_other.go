//go:build !linux

package load

import "time"

// sleepRest waits for a moment that is near.
func sleepRest(at time.Time) { time.Sleep(time.Until(at)) }
