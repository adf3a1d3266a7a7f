// Command client calls the functions of a pod.
package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// gcPercent is how much garbage there may be, in percent of what is alive, which is
// buffers of payloads that are used again and again. Go's 100 lets the client of
// large payloads take 78 MiB instead of 53, and saves no processor time. bench makes
// garbage of other kinds.
const gcPercent = 30

func main() {
	if os.Getenv("GOGC") == "" && (len(os.Args) < 2 || os.Args[1] != "bench") {
		debug.SetGCPercent(gcPercent)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(Run(signals, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr))
}
