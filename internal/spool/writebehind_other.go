//go:build !linux

package spool

import "os"

// startWriting does nothing where there is no call for it.
func startWriting(*os.File, int64, int64) {}
