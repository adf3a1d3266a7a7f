//go:build unix

package worker

import (
	"os"
	"syscall"
)

func signalGroup(pid int, s syscall.Signal) error { return syscall.Kill(-pid, s) }

// socketPair makes two connected stream sockets, which children don't inherit by
// accident.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "pod"), nil
}
