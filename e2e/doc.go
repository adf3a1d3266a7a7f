// Package e2e holds the tests of whole pods: real processes and real peers,
// nothing mocked. They are built with the tag e2e and need what install.sh
// installs; a peer that is missing fails its tests, it doesn't skip them.
//
//	e2e/install.sh
//	go test -tags e2e ./e2e/
//
// With AIPOD_E2E_RACE=1 the pods are built with the race detector.
//
// Each test starts the pods that it needs, on ports of their own, and may run
// in parallel with all others.
package e2e
