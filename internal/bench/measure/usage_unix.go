//go:build unix

package measure

import (
	"runtime"
	"syscall"
	"time"
)

func selfUsage() (cpu time.Duration, peakRSS int64, err error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	peakRSS = int64(u.Maxrss) //nolint:unconvert // its size differs between platforms
	if runtime.GOOS != "darwin" {
		peakRSS <<= 10 // from KiB
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), peakRSS, nil
}
