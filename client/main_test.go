package client

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

// TestMain checks that in the end no client has left a goroutine.
func TestMain(m *testing.M) {
	// Most of these tests wait.
	if err := flag.Set("test.parallel", fmt.Sprint(parallel)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); clientStacks() != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines of clients are left:\n%s\n", clientStacks())
			code = 1
			break
		}
	}
	os.Exit(code)
}
