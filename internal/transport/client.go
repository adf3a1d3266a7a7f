package transport

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/codec"
)

// A Protocol is an RPC protocol that the pod speaks.
type Protocol string

// The protocols, as `client --protocol` names them.
const (
	GRPC    Protocol = "grpc"
	GRPCWeb Protocol = "grpcweb"
	Connect Protocol = "connect"
)

// Protocols lists all of them.
var Protocols = []Protocol{GRPC, GRPCWeb, Connect}

// ClientConfig tunes a client. The zero value of each field has a usable
// meaning.
type ClientConfig struct {
	// PingInterval, PingTimeout: see ServerConfig.
	PingInterval, PingTimeout time.Duration
	// HTTP1 makes the client speak HTTP/1.1 instead of HTTP/2. What is on the
	// way may then take streams for half-duplex, and hold back the response until
	// the whole request is through.
	HTTP1 bool
	// TLS is used for https URLs; nil means the system's roots.
	TLS *tls.Config
}

// NewHTTPClient makes the HTTP client that all of the project's clients use:
// HTTP/2, with prior knowledge for http URLs, or HTTP/1.1 when asked.
func NewHTTPClient(cfg ClientConfig) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(cfg.HTTP1)
	protocols.SetHTTP2(!cfg.HTTP1)
	protocols.SetUnencryptedHTTP2(!cfg.HTTP1)
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		Protocols:       &protocols,
		TLSClientConfig: ownTLS(cfg.TLS),
		DialContext: (&net.Dialer{
			Timeout:   20 * time.Second,
			KeepAlive: 30 * time.Second,
		}).DialContext,
		TLSHandshakeTimeout: 20 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		// connect compresses messages, not bodies.
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			// The default of 1 MiB pins 512 KiB for each open request.
			MaxReadFrameSize: 256 << 10,
			// That of the connection is the default, 1 GiB: answers that nobody reads
			// would leave the others nothing of a small one.
			MaxReceiveBufferPerStream: 8 << 20,
			SendPingTimeout:           cmp.Or(cfg.PingInterval, 5*time.Second),
			PingTimeout:               cmp.Or(cfg.PingTimeout, 120*time.Second),
			WriteByteTimeout:          cmp.Or(cfg.PingTimeout, 120*time.Second),
		},
	}
	if cfg.HTTP1 {
		return &http.Client{Transport: http1Streams{transport}}
	}
	return &http.Client{Transport: transport}
}

// http1Streams makes connect take bidi streams over HTTP/1.1, as Middleware does
// on the other side.
type http1Streams struct{ *http.Transport }

func (t http1Streams) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(r)
	if err == nil && isStream(r.Header.Get("Content-Type")) {
		res.ProtoMajor, res.ProtoMinor = 2, 0
	}
	return res, err
}

// ClientOptions are connect's options for a protocol, and the project's
// compressors. Requests go out uncompressed unless connect.WithSendCompression
// is added.
func ClientOptions(p Protocol) ([]connect.ClientOption, error) {
	opts := codec.ClientOptions()
	switch p {
	case GRPC:
		opts = append(opts, connect.WithGRPC())
	case GRPCWeb:
		opts = append(opts, connect.WithGRPCWeb())
	case Connect:
	default:
		return nil, fmt.Errorf("unknown protocol %q: choose one of %v", p, Protocols)
	}
	return opts, nil
}

// ownTLS is a copy for one transport: net/http writes into the configuration that it
// is given, and into the array behind NextProtos, too.
func ownTLS(shared *tls.Config) *tls.Config {
	if shared == nil {
		return nil
	}
	own := shared.Clone()
	own.NextProtos = slices.Clone(own.NextProtos)
	return own
}
