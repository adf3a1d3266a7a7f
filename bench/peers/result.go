package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A result is what was measured for a row, and where.
type result struct {
	Row     string          `json:"row"`
	Began   time.Time       `json:"began"`
	Ended   time.Time       `json:"ended"`
	Commit  string          `json:"commit"` // of aipod, -dirty if the tree had changes besides
	Load    string          `json:"load"`   // averages of 1, 5 and 15 minutes, before it began
	Machine string          `json:"machine"`
	Tables  []measuredTable `json:"tables"`
}

// A measuredTable has the samples of each side, by round.
type measuredTable struct {
	Name  string              `json:"name"`
	Sides map[string][]sample `json:"sides"`
}

func newResult(row string) *result {
	load, _ := os.ReadFile("/proc/loadavg") // is told if it is there
	fields := strings.Fields(string(load))
	return &result{
		Row: row, Began: time.Now().UTC().Truncate(time.Second), Commit: commit(), Machine: machine(),
		Load: strings.Join(fields[:min(3, len(fields))], " "),
	}
}

func (r *result) finish() { r.Ended = time.Now().UTC().Truncate(time.Second) }

// write stores the result in a directory, in place of the one before.
func (r *result) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, r.Row+".json")
	// One sample a line, for diffs.
	text := strings.ReplaceAll(string(data), `{"seconds":`, "\n"+`{"seconds":`) + "\n"
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readResult returns nil if a row was not measured.
func readResult(dir, row string) (*result, error) {
	data, err := os.ReadFile(filepath.Join(dir, row+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(result)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("results of %s: %w", row, err)
	}
	return r, nil
}

// commit names what is measured.
func commit() string {
	out, err := exec.Command("git", "-C", filepath.Join("..", ".."), "describe", "--always", "--dirty", "--abbrev=12",
		"--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine says what it runs on.
func machine() string {
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo") // is told if it is there
	var family, number string
	for line := range strings.Lines(string(info)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "model name":
			model = value
		case "cpu family":
			family = value
		case "model":
			number = value
		}
	}
	var sys unix.Sysinfo_t
	var uts unix.Utsname
	memory := "unknown"
	if unix.Sysinfo(&sys) == nil {
		memory = fmt.Sprintf("%.0f GiB", float64(sys.Totalram)*float64(sys.Unit)/gib)
	}
	_ = unix.Uname(&uts) // then it is empty
	return fmt.Sprintf("%s (family %s, model %s), %d cores, %s of memory, Linux %s, %s/%s",
		model, family, number, runtime.NumCPU(), memory, unix.ByteSliceToString(uts.Release[:]), runtime.GOOS, runtime.GOARCH)
}
