//go:build !unix

package main

import "os"

// stopSignals drain the pod.
var stopSignals = []os.Signal{os.Interrupt}
