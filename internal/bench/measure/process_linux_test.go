package measure

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestListenerFindsThisProcess(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Logf("%s: %v", listen, err) // no IPv6
			continue
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		asked := addr
		if addr.Addr().IsUnspecified() {
			asked = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
		}
		if got := Listener(asked); got != os.Getpid() {
			t.Errorf("%s: process %d listens at %v, want %d", listen, got, asked, os.Getpid())
		}
		if !addr.Addr().IsUnspecified() {
			if got := Listener(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), addr.Port())); got != 0 {
				t.Errorf("%s: process %d listens at another address", listen, got)
			}
		}
		_ = l.Close()
		if got := Listener(asked); got != 0 {
			t.Errorf("%s: process %d listens after the end", listen, got)
		}
	}
}

func TestProcessUsage(t *testing.T) {
	m := Process(os.Getpid())
	n := 0
	for begin := time.Now(); time.Since(begin) < 100*time.Millisecond; {
		n++
	}
	u := m.Usage()
	if u == nil || u.CPU < 0.02 || u.CPU > 10 || u.RSS < 1<<20 || u.PeakRSS < u.RSS || u.PID != os.Getpid() {
		t.Errorf("%+v", u)
	}
	if Process(1<<30) != nil {
		t.Error("a process that isn't there is measured")
	}
}
