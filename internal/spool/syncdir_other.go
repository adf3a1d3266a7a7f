//go:build !unix

package spool

// syncDir does nothing: directories can't be synced here.
func syncDir(string) error { return nil }
