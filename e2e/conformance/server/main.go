// Server is the server under test of the Connect conformance suite: the suite's
// service behind everything that a pod puts around its own.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/e2e/conformance/compat"
	conformancev1 "github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1"
	"github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// run serves what the one request on stdin asks for until ctx ends. All
// protocols and versions of HTTP are on one port, as they are in a pod.
func run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	var req conformancev1.ServerCompatRequest
	if err := compat.Read(stdin, &req); err != nil {
		return err
	}
	// The suite asks for errors on purpose, thousands of them.
	log := slog.New(slog.DiscardHandler)
	server := transport.NewServer(transport.ServerConfig{Logger: log}, routes(log, int(req.GetMessageReceiveLimit())))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := ln.Addr().(*net.TCPAddr)
	res := &conformancev1.ServerCompatResponse{Host: addr.IP.String(), Port: uint32(addr.Port)}
	serve := server.Serve
	if req.GetUseTls() {
		creds := req.GetServerCreds()
		cert, err := tls.X509KeyPair(creds.GetCert(), creds.GetKey())
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		serve = func(ln net.Listener) error { return server.ServeTLS(ln, "", "") }
		res.PemCert = bytes.Clone(creds.GetCert())
	}
	served := make(chan error, 1)
	go func() { served <- serve(ln) }()
	if err := compat.Write(stdout, res); err != nil {
		return errors.Join(err, server.Close(), ignoreClosed(<-served))
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return errors.Join(server.Close(), ignoreClosed(<-served))
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// routes mounts the service twice, as a pod does its own: with transport.Bulk,
// which is for those that answer with payloads, all streams; and without, which
// is for those of unary calls.
func routes(log *slog.Logger, limit int) http.Handler {
	opts := service.HandlerOptions(log)
	if limit > 0 {
		opts = append(opts, connect.WithReadMaxBytes(limit))
	}
	build := func(more ...connect.HandlerOption) (string, http.Handler) {
		return conformancev1connect.NewConformanceServiceHandler(conformance{}, more...)
	}
	mux := http.NewServeMux()
	mux.Handle(build(opts...))
	_, bulk := transport.Bulk(build, opts...)
	for _, procedure := range []string{
		conformancev1connect.ConformanceServiceClientStreamProcedure,
		conformancev1connect.ConformanceServiceServerStreamProcedure,
		conformancev1connect.ConformanceServiceBidiStreamProcedure,
	} {
		mux.Handle(procedure, bulk)
	}
	return transport.Middleware(mux)
}
