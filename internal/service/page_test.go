package service

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// do makes a request over HTTP/1.1 and returns the response with its body read.
func (tp *testPod) do(t *testing.T, method, path, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(soon(t), method, tp.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: true})
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func TestPageIsServedBesideTheServices(t *testing.T) {
	tp := startPod(t, nil)
	for _, c := range []struct {
		method, path string
		code         int
		contains     string
	}{
		{"GET", "/", 200, "<title>aipod</title>"},
		{"GET", "/favicon.svg", 200, "<svg"},
		{"GET", "/nothing", 404, ""},
		{"POST", "/", 404, ""},
		{"POST", "/grpc.testing.TestService/EmptyCall", 404, ""}, // which RPC clients read as UNIMPLEMENTED
	} {
		res, body := tp.do(t, c.method, c.path, "", nil)
		if res.StatusCode != c.code || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s: %d %.80q, want %d and %q", c.method, c.path, res.StatusCode, body, c.code, c.contains)
		}
	}
}

func TestCORS(t *testing.T) {
	const listFunctions = "/aipod.v1.JobService/ListFunctions"
	type answer struct{ origin, credentials string }
	for name, c := range map[string]struct {
		origins []string
		origin  string
		want    answer
	}{
		"off":           {nil, "https://app.example", answer{}},
		"allowed":       {[]string{"https://app.example", "http://localhost:5173"}, "https://app.example", answer{"https://app.example", "true"}},
		"another":       {[]string{"https://app.example"}, "https://evil.example", answer{}},
		"other port":    {[]string{"http://localhost:5173"}, "http://localhost:5174", answer{}},
		"a subdomain":   {[]string{"https://*.example"}, "https://app.example", answer{"https://app.example", "true"}},
		"no subdomain":  {[]string{"https://*.example"}, "https://app.example.evil", answer{}},
		"all":           {[]string{"*"}, "https://any.example", answer{"*", ""}},
		"all and one":   {[]string{"https://app.example", "*"}, "https://app.example", answer{"*", ""}},
		"null's origin": {[]string{"https://app.example"}, "null", answer{}},
	} {
		t.Run(name, func(t *testing.T) {
			tp := startPod(t, func(cfg *Config) { cfg.CORSOrigins = c.origins })
			preflight, _ := tp.do(t, "OPTIONS", listFunctions, "", map[string]string{
				"Origin": c.origin, "Access-Control-Request-Method": "POST",
				"Access-Control-Request-Headers": "connect-protocol-version,connect-timeout-ms,content-encoding,content-type,x-job-id,x-upstream",
			})
			actual, body := tp.do(t, "POST", listFunctions, "{}", map[string]string{"Origin": c.origin, "Content-Type": "application/json"})
			if actual.StatusCode != 200 {
				t.Errorf("the call: %d %s", actual.StatusCode, body)
			}
			for what, res := range map[string]*http.Response{"preflight": preflight, "the call": actual} {
				got := answer{res.Header.Get("Access-Control-Allow-Origin"), res.Header.Get("Access-Control-Allow-Credentials")}
				if got != c.want {
					t.Errorf("%s: %+v, want %+v", what, got, c.want)
				}
			}
			allowed := preflight.Header.Get("Access-Control-Allow-Headers")
			if (allowed != "") != (c.want.origin != "") {
				t.Errorf("the headers %q are allowed", allowed)
			}
		})
	}
}

func TestCORSOriginsAreChecked(t *testing.T) {
	for _, origin := range []string{"app.example", "https://app.example/", "https://app.example/path", "https://", ""} {
		_, err := Open(Config{OpenModel: func(string) (worker.Model, error) { return newTestModel(), nil }, DataDir: t.TempDir(), CORSOrigins: []string{origin}})
		if err == nil || !strings.Contains(err.Error(), "CORS origin") {
			t.Errorf("%q: %v, want an error about the origin", origin, err)
		}
	}
}
