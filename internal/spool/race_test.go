//go:build race

package spool

// raceEnabled: sync.Pool forgets at random then.
const raceEnabled = true
