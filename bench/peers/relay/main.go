// Command relay passes TCP connections on to a server and delays all that is sent,
// each way. It makes a long round trip, not a slow link: what is under way is
// bounded by memory, far above the windows of any of the peers.
package main

import (
	"net"
	"os"
	"time"

	"github.com/aipod/aipod/bench/peers/peer"
)

const (
	piece    = 64 << 10
	underWay = 4096 // pieces each way: 256 MiB
)

func main() { os.Exit(peer.Main(peer.Program{Serve: serve})) }

func serve(l net.Listener, o peer.Options) error {
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		out, err := net.Dial("tcp", o.Addr)
		if err != nil {
			_ = in.Close() // the client notices
			return err
		}
		go pass(in.(*net.TCPConn), out.(*net.TCPConn), o.Delay)
		go pass(out.(*net.TCPConn), in.(*net.TCPConn), o.Delay)
	}
}

// A packet is some bytes and when they are to leave.
type packet struct {
	due  time.Time
	data []byte
}

// pass passes on one direction of a connection until its end.
func pass(from, to *net.TCPConn, delay time.Duration) {
	queue := make(chan packet, underWay)
	free := make(chan []byte, underWay)
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				_ = from.CloseRead() // ends the loop below
			}
			select {
			case free <- p.data[:piece]:
			default:
			}
		}
		_ = to.CloseWrite() // it may be closed already
	}()
	defer close(queue)
	for {
		var buf []byte
		select {
		case buf = <-free:
		default:
			buf = make([]byte, piece)
		}
		n, err := from.Read(buf)
		if n > 0 {
			queue <- packet{due: time.Now().Add(delay), data: buf[:n]}
		}
		if err != nil {
			return
		}
	}
}
