//go:build race

package main

// raceEnabled: the race detector makes pools forget, so allocations mean nothing.
const raceEnabled = true
