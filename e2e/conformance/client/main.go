// Client is the client under test of the Connect conformance suite: it makes
// the calls that the suite asks for as the project's own clients make theirs.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/e2e/conformance/compat"
	conformancev1 "github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1"
	"github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// parallel is how many calls are made at once.
const parallel = 8

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// run makes the calls on stdin and writes their outcomes to stdout, in whatever
// order they end.
func run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		out     sync.Mutex // guards stdout
		calls   sync.WaitGroup
		places  = make(chan struct{}, parallel)
		clients = &httpClients{byUse: map[use]*http.Client{}}
	)
	defer calls.Wait()
	for {
		req := new(conformancev1.ClientCompatRequest)
		if err := compat.Read(stdin, req); errors.Is(err, io.EOF) {
			calls.Wait()
			return context.Cause(ctx)
		} else if err != nil {
			return err
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		calls.Go(func() {
			defer func() { <-places }()
			res := outcome(ctx, clients, req)
			out.Lock()
			defer out.Unlock()
			if err := compat.Write(stdout, res); err != nil {
				cancel(err)
			}
		})
	}
}

func outcome(ctx context.Context, clients *httpClients, req *conformancev1.ClientCompatRequest) *conformancev1.ClientCompatResponse {
	res := &conformancev1.ClientCompatResponse{TestName: req.GetTestName()}
	result, err := call(ctx, clients, req)
	if err != nil {
		res.Result = &conformancev1.ClientCompatResponse_Error{Error: &conformancev1.ClientErrorResult{Message: err.Error()}}
	} else {
		res.Result = &conformancev1.ClientCompatResponse_Response{Response: result}
	}
	return res
}

// call makes one call. The error is for requests that cannot be followed; how a
// call failed is in the result.
func call(ctx context.Context, clients *httpClients, req *conformancev1.ClientCompatRequest) (*conformancev1.ClientResponseResult, error) {
	client, done, err := clients.get(req)
	if err != nil {
		return nil, err
	}
	defer done()
	opts, err := options(req)
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if len(req.GetServerTlsCert()) > 0 {
		scheme = "https"
	}
	url := scheme + "://" + net.JoinHostPort(req.GetHost(), strconv.Itoa(int(req.GetPort())))
	return newCaller(conformancev1connect.NewConformanceServiceClient(client, url, opts...), req).call(ctx)
}

var (
	protocols = map[conformancev1.Protocol]transport.Protocol{
		conformancev1.Protocol_PROTOCOL_CONNECT:  transport.Connect,
		conformancev1.Protocol_PROTOCOL_GRPC:     transport.GRPC,
		conformancev1.Protocol_PROTOCOL_GRPC_WEB: transport.GRPCWeb,
	}
	compressions = map[conformancev1.Compression]string{
		conformancev1.Compression_COMPRESSION_GZIP: codec.Gzip,
		conformancev1.Compression_COMPRESSION_ZSTD: codec.Zstd,
	}
)

// options are those of transport, and what the request wants besides.
func options(req *conformancev1.ClientCompatRequest) ([]connect.ClientOption, error) {
	opts, err := transport.ClientOptions(protocols[req.GetProtocol()])
	if err != nil {
		return nil, err
	}
	opts = append(opts, connect.WithHTTPGet(), connect.WithReadMaxBytes(int(req.GetMessageReceiveLimit())))
	switch req.GetCodec() {
	case conformancev1.Codec_CODEC_PROTO:
	case conformancev1.Codec_CODEC_JSON:
		opts = append(opts, connect.WithCodec(codec.JSON()))
	default:
		return nil, fmt.Errorf("unknown codec %v", req.GetCodec())
	}
	switch name, ok := compressions[req.GetCompression()]; {
	case ok:
		opts = append(opts, connect.WithSendCompression(name))
	case req.GetCompression() != conformancev1.Compression_COMPRESSION_IDENTITY:
		return nil, fmt.Errorf("unknown compression %v", req.GetCompression())
	}
	return opts, nil
}

// httpClients keeps one HTTP client for each way in which servers are spoken to.
type httpClients struct {
	mu    sync.Mutex
	byUse map[use]*http.Client
}

type use struct {
	http1                             bool
	serverCert, clientCert, clientKey string
}

// get returns a client, to be given back with done.
func (c *httpClients) get(req *conformancev1.ClientCompatRequest) (client *http.Client, done func(), err error) {
	u := use{
		http1:      req.GetHttpVersion() == conformancev1.HTTPVersion_HTTP_VERSION_1,
		serverCert: string(req.GetServerTlsCert()),
		clientCert: string(req.GetClientTlsCreds().GetCert()),
		clientKey:  string(req.GetClientTlsCreds().GetKey()),
	}
	if u.http1 && (req.GetCancel() != nil || req.TimeoutMs != nil) {
		// A call that net/http gives up can take its connection with it when
		// the next call is already on that.
		client, err := u.client()
		if err != nil {
			return nil, nil, err
		}
		return client, client.CloseIdleConnections, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if client = c.byUse[u]; client == nil {
		if client, err = u.client(); err != nil {
			return nil, nil, err
		}
		c.byUse[u] = client
	}
	return client, func() {}, nil
}

func (u use) client() (*http.Client, error) {
	cfg := transport.ClientConfig{HTTP1: u.http1}
	if u.serverCert != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(u.serverCert)) {
			return nil, errors.New("the server's certificate is not PEM")
		}
		cfg.TLS = &tls.Config{RootCAs: roots}
	}
	if u.clientCert != "" {
		cert, err := tls.X509KeyPair([]byte(u.clientCert), []byte(u.clientKey))
		if err != nil {
			return nil, err
		}
		cfg.TLS.Certificates = []tls.Certificate{cert}
	}
	return transport.NewHTTPClient(cfg), nil
}
