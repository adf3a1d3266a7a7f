//go:build unix

package spool

import (
	"errors"
	"os"
	"syscall"
)

// syncDir puts the names in a directory on the disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some file systems over a network can't, and needn't
	}
	return errors.Join(err, dir.Close())
}
