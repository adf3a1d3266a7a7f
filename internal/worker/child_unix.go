//go:build unix

package worker

import (
	"syscall"
)

func signalGroup(pid int, s syscall.Signal) error { return syscall.Kill(-pid, s) }
