package job

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aipod/aipod/internal/spool"
)

// smallStorePath is on a file system of size bytes.
func smallStorePath(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small file system is needed: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return filepath.Join(dir, "jobs.db")
}

func wantDiskFull(t *testing.T, err error) {
	t.Helper()
	var full *spool.DiskFullError
	if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestStoreDiskFull(t *testing.T) {
	for _, size := range []int{1 << 10, 50 << 10, 300 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := smallStorePath(t, "10m")
			filler := filepath.Join(filepath.Dir(path), "filler")
			if err := os.WriteFile(filler, make([]byte, 3<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			s, _ := storeOpen(t, path)
			want := map[string]string{}
			value := strings.Repeat("v", size)
			used := 0 // ids
			fill := func() {
				t.Helper()
				var batch []*update
				for err := error(nil); err == nil; {
					for range min(100, max(1, 100<<10/size)) { // many at once, for speed
						id := fmt.Sprintf("job-%05d", used)
						used++
						batch = append(batch, newPut(id, value))
					}
					storeDo(s, batch...)
					for _, u := range batch {
						if u.err == nil {
							want[u.id] = value
						} else {
							err = u.err
							wantDiskFull(t, err)
						}
					}
					batch = nil
				}
			}
			fill()
			n := len(want)
			for i := 0; ; i++ { // until there is no page
				id, small := fmt.Sprintf("small-%05d", i), strings.Repeat("s", 3000)
				if err := s.put(id, []byte(small)); err != nil {
					wantDiskFull(t, err)
					break
				}
				want[id] = small
			}
			t.Logf("%d records fit, and %d small ones", n, len(want)-n)
			const next = "job-none"
			large := strings.Repeat("large", 300<<10)
			for range 50 {
				wantDiskFull(t, s.put(next, []byte(large)))
			}

			// It can be opened again.
			storeClose(t, s)
			wantStore(t, path, want)
			s, _ = storeOpen(t, path)
			wantDiskFull(t, s.put(next, []byte(large)))

			// Deletes go on, and make room. The order is any.
			for id := range want {
				if len(want) > 1 {
					storeDelete(t, s, id)
					delete(want, id)
				}
			}
			storePut(t, s, next, value)
			want[next] = value
			storeClose(t, s)
			wantStore(t, path, want)

			// What failed succeeds when there is room on the disk.
			s, _ = storeOpen(t, path)
			fill()
			wantDiskFull(t, s.put(next, []byte(large)))
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			storePut(t, s, next, large)
			want[next] = large
			storeClose(t, s)
			wantStore(t, path, want)
		})
	}
}

// In a batch, nothing fails because of what has no room.
func TestStoreDiskFullBatch(t *testing.T) {
	path := smallStorePath(t, "4m")
	s, _ := storeOpen(t, path)
	storePut(t, s, "a", "1")
	storePut(t, s, "b", "2")
	storePut(t, s, "c", "3")
	large := strings.Repeat("large", 1<<20)
	batch := []*update{newPut("a", "one"), newPut("b", large), newDelete("c"), newPut("d", large), newPut("e", "five")}
	storeDo(s, batch...)
	for i, u := range batch {
		if len(u.value) > 1<<20 {
			wantDiskFull(t, u.err)
		} else if u.err != nil {
			t.Errorf("update %d: %v", i, u.err)
		}
	}
	storeClose(t, s)
	wantStore(t, path, map[string]string{"a": "one", "b": "2", "e": "five"})
}

// Without room, a store isn't made, and a damaged one stays where it is.
func TestStoreDiskFullOpen(t *testing.T) {
	for _, size := range []string{"8k", "64k", "1m"} {
		path := smallStorePath(t, size)
		_, _, _, err := openStore(path)
		wantDiskFull(t, err)
		if found, err := os.ReadDir(filepath.Dir(path)); err != nil || len(found) > 0 {
			t.Errorf("left behind: %v, %v", found, err)
		}
	}
	path := smallStorePath(t, "3m")
	damaged := bytes.Repeat([]byte("text"), 400<<10)
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := openStore(path)
	wantDiskFull(t, err)
	wantFiles(t, path, "jobs.db")
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, damaged) {
		t.Errorf("it has changed: %v", err)
	}
}

// No file stays open or mapped, also not one that was damaged.
func TestStoreLeaksNothing(t *testing.T) {
	open := func() (n int) {
		found, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Skip(err)
		}
		return len(found) + bytes.Count(maps, []byte("jobs.db"))
	}
	good, _, _ := damagedStore(t, 10)
	bad, _, data := damagedStore(t, 10)
	before := open()
	for range 3 {
		copy(data[3*os.Getpagesize():], make([]byte, len(data)))
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{good, bad} {
			s, _, _ := storeOpenAny(t, path)
			storePut(t, s, "a", "1")
			storeClose(t, s)
		}
	}
	if after := open(); after != before {
		t.Errorf("%d files are open or mapped, were %d", after, before)
	}
}
