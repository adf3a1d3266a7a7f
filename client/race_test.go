//go:build race

package client

import "time"

const (
	// parallel is how many tests run at a time.
	parallel = 8
	// cutSize is the payload of TestRunCutOften, in bytes.
	cutSize = 64 << 20
	// soon is how long a silence is that clients notice in tests.
	soon = 1500 * time.Millisecond
)
