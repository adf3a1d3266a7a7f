package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
)

// killedDir is where TestFileSurvivesKill's child process writes.
const killedDir = "AIPOD_SPOOL_TEST_DIR"

// killedSize is how much it writes at most, until it is killed.
const killedSize = 4 << 20

// A process is killed at a random moment while it writes. What it had reported
// as committed is there, and nothing but what it wrote; the next one goes on.
func TestFileSurvivesKill(t *testing.T) {
	data := pattern(killedSize)
	if dir := os.Getenv(killedDir); dir != "" {
		writeUntilKilled(t, dir, data)
		return
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var committed int64
	for round := range 8 {
		cmd := exec.Command(self, "-test.run=^TestFileSurvivesKill$")
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reported := committed
		in := bufio.NewReader(out)
		var ack [8]byte
		for n := range 1 + rand.IntN(50) {
			if _, err := io.ReadFull(in, ack[:]); err != nil {
				t.Fatalf("round %d, report %d: %v", round, n, err)
			}
			reported = int64(binary.BigEndian.Uint64(ack[:]))
		}
		// The child is past that by now, and in the middle of something else.
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := io.ReadFull(in, ack[:]); err != nil {
				break
			}
			reported = int64(binary.BigEndian.Uint64(ack[:]))
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}

		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		f := openFile(t, s, "f", 0)
		if committed = f.Committed(); committed < reported {
			t.Errorf("round %d: %d bytes were reported, %d are there", round, reported, committed)
		}
		wantFile(t, f, data[:committed])
		wantUsage(t, s, Usage{Bytes: committed, Files: 1})
		closeFile(t, f)
	}
	t.Logf("%d bytes at the end", committed)
	s := open(t, Config{Dir: dir})
	removeFile(t, s, "f")
}

// writeUntilKilled puts chunks of random sizes, some of which overlap, and
// reports what is committed after each.
func writeUntilKilled(t *testing.T, dir string, data []byte) {
	s, err := Open(Config{Dir: dir, Inline: -1})
	if err != nil {
		t.Fatal(err)
	}
	f := openFile(t, s, "f", 0)
	committed := f.Committed()
	write(t, s.Create(0), data[:100]) // has no name, so the next process removes it
	for {                             // repeating itself when all is there
		off := max(0, committed-rand.Int64N(1000))
		end := min(off+rand.Int64N(20_000), int64(len(data)))
		n, err := f.Put(off, data[off:max(off, end)])
		if err != nil {
			t.Fatal(err)
		}
		committed = n
		if _, err := os.Stdout.Write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
			t.Fatal(err)
		}
	}
}

// The same without a second process, at chosen moments.
func TestFileReopened(t *testing.T) {
	s := open(t, Config{Inline: -1})
	data := pattern(3*blockSize + 5)
	put(t, openFile(t, s, "sealed", 0), 0, data)
	if _, err := s.named["sealed"].open.Seal(int64(len(data)), crcOf(data)); err != nil {
		t.Fatal(err)
	}
	cuts := []int{0, 0, 1, blockSize - 1, blockSize, blockSize + 1, len(data)}
	for i, cut := range cuts {
		f := openFile(t, s, "f", 0)
		have := int(f.Committed())
		if i%2 == 0 { // sum first, or append first
			wantFile(t, f, data[:have])
		}
		put(t, f, max(0, have-3), data[max(0, have-3):cut])
		wantFile(t, f, data[:cut])
		w := s.Create(0)
		write(t, w, data[:1])
		if err := w.file.Close(); err != nil {
			t.Fatal(err)
		}
		s = crash(t, s)
		wantUsage(t, s, Usage{Bytes: int64(cut + len(data)), Files: 2})
	}
	b, err := s.OpenSealed("sealed")
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, b); !bytes.Equal(got, data) {
		t.Errorf("got %d other bytes", len(got))
	}
	f := openFile(t, s, "f", 0)
	if _, err := f.Seal(int64(len(data)), crcOf(data)); err != nil { // without CRC32C before
		t.Error(err)
	}
	removeFile(t, s, "f")
	removeFile(t, s, "sealed")
	wantUsage(t, s, Usage{})
}
