// Command plainpeer uploads without RPC: by a POST of net/http over HTTP/1.1, and
// over nothing but TCP. The server throws the payload away and answers its size.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/aipod/aipod/bench/peers/peer"
)

func main() {
	os.Exit(peer.Main(peer.Program{Serve: serve, Ops: map[string]peer.Op{"post": post, "tcp": tcp}}))
}

// serve serves HTTP, or TCP when it is tuned.
func serve(l net.Listener, o peer.Options) error {
	if !o.Tuned {
		return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprint(w, n)
		}))
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, c)
		fmt.Fprint(c, n)
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
}

func post(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	f, size, err := open(o)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // was only read from
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+o.Addr, f)
	if err != nil {
		return 0, err
	}
	req.ContentLength = size
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	return peer.Confirmed(size, answer)
}

func tcp(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	f, size, err := open(o)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // was only read from
	c, err := new(net.Dialer).DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // all has been read
	if _, err := io.Copy(c, f); err != nil {
		return 0, err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	return peer.Confirmed(size, answer)
}

func open(o peer.Options) (*os.File, int64, error) {
	f, err := os.Open(o.File)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}
