package measure

import (
	"syscall"
	"time"
)

func selfUsage() (cpu time.Duration, peakRSS int64, err error) {
	self, err := syscall.GetCurrentProcess()
	if err != nil {
		return 0, 0, err
	}
	var creation, exit, kernel, user syscall.Filetime
	if err := syscall.GetProcessTimes(self, &creation, &exit, &kernel, &user); err != nil {
		return 0, 0, err
	}
	return ticks(kernel) + ticks(user), 0, nil
}

// ticks reads a time span, which is in units of 100 ns.
func ticks(t syscall.Filetime) time.Duration {
	return time.Duration(int64(t.HighDateTime)<<32|int64(t.LowDateTime)) * 100
}
