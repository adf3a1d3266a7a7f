package spool

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
)

// smallDisk is a file system of size bytes.
func smallDisk(t *testing.T, size string) string {
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
	return dir
}

func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "64k")
	for _, inline := range []int{-1, 100 << 10} {
		s := open(t, Config{Dir: dir, Inline: inline})
		other := s.Create(0)
		write(t, other, pattern(101<<10/4))

		w := s.Create(0)
		n, err := 0, error(nil)
		for err == nil && n < 1<<20 {
			var k int
			k, err = w.Write(pattern(10_000))
			n += k
		}
		var full *DiskFullError
		if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if int64(n) != w.Size() || s.Usage().Bytes != int64(n)+other.Size() {
			t.Errorf("wrote %d bytes, Size %d, %+v", n, w.Size(), s.Usage())
		}
		wantSticky(t, w, err)
		discard(t, w)

		// There is room again, and the other payload never noticed.
		w = s.Create(0)
		write(t, w, pattern(20<<10))
		discard(t, w)
		b := seal(t, other)
		if got := content(t, b); !bytes.Equal(got, pattern(101<<10/4)) {
			t.Errorf("the other payload has %d other bytes", len(got))
		}
		remove(t, b)
	}
}

// A payload in memory that has no room on the disk stays in memory.
func TestDiskFullPath(t *testing.T) {
	s := open(t, Config{Dir: smallDisk(t, "16k")})
	w := s.Create(0)
	write(t, w, pattern(20<<10))
	b := seal(t, w)
	_, err := b.Path()
	var full *DiskFullError
	if !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(s.cfg.Dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if got := content(t, b); !bytes.Equal(got, pattern(20<<10)) {
		t.Errorf("got %d other bytes", len(got))
	}
	remove(t, b)
}

// The same without a file system of its own, for those who may not mount one:
// the device that is always full takes the place of the payload's file.
func TestDeviceFull(t *testing.T) {
	s := open(t, Config{Inline: -1})
	w := s.Create(0)
	write(t, w, pattern(100))
	fd, err := syscall.Open("/dev/full", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a full device is needed: %v", err)
	}
	if err := w.file.Close(); err != nil {
		t.Fatal(err)
	}
	w.file = os.NewFile(uintptr(fd), w.file.Name())
	n, err := w.Write(pattern(10))
	var full *DiskFullError
	if n != 0 || !errors.As(err, &full) {
		t.Fatalf("got %d, %v", n, err)
	}
	wantSticky(t, w, err)
	wantUsage(t, s, Usage{Bytes: 100, Files: 1})
	discard(t, w)
}
