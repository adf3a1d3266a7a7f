package worker

import "syscall"

func signalGroup(int, syscall.Signal) error { return nil }
