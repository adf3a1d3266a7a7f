package measure

import "time"

// A Usage is what a process took during a run.
type Usage struct {
	CPU     float64 `json:"cpu"`                // seconds, of user and system
	PeakRSS int64   `json:"peak_rss,omitempty"` // bytes, the most since the process began; 0 if not known
	RSS     int64   `json:"rss,omitempty"`      // bytes at the end; 0 if not known
	PID     int     `json:"pid,omitempty"`      // of the pod
}

// A Meter measures what a process takes from a moment on.
type Meter struct {
	pid   int // 0 is this one
	begun time.Duration
}

// Self measures this process.
func Self() *Meter {
	m := &Meter{}
	if cpu, _, err := selfUsage(); err == nil {
		m.begun = cpu
	}
	return m
}

// Process measures another one; nil if that isn't possible.
func Process(pid int) *Meter {
	u, err := processUsage(pid)
	if err != nil {
		return nil
	}
	return &Meter{pid: pid, begun: time.Duration(u.CPU * float64(time.Second))}
}

// Usage is what was taken since the Meter was made; nil if the process is gone.
func (m *Meter) Usage() *Usage {
	if m == nil {
		return nil
	}
	if m.pid == 0 {
		cpu, peak, err := selfUsage()
		if err != nil {
			return &Usage{}
		}
		return &Usage{CPU: (cpu - m.begun).Seconds(), PeakRSS: peak}
	}
	u, err := processUsage(m.pid)
	if err != nil {
		return nil
	}
	u.CPU -= m.begun.Seconds()
	return u
}
