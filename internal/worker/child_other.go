//go:build !linux

package worker

import (
	"errors"
	"os/exec"
	"runtime"
)

// isolate says that processes are supported on Linux only: elsewhere nothing
// would end them when the pod is killed.
func isolate(*exec.Cmd) error {
	return errors.New("worker processes are not supported on " + runtime.GOOS + ": use Linux, or --upstream")
}

func exposeToOutOfMemory(int) {}

func outOfMemoryKills() int64 { return 0 }

func residentBytes(int) int64 { return 0 }
