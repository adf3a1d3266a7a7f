// Command client calls the functions of a pod.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(Run(signals, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr))
}
