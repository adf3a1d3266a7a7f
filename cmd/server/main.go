// Command server is a pod: it serves one model over gRPC, gRPC-Web and Connect.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}
