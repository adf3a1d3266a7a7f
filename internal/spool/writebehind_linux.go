package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriting begins to write n bytes of a file from off on to the disk. Whether it
// succeeds doesn't matter: the fsync that comes later says so.
func startWriting(file *os.File, off, n int64) {
	conn, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) })
}
