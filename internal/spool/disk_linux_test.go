package spool

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// A File that has no room keeps what it has, and goes on when there is room.
func TestDiskFullFile(t *testing.T) {
	s := open(t, Config{Dir: smallDisk(t, "64k"), Inline: -1})
	other := s.Create(0)
	write(t, other, pattern(20<<10))
	f := openFile(t, s, "f", 0)
	data := pattern(60_000)
	const chunk = 10_000
	off := 0
	var err error
	for err == nil && off < len(data) {
		if _, err = f.Put(int64(off), data[off:off+chunk]); err == nil {
			off += chunk
		}
	}
	for range 3 { // it stays as it is
		committed := f.Committed()
		var full *DiskFullError
		if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("at %d: %v", off, err)
		}
		if committed <= int64(off) || committed >= int64(off+chunk) {
			t.Errorf("%d bytes are committed after a Put of %d at %d that had room for some", committed, chunk, off)
		}
		wantFile(t, f, data[:committed])
		wantUsage(t, s, Usage{Bytes: committed + other.Size(), Files: 2})
		var n int64
		if n, err = f.Put(int64(off), data[off:off+chunk]); n != committed {
			t.Errorf("Put again: %d, was %d", n, committed)
		}
	}
	discard(t, other)
	for ; off < len(data)-chunk; off += chunk {
		put(t, f, off, data[off:off+chunk])
	}
	wantFile(t, f, data[:off])
	if _, err := f.Seal(int64(off), crcOf(data[:off])); err != nil {
		t.Error(err)
	}
	removeFile(t, s, "f")
	wantUsage(t, s, Usage{})
}

// A file that can't be made leaves no name behind.
func TestDiskFullOpenFile(t *testing.T) {
	s := open(t, Config{Dir: smallDisk(t, "16k,nr_inodes=4")}) // the root, named and two files
	for _, name := range []string{"a", "b"} {
		closeFile(t, openFile(t, s, name, 0))
	}
	var full *DiskFullError
	if _, err := s.OpenFile("c", 0); !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
	wantUsage(t, s, Usage{Files: 2})
	if got := s.Files(); len(got) != 2 {
		t.Errorf("listed: %v", got)
	}
	removeFile(t, s, "a")
	openFile(t, s, "c", 0)
	removeFile(t, s, "b")
	removeFile(t, s, "c")
}

// The same as TestDiskFullFile for those who may not mount a file system.
func TestDeviceFullFile(t *testing.T) {
	s := open(t, Config{})
	f := openFile(t, s, "f", 0)
	put(t, f, 0, pattern(100))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("a full device is needed: %v", err)
	}
	file := f.file
	f.file = full
	changed := f.Changed()
	n, err := f.Put(100, pattern(200)[100:])
	if n != 100 || !errors.As(err, new(*DiskFullError)) {
		t.Errorf("got %d, %v", n, err)
	}
	select {
	case <-changed:
		t.Error("it has changed")
	default:
	}
	wantUsage(t, s, Usage{Bytes: 100, Files: 1})
	f.file = file
	if err := full.Close(); err != nil {
		t.Error(err)
	}
	put(t, f, 100, pattern(200)[100:])
	wantFile(t, f, pattern(200))
	removeFile(t, s, "f")
}

// While a payload that is to be sealed grows it goes to the disk, so that Seal has
// little left to wait for. Another one needn't.
func TestFileWritesBehind(t *testing.T) {
	s := open(t, Config{})
	const size = 8 * writeBehind
	dirty := func(f *File) int {
		stat := &unix.Cachestat_t{}
		if err := unix.Cachestat(uint(f.file.Fd()), &unix.CachestatRange{Len: size}, stat, 0); err != nil {
			t.Skipf("the kernel doesn't say what is dirty, it does since 6.5: %v", err)
		}
		return int(stat.Dirty) * os.Getpagesize()
	}
	received := func(f *File) {
		for off, p := 0, pattern(1<<20); off < size; off += len(p) {
			put(t, f, off, p)
		}
	}
	made := func(f *File) { // by another process
		// Not os.WriteFile: ext4 writes at once what takes the place of something.
		other, err := os.OpenFile(f.path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Write(pattern(size))
		if err := errors.Join(err, other.Close(), f.Grow(size)); err != nil {
			t.Fatal(err)
		}
	}
	for name, fill := range map[string]func(*File){"received": received, "made": made} {
		t.Run(name, func(t *testing.T) {
			defer removeFile(t, s, "kept")
			kept := openFile(t, s, "kept", 0)
			fill(kept)
			if n := dirty(kept); n < size/2 {
				t.Skipf("only %d bytes of %d wait for the disk: this file system or machine writes by itself", n, size)
			}
			defer removeFile(t, s, "sealed")
			f := openFile(t, s, "sealed", 0)
			f.WillSeal()
			fill(f)
			// The system itself begins after half a minute.
			for end := time.Now().Add(20 * time.Second); dirty(f) > writeBehind && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if n := dirty(f); n > writeBehind {
				t.Errorf("%d bytes of %d are still to be written", n, size)
			}
		})
	}
}
