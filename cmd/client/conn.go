package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"github.com/spf13/pflag"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/transport"
)

const defaultAddr = "http://127.0.0.1:50051"

// dialFlags say which pod, and how to reach it.
type dialFlags struct {
	addr     string
	protocol string
	ca       string
	insecure bool
	header   []string // only of commands that have the flag
}

func (d *dialFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&d.addr, "addr", defaultAddr, "the pod: `URL` or host:port")
	fs.StringVar(&d.protocol, "protocol", string(transport.GRPC), "RPC protocol: grpc, grpcweb or connect")
	fs.StringVar(&d.ca, "ca", "", "for https: trust the certificates in this PEM `file` instead of the system's")
	fs.BoolVar(&d.insecure, "insecure", false, "for https: trust any certificate")
}

func (d *dialFlags) registerHeader(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&d.header, "header", "H", nil, "add metadata `'name: value'`, such as x-upstream for a proxy")
}

// A conn is the way to one pod.
type conn struct {
	addr    string // base URL
	header  http.Header
	api     *client.Client
	http    *http.Client // for ai.AI and health
	options []connect.ClientOption
}

// close closes idle connections.
func (c *conn) close() {
	c.api.Close()
	c.http.CloseIdleConnections()
}

// open checks the flags. It does not connect.
func (d *dialFlags) open() (*conn, error) {
	addr, err := baseURL(d.addr)
	if err != nil {
		return nil, err
	}
	protocol := transport.Protocol(d.protocol)
	if !slices.Contains(transport.Protocols, protocol) {
		return nil, usagef("unknown protocol %q: choose grpc, grpcweb or connect", d.protocol)
	}
	options, err := transport.ClientOptions(protocol)
	if err != nil {
		return nil, usagef("%v", err)
	}
	config := &tls.Config{InsecureSkipVerify: d.insecure} // off unless asked for
	if d.ca != "" {
		pem, err := os.ReadFile(d.ca)
		if err != nil {
			return nil, usagef("read --ca: %v", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("%s has no PEM certificate", d.ca)
		}
	}
	header, err := parseHeader(d.header)
	if err != nil {
		return nil, err
	}
	api, err := client.New(client.Config{Addr: addr, Protocol: d.protocol, TLS: config, Header: header})
	if err != nil {
		return nil, usagef("%v", err)
	}
	return &conn{
		addr: addr, header: header, api: api,
		http:    transport.NewHTTPClient(transport.ClientConfig{TLS: config}),
		options: options,
	}, nil
}

// baseURL makes an URL of --addr.
func baseURL(addr string) (string, error) {
	text := addr
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" {
		return "", usagef("%q is not the address of a pod: write it like %s", addr, defaultAddr)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// unreachable explains an error of the connection itself, one that no pod sent.
func (c *conn) unreachable(err error) *failure {
	f := &failure{exit: exitUnreachable, err: err}
	var (
		dns        *net.DNSError
		op         *net.OpError
		unknown    x509.UnknownAuthorityError
		cert       *tls.CertificateVerificationError
		recordType tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		f.what = "no pod answers at " + c.addr
		if u, _ := url.Parse(c.addr); u != nil && isLoopback(u.Hostname()) {
			f.what += ": start one with: go run ./cmd/server"
		} else {
			f.todo = "check --addr and that the pod runs"
		}
	case errors.As(err, &dns):
		f.what, f.todo = "no such host: "+dns.Name, "check --addr"
	case errors.As(err, &unknown), errors.As(err, &cert):
		f.what = "the certificate of " + c.addr + " is not trusted: " + rootCause(err).Error()
		f.todo = "pass --ca FILE or --insecure"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &recordType):
		f.what, f.todo = c.addr+" does not speak TLS", "try http:// in --addr"
	case errors.As(err, &op) && op.Op == "dial":
		f.what, f.todo = "cannot connect to "+c.addr+": "+op.Err.Error(), "check --addr and that the pod runs"
	default:
		f.what, f.todo = "no usable answer from "+c.addr+": "+text(err), "check --addr and --protocol"
	}
	return f
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// rootCause is the innermost error.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// text is an error's text without connect's code in front.
func text(err error) string {
	var rpc *connect.Error
	if errors.As(err, &rpc) {
		return rpc.Message()
	}
	return err.Error()
}

// rpcFailure explains the error of a call that has no stream.
func (c *conn) rpcFailure(err error) *failure {
	var (
		rpc  *connect.Error
		lost *client.UnreachableError
	)
	if job := jobError(err); job != nil {
		return jobFailure(job)
	}
	if errors.As(err, &lost) {
		err = lost.Err
	}
	if !errors.As(err, &rpc) || !connect.IsWireError(err) {
		return c.unreachable(err)
	}
	exit := exitFailed
	if rpc.Code() == connect.CodeUnavailable {
		exit = exitUnreachable
	}
	return &failure{exit: exit, code: rpc.Code(), what: rpc.Message(), err: err}
}
