package measure

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc: Linux shows user space 100 a second
// on all architectures that Go knows.
const clockTick = time.Second / 100

// processUsage is what a process took since it began: proc(5).
func processUsage(pid int) (*Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The name in parentheses may hold anything; utime and stime are the 12th and
	// 13th field behind it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return nil, errors.New("unknown form of /proc/PID/stat")
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return nil, err
		}
		ticks += n
	}
	u := &Usage{CPU: (time.Duration(ticks) * clockTick).Seconds(), PID: pid}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "VmHWM":
			u.PeakRSS = n << 10
		case "VmRSS":
			u.RSS = n << 10
		}
	}
	return u, nil
}

// Listener finds the process of this machine that listens at an address; 0 if
// there is none that may be looked at.
func Listener(addr netip.AddrPort) int {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if inode := listenerInode(line, addr); inode != "" {
				inodes["socket:["+inode+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && inodes[target] {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return pid
		}
	}
	return 0
}

// listening is the state of a socket that does.
const listening = "0A"

// listenerInode is the inode of a line of /proc/net/tcp if it listens at the
// address, or at all addresses.
func listenerInode(line string, addr netip.AddrPort) string {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listening {
		return ""
	}
	host, port, ok := strings.Cut(fields[1], ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || uint16(n) != addr.Port() {
		return ""
	}
	ip, ok := procAddr(host)
	if !ok || (!ip.IsUnspecified() && ip != addr.Addr().Unmap()) {
		return ""
	}
	return fields[9]
}

// procAddr reads an address of /proc/net: 32-bit words in the order of the
// machine, which is little-endian everywhere that matters.
func procAddr(text string) (netip.Addr, bool) {
	var b [16]byte
	if len(text) != 8 && len(text) != 32 {
		return netip.Addr{}, false
	}
	n := len(text) / 2
	for i := range n {
		v, err := strconv.ParseUint(text[2*i:2*i+2], 16, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i&^3|3-i&3] = byte(v)
	}
	ip, ok := netip.AddrFromSlice(b[:n])
	return ip.Unmap(), ok
}
