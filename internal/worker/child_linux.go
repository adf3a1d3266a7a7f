package worker

import (
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// isolate makes the process the leader of a group of its own that the kernel ends
// when the pod dies, however that happens. (The signal comes when the thread ends
// that has started it; Go's end with the process only.)
func isolate(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return nil
}

// exposeToOutOfMemory has the kernel rather end a model than the pod when memory
// runs out.
func exposeToOutOfMemory(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
}

// outOfMemoryKills counts the processes that the kernel has killed to get memory:
// those of the pod's control group, or of the machine if that doesn't count them.
func outOfMemoryKills() int64 {
	groups, _ := os.ReadFile("/proc/self/cgroup") // without it, the machine's
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, group
		if len(fields) != 3 {
			continue
		}
		counters := ""
		switch fields[1] {
		case "":
			counters = path.Join("/sys/fs/cgroup", fields[2], "memory.events")
		case "memory":
			counters = path.Join("/sys/fs/cgroup/memory", fields[2], "memory.oom_control")
		}
		if n, ok := counter(counters); ok {
			return n
		}
	}
	n, _ := counter("/proc/vmstat")
	return n
}

// counter reads oom_kill out of a file.
func counter(file string) (n int64, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// residentBytes is how much memory a process has; 0 if that can't be told.
func residentBytes(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
