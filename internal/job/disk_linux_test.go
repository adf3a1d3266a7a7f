package job

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aipod/aipod/internal/worker"
)

func (p *testPod) named(name string) string { return filepath.Join(p.dir, "spool", "named", name) }

// dirtyBytes is how much of a file waits for the disk.
func dirtyBytes(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	stat := &unix.Cachestat_t{}
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, stat, 0); err != nil {
		t.Skipf("the kernel doesn't say what is dirty, it does since 6.5: %v", err)
	}
	return int(stat.Dirty) * os.Getpagesize()
}

// What a durable job has to have on the disk at its end goes there from its start.
// What goes with its stream needn't go there at all.
func TestOnlyDurableJobsWriteEarly(t *testing.T) {
	data := pattern(32 << 20)
	gate := make(chan struct{})
	written := make(chan string, 1)
	p := startPod(t, t.TempDir(), podConfig{slots: 2, functions: map[string]function{
		"write": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
			w, err := c.OpenOutput()
			if err != nil {
				return nil, err
			}
			_, err = w.Write(data)
			written <- c.JobID
			<-gate
			return nil, err
		},
	}})
	defer close(gate)
	unnamed := openJob(t, p.Table)
	defer unnamed.Close()
	if err := unnamed.Start(Spec{Func: "write"}); err != nil {
		t.Fatal(err)
	}
	<-written
	plain := filepath.Join(p.dir, "plain")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		t.Fatal(err)
	}
	early, usual := len(data)-dirtyBytes(t, p.named(unnamed.ID+".out")), dirtyBytes(t, plain)
	if usual < len(data)/2 {
		t.Skipf("only %d bytes of %d wait for the disk: this file system or machine writes by itself", usual, len(data))
	}
	if early > len(data)/2 {
		t.Errorf("%d bytes of %d of the unnamed job's output were written to the disk", early, len(data))
	}
	j := p.create(t, "j", Spec{Func: "write"})
	for off := 0; off < len(data); off += 1 << 20 {
		put(t, j, off, data[off:off+1<<20])
	}
	clean := func(name string) {
		t.Helper()
		// The system itself begins after half a minute.
		for end := time.Now().Add(20 * time.Second); dirtyBytes(t, p.named(name)) > len(data)/2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s: %d bytes of %d wait for the disk", name, dirtyBytes(t, p.named(name)), len(data))
				return
			}
		}
	}
	clean("j.in")
	closeInput(t, j, data)
	clean(<-written + ".out")
}
