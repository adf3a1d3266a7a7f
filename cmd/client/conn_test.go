package main

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBaseURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:50051":         "http://127.0.0.1:50051",
		"pod.example":             "http://pod.example",
		"[::1]:80":                "http://[::1]:80",
		"http://x:1/":             "http://x:1",
		"https://x/grpc/":         "https://x/grpc",
		"":                        "",
		"ftp://x":                 "",
		"http://x:port":           "",
		"http://x/?query":         "",
		"http://":                 "",
		"127.0.0.1:50051#comment": "",
	} {
		got, err := baseURL(addr)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q makes %q (%v), want %q", addr, got, err, want)
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(openPod(t).Handler())
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(server.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	s := &session{addr: server.URL}
	for _, flag := range []string{"--insecure", "--ca=" + ca} {
		if got := s.run(t, "call", "sha256", "--generate", "2MiB", flag); got.stdout != digest(generate(t, "random", 2<<20)) {
			t.Errorf("%s: %+v", flag, got)
		}
		if got := s.run(t, "health", flag); got != (outcome{stdout: "SERVING\n"}) {
			t.Errorf("%s: %+v", flag, got)
		}
	}
	got := s.run(t, "health")
	if got.code != exitUnreachable || !strings.HasPrefix(got.stderr, "client: the certificate of "+server.URL+" is not trusted: ") ||
		!strings.HasSuffix(got.stderr, "; pass --ca FILE or --insecure\n") {
		t.Errorf("%+v", got)
	}
	if got := s.run(t, "health", "--ca", "conn_test.go"); got.code != exitUsage {
		t.Errorf("a file without certificates: %+v", got)
	}
	got = (&session{addr: strings.Replace(podAddr, "http:", "https:", 1)}).run(t, "health")
	if got.code != exitUnreachable || !strings.HasSuffix(got.stderr, " does not speak TLS; try http:// in --addr\n") {
		t.Errorf("https to a plain pod: %+v", got)
	}
}

func TestNotAPod(t *testing.T) {
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the upstream is gone", http.StatusBadGateway)
	}))
	for _, args := range [][]string{{"call", "hello", "--legacy"}, {"functions"}, {"health"}, {"jobs", "ls"}, {"jobs", "rm", "j"}} {
		got := (&session{addr: addr}).run(t, args...)
		got.stderr = strings.TrimPrefix(got.stderr, "client: still trying: HTTP status 502 Bad Gateway\n")
		if got.code != exitUnreachable || got.stderr != "client: no usable answer from "+addr+": HTTP status 502 Bad Gateway; check --addr and --protocol\n" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}
