package measure

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// A Machine is where and with what something was measured.
type Machine struct {
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPU      string `json:"cpu,omitempty"` // its model, if it is known
	CPUs     int    `json:"cpus"`          // of the machine
	Procs    int    `json:"procs"`         // that this process may use at a time
	Go       string `json:"go"`
	Version  string `json:"version"`            // of the client
	Revision string `json:"revision,omitempty"` // of its source
}

// ThisMachine describes it.
func ThisMachine() Machine {
	m := Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(),
		Procs: runtime.GOMAXPROCS(0), Go: runtime.Version(),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		m.Version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				m.Revision = s.Value
			}
		}
	}
	return m
}

// cpuModel reads what Linux says of the first processor.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
