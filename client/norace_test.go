//go:build !race

package client

import "time"

const (
	// parallel is how many tests run at a time.
	parallel = 32
	// cutSize is the payload of TestRunCutOften, in bytes.
	cutSize = 256 << 20
	// soon is how long a silence is that clients notice in tests.
	soon = 600 * time.Millisecond
)
