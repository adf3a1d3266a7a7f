//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned makes a certificate for 127.0.0.1 and its key, as PEM files.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "aipod test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = writeFile(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = writeFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	return cert, key
}

func TestTLS(t *testing.T) {
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	cert, key := selfSigned(t)
	p := startPod(t, "--tls-cert", cert, "--tls-key", key)
	url := "https://" + p.addr
	payload := randomBytes(5 * mib)
	file := writeFile(t, "payload", payload)
	for _, protocol := range []string{"grpc", "grpcweb", "connect"} {
		out, err := run(t, 20*time.Second, client, "call", "sha256", "-f", file, "--addr", url, "--ca", cert, "--protocol", protocol)
		if err != nil {
			t.Errorf("%s: %v", protocol, err)
			continue
		}
		expectDigest(t, []byte(out), digestOf(payload))
	}
	if out, err := run(t, 20*time.Second, client, "health", "--addr", url, "--insecure"); err != nil || !strings.Contains(out, "SERVING") {
		t.Errorf("health: %s, %v", out, err)
	}
	// HTTP/1.1, as a prober may speak it.
	out, err := run(t, 20*time.Second, tool(t, "curl"), "-sS", "--http1.1", "--cacert", cert, "-H", "content-type: application/json",
		"-d", "{}", url+"/grpc.health.v1.Health/Check")
	if err != nil || !strings.Contains(out, "SERVING") {
		t.Errorf("curl: %s, %v", out, err)
	}
	if _, err := run(t, 60*time.Second, client, "health", "--addr", url); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

func TestServerSaysWhatIsWrong(t *testing.T) {
	cert, key := selfSigned(t)
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--tls-cert", cert}, 1, "give both files"},
		{[]string{"--tls-cert", key, "--tls-key", cert}, 1, "tls"},
		{[]string{"--listen", "nowhere"}, 1, "listen on nowhere"},
		{[]string{"--model", "none"}, 2, "the built-in one is tabular"},
		{[]string{"--heartbeat", "1ms"}, 1, "200ms to 30s"},
		{[]string{"--max-message", "many"}, 2, "64MiB"},
		{[]string{"--log-level", "loud"}, 2, "debug, info, warn or error"},
		{[]string{"extra"}, 2, "a worker's command comes after --"},
		{[]string{"--exec"}, 2, "put it after --"},
		{[]string{"--upstream", "http://127.0.0.1:1", "--", "cat"}, 2, "give no command"},
		{[]string{"--upstream", "http://192.0.2.1"}, 1, "--upstream-allow 192.0.2.1"},
		{[]string{"--func", "x"}, 2, "--exec and --upstream"},
		{[]string{"--model", "tabular", "--", "cat"}, 2, "the built-in model"},
		{[]string{"--exec", "--", "no-such-program"}, 1, "no-such-program"},
		{[]string{"--", "no-such-program"}, 1, "no-such-program"},
		{[]string{"--", "sh", "-c", "echo no weights >&2; exit 3"}, 1, "exit status 3; the end of its standard error:\\nno weights"},
		{[]string{"--worker-config", "[]", "--", "cat"}, 1, "not a JSON object"},
		{[]string{"--worker-start-timeout", "100ms", "--", "sleep", "60"}, 1, "did not answer initialize within 100ms"},
	} {
		args := append([]string{"--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0"}, test.args...)
		out, err := exec.Command(serverBinary, args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != test.code || !strings.Contains(string(out), test.want) {
			t.Errorf("server %v: %v, %s; want exit %d and %q", test.args, err, out, test.code, test.want)
		}
	}
}
