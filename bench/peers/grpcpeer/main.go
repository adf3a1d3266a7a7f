// Command grpcpeer is the job of the benchmarks done with grpc-go: as it comes,
// or tuned for bulk.
package main

import (
	"context"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/aipod/aipod/bench/peers/peer"
	"github.com/aipod/aipod/gen/ai"
)

// What is tuned, in bytes: the windows are those of aipod.
const (
	streamWindow = 8 << 20
	connWindow   = 16 << 20
	buffer       = 1 << 20
	message      = 64 << 20
)

func main() {
	os.Exit(peer.Main(peer.Program{Serve: serve, Ops: map[string]peer.Op{
		"upload": op(peer.Upload, func(o peer.Options, s grpc.ClientStream, _ map[string]float64) (int64, error) {
			n, err := peer.SendFile(o, sender(s))
			if err != nil {
				return n, err
			}
			if err := s.CloseSend(); err != nil {
				return n, err
			}
			m, err := receiver(s)()
			if err != nil {
				return n, err
			}
			return peer.Confirmed(n, m.GetData())
		}),
		"download": op(peer.Download, func(o peer.Options, s grpc.ClientStream, _ map[string]float64) (int64, error) {
			if err := s.SendMsg(peer.Request(o)); err != nil {
				return 0, err
			}
			return peer.Drain(o, receiver(s))
		}),
		"echo": op(peer.Echo, func(o peer.Options, s grpc.ClientStream, _ map[string]float64) (int64, error) {
			return peer.Bounce(o, receiver(s), sender(s))
		}),
		"hold": op(peer.Hold, func(o peer.Options, s grpc.ClientStream, more map[string]float64) (int64, error) {
			if err := s.SendMsg(&ai.Raw{}); err != nil {
				return 0, err
			}
			return peer.Count(o, receiver(s), more)
		}),
	}}))
}

// A stream is what grpc-go's streams of servers and clients have in common.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

func sender(s stream) peer.Sender { return func(m *ai.Raw) error { return s.SendMsg(m) } }

func receiver(s stream) peer.Receiver {
	return func() (*ai.Raw, error) {
		m := new(ai.Raw)
		return m, s.RecvMsg(m)
	}
}

func serve(l net.Listener, o peer.Options) error {
	desc := grpc.ServiceDesc{ServiceName: peer.Service, HandlerType: (*any)(nil)}
	for name, handler := range map[string]func(grpc.ServerStream) error{
		peer.Upload:   func(s grpc.ServerStream) error { return peer.Discard(receiver(s), sender(s)) },
		peer.Download: func(s grpc.ServerStream) error { return peer.Supply(receiver(s), sender(s)) },
		peer.Echo:     func(s grpc.ServerStream) error { return peer.Return(receiver(s), sender(s)) },
		peer.Hold:     func(s grpc.ServerStream) error { return peer.Keep(s.Context().Done(), sender(s)) },
	} {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return handler(s) },
		})
	}
	var opts []grpc.ServerOption
	if o.Tuned {
		opts = append(opts, grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow), grpc.ReadBufferSize(buffer),
			grpc.WriteBufferSize(buffer), grpc.MaxRecvMsgSize(message), grpc.MaxSendMsgSize(message))
	}
	s := grpc.NewServer(opts...)
	s.RegisterService(&desc, nil)
	return s.Serve(l)
}

func op(name string, do func(peer.Options, grpc.ClientStream, map[string]float64) (int64, error)) peer.Op {
	return func(ctx context.Context, o peer.Options, more map[string]float64) (int64, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		if o.Tuned {
			opts = append(opts, grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
				grpc.WithReadBufferSize(buffer), grpc.WithWriteBufferSize(buffer),
				grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(message), grpc.MaxCallSendMsgSize(message)))
		}
		conn, err := grpc.NewClient("passthrough:///"+o.Addr, opts...)
		if err != nil {
			return 0, err
		}
		defer func() { _ = conn.Close() }() // the op has ended
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+peer.Service+"/"+name)
		if err != nil {
			return 0, err
		}
		return do(o, s, more)
	}
}
