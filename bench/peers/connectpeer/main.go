// Command connectpeer is the job of the benchmarks done with connect-go as it
// comes: no options, and net/http's HTTP/2 without TLS with its defaults.
package main

import (
	"context"
	"net"
	"net/http"
	"os"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/bench/peers/peer"
	"github.com/aipod/aipod/gen/ai"
)

type (
	server = connect.BidiStream[ai.Raw, ai.Raw]
	client = connect.BidiStreamForClient[ai.Raw, ai.Raw]
)

func main() {
	os.Exit(peer.Main(peer.Program{Serve: serve, Ops: map[string]peer.Op{
		"upload": op(peer.Upload, func(o peer.Options, s *client, _ map[string]float64) (int64, error) {
			n, err := peer.SendFile(o, s.Send)
			if err != nil {
				return n, err
			}
			if err := s.CloseRequest(); err != nil {
				return n, err
			}
			m, err := s.Receive()
			if err != nil {
				return n, err
			}
			return peer.Confirmed(n, m.GetData())
		}),
		"download": op(peer.Download, func(o peer.Options, s *client, _ map[string]float64) (int64, error) {
			if err := s.Send(peer.Request(o)); err != nil {
				return 0, err
			}
			return peer.Drain(o, s.Receive)
		}),
		"echo": op(peer.Echo, func(o peer.Options, s *client, _ map[string]float64) (int64, error) {
			return peer.Bounce(o, s.Receive, s.Send)
		}),
		"hold": op(peer.Hold, func(o peer.Options, s *client, more map[string]float64) (int64, error) {
			if err := s.Send(&ai.Raw{}); err != nil {
				return 0, err
			}
			return peer.Count(o, s.Receive, more)
		}),
	}}))
}

func serve(l net.Listener, _ peer.Options) error {
	mux := http.NewServeMux()
	for name, handler := range map[string]func(context.Context, *server) error{
		peer.Upload:   func(_ context.Context, s *server) error { return peer.Discard(s.Receive, s.Send) },
		peer.Download: func(_ context.Context, s *server) error { return peer.Supply(s.Receive, s.Send) },
		peer.Echo:     func(_ context.Context, s *server) error { return peer.Return(s.Receive, s.Send) },
		peer.Hold:     func(ctx context.Context, s *server) error { return peer.Keep(ctx.Done(), s.Send) },
	} {
		path := "/" + peer.Service + "/" + name
		mux.Handle(path, connect.NewBidiStreamHandler(path, handler))
	}
	return (&http.Server{Handler: mux, Protocols: h2c()}).Serve(l)
}

func op(name string, do func(peer.Options, *client, map[string]float64) (int64, error)) peer.Op {
	return func(ctx context.Context, o peer.Options, more map[string]float64) (int64, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		c := connect.NewClient[ai.Raw, ai.Raw](&http.Client{Transport: &http.Transport{Protocols: h2c()}},
			"http://"+o.Addr+"/"+peer.Service+"/"+name)
		return do(o, c.CallBidiStream(ctx), more)
	}
}

func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
