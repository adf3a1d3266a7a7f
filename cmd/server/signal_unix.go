//go:build unix

package main

import (
	"os"
	"syscall"
)

// stopSignals drain the pod.
var stopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
