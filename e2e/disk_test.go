//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"

	"github.com/aipod/aipod/client"
)

// fill leaves so much room on a file system, until the function that it returns
// is called.
func fill(t *testing.T, dir string, room int64) (free func()) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if size := int64(fs.Bavail)*fs.Bsize - room; size > 0 {
		if err := os.WriteFile(ballast, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}
}

// TestDurableJobsOnAFullDisk fills the disk under durable jobs, and frees it when
// they have noticed.
func TestDurableJobsOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "64m")
	p, err := startCounting(t, "127.0.0.1:0", dir, "", podConfig{MaxAttempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, client.Config{Addr: "http://" + p.addr})
	for _, tt := range []struct {
		name    string
		fn      string
		size    int
		room    int64 // on the disk
		waiting string
	}{
		{"uploading", "digest", 16 << 20, 8 << 20, "the disk of the spool is full"},
		{"writing output", "echo", 10 << 20, 15 << 20, "no room for the output"},
		{"recording state", "digest", 60_000, 0, "the disk of the spool is full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			free := fill(t, dir, tt.room)
			job := jobCase{fn: tt.fn, payload: randomBytes(tt.size)}
			if tt.room == 0 {
				// The first records of jobs go where those of earlier jobs were.
				takeFreePages(t, c)
			}
			id := strings.ReplaceAll(tt.name, " ", "-")
			noticed := 0
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			res, err := c.Run(ctx, client.Call{
				Func: tt.fn, JobID: id, Heartbeat: 200 * time.Millisecond,
				Payload: client.ReaderAt(bytes.NewReader(job.payload), int64(len(job.payload))),
				Watch: func(e client.Event) {
					why := ""
					switch e := e.(type) {
					case client.Reconnecting:
						why = fmt.Sprint(e.Why)
						if e.Refused && connect.CodeOf(e.Why) != connect.CodeResourceExhausted {
							t.Errorf("refused with %v", e.Why)
						}
					case client.Log:
						why = e.Line
					}
					if !strings.Contains(why, tt.waiting) {
						return
					}
					if noticed++; noticed == 1 {
						// Others are served meanwhile, and what is there is not lost.
						if _, err := health(ctx, p.addr, ""); err != nil {
							t.Errorf("the pod: %v", err)
						}
						free()
					}
				},
			})
			if noticed == 0 {
				t.Error("the disk was not full: the test proves nothing")
			}
			if err == nil {
				err = job.check(res.JSON, res.Output)
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := runs(t, p.dir)[id]; n != 1 {
				t.Errorf("the function ran %d times", n)
			}
			if sent, most := res.Stats.Sent, int64(tt.size)+mostResent; sent > most {
				t.Errorf("%d bytes were sent of a payload of %d", sent, tt.size)
			}
			if err := c.Delete(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data", "spool", "*", "*")); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
}

// takeFreePages makes jobs until the pod has no room for the record of one more.
func takeFreePages(t *testing.T, c *client.Client) {
	t.Helper()
	kwargs, err := json.Marshal(map[string]string{"note": strings.Repeat("x", 100_000)})
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	t.Cleanup(func() {
		for _, id := range made {
			if err := c.Delete(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		full := false
		id := fmt.Sprint("filler-", n)
		made = append(made, id)
		_, err := c.Run(ctx, client.Call{
			Func: "digest", Kwargs: kwargs, JobID: id, Payload: client.Reader(blocked{ctx}),
			Watch: func(e client.Event) {
				switch e := e.(type) {
				case client.Accepted:
					cancel()
				case client.Reconnecting:
					full = full || e.Refused
					cancel()
				}
			},
		})
		cancel()
		switch {
		case full:
			return
		case !errors.Is(err, context.Canceled):
			t.Fatalf("%s: %v", id, err)
		}
	}
	t.Fatal("1000 records of 100 kB fit on a full disk")
}

// blocked is a payload that doesn't come.
type blocked struct {
	ctx context.Context // ends the wait
}

func (b blocked) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, context.Cause(b.ctx)
}

// TestNamedJobsSync counts with strace how often the pod waits for the disk.
func TestNamedJobsSync(t *testing.T) {
	t.Parallel()
	strace := tool(t, "strace")
	p := mustCounting(t, "", podConfig{MaxAttempts: 1})
	c := newClient(t, client.Config{Addr: "http://" + p.addr})
	count := func(do func()) (files, store int) {
		t.Helper()
		log := filepath.Join(t.TempDir(), "strace")
		s := start(t, "strace", asRoot(strace, "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", log, "-p", strconv.Itoa(p.cmd.Process.Pid)))
		if _, err := s.waitLine(10*time.Second, func(line string) bool { return strings.Contains(line, "attached") }); err != nil {
			t.Fatal(err)
		}
		do()
		s.signal(t, syscall.SIGINT)
		s.wait(t, 10*time.Second)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`f(?:data)?sync\(\d+<([^>]+)>`).FindAllStringSubmatch(string(text), -1) {
			if strings.HasSuffix(m[1], "jobs.db") {
				store++
			} else {
				files++
			}
		}
		return files, store
	}
	run := func(call client.Call, size int) {
		t.Helper()
		job := jobCase{fn: call.Func, payload: randomBytes(size)}
		call.Payload = client.ReaderAt(bytes.NewReader(job.payload), int64(size))
		res, err := c.Run(t.Context(), call)
		if err == nil {
			err = job.check(res.JSON, res.Output)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run(client.Call{Func: "digest", JobID: "first"}, 100_000) // which makes the directory
	// The states that are recorded: accepted, queued, begun, ended. A transaction of
	// bbolt syncs its file twice: for the pages, and for the root.
	for _, tt := range []struct {
		name         string
		call         client.Call
		size         int
		files, store int
	}{
		{"small", client.Call{Func: "digest", JobID: "small"}, 1000, 0, 2 * 4},
		{"large", client.Call{Func: "digest", JobID: "large"}, 3 << 20, 2, 2 * 4},
		{"without a name", client.Call{Func: "digest", Ephemeral: true}, 3 << 20, 0, 0},
	} {
		files, store := count(func() { run(tt.call, tt.size) })
		t.Logf("%s: %d syncs of files, %d of the store", tt.name, files, store)
		if files > tt.files || store > tt.store || tt.store > 0 && store == 0 {
			t.Errorf("%s: %d syncs of files, want %d; %d of the store, want %d at most", tt.name, files, tt.files, store, tt.store)
		}
	}
	m, err := c.Get(t.Context(), "large")
	if err != nil || m.GetState() != aipodv1.State_STATE_SUCCEEDED {
		t.Errorf("%v, %v", m.GetState(), err)
	}
}
