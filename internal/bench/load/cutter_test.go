package load

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// sinkServer counts what comes, and says nothing.
func sinkServer(t *testing.T) (addr string, got chan int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	got = make(chan int64, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				n, _ := io.Copy(io.Discard, conn)
				_ = conn.Close()
				got <- n
			}()
		}
	}()
	return "http://" + listener.Addr().String(), got
}

func TestCutterCutsAfterBytes(t *testing.T) {
	addr, got := sinkServer(t)
	var counts cutCounts
	c, through, err := newCutter(addr, 0, 100_000, &counts)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(through, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(bytes.Repeat([]byte("x"), 1<<20)) // is cut
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection isn't cut")
		}
		_ = conn.Close()
		// A reset may take away what was on its way.
		if n := <-got; n > 100_000 {
			t.Errorf("%d bytes come through, want at most 100000", n)
		}
	}
	c.close()
	if counts.cut.Load() != 3 || counts.wire.Load() != 300_000 {
		t.Errorf("%d cuts, %d bytes, want 3 and 300000", counts.cut.Load(), counts.wire.Load())
	}
}

func TestCutterCutsAtAnAge(t *testing.T) {
	addr, _ := sinkServer(t)
	var counts cutCounts
	c, through, err := newCutter(addr, 100*time.Millisecond, 0, &counts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	conn, err := net.Dial("tcp", strings.TrimPrefix(through, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	begin := time.Now()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection isn't cut")
	}
	if age := time.Since(begin); age < 90*time.Millisecond || age > 2*time.Second {
		t.Errorf("cut after %v, want 100ms", age)
	}
}
