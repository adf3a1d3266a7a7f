// Package transport is the glue between net/http and connect: how the pod
// listens, how clients reach it, and what has to happen around connect's
// handlers so that real gRPC clients and real proxies are served well.
//
// It knows nothing of jobs or models. Everything in it is safe for concurrent
// use.
package transport

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerConfig tunes a server. The zero value of each field has a usable
// meaning.
type ServerConfig struct {
	// PingInterval is how long a connection may be silent before the server
	// sends an HTTP/2 PING, default 5s; PingTimeout is how long the answer may
	// take before the connection is closed, default 120s. They find dead peers;
	// they are hop-by-hop and keep nothing alive behind a proxy.
	PingInterval, PingTimeout time.Duration
	// StreamWindow and ConnWindow are the HTTP/2 receive windows in bytes,
	// default 8 MiB and 16 MiB: what may be in flight bounds the rate at a
	// given round-trip time.
	StreamWindow, ConnWindow int
	// MaxStreams is how many streams one connection may have, default 1000.
	// With fewer, gRPC clients queue silently; the cost of the frame scheduler
	// grows with the number.
	MaxStreams int
	// IdleTimeout closes connections without streams, default 10m.
	IdleTimeout time.Duration
	// ConnContext, if not nil, gives the requests of a connection their context.
	ConnContext func(context.Context, net.Conn) context.Context
	// Logger takes what net/http has to say, default slog.Default().
	Logger *slog.Logger
}

// readFrame is the largest HTTP/2 frame that the server accepts. net/http keeps
// a buffer of this size for each connection.
const readFrame = 64 << 10

// NewServer makes a server for HTTP/1.1 and HTTP/2 on one port, with and
// without TLS. It has no timeout for whole requests: those are absolute and
// would cut long streams.
func NewServer(cfg ServerConfig, handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	return &http.Server{
		Handler:           handler,
		Protocols:         &protocols,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       cmp.Or(cfg.IdleTimeout, 10*time.Minute),
		ConnContext:       cfg.ConnContext,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          cmp.Or(cfg.MaxStreams, 1000),
			MaxReadFrameSize:              readFrame,
			MaxReceiveBufferPerStream:     cmp.Or(cfg.StreamWindow, 8<<20),
			MaxReceiveBufferPerConnection: cmp.Or(cfg.ConnWindow, 16<<20),
			SendPingTimeout:               cmp.Or(cfg.PingInterval, 5*time.Second),
			PingTimeout:                   cmp.Or(cfg.PingTimeout, 120*time.Second),
			WriteByteTimeout:              cmp.Or(cfg.PingTimeout, 120*time.Second),
		},
	}
}
