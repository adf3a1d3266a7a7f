package service

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

// A page is an answer over HTTP/1.1.
type page struct {
	code   int
	header http.Header
	body   string
}

// do makes a request over HTTP/1.1.
func (tp *testPod) do(t *testing.T, method, path, body string, header map[string]string) page {
	t.Helper()
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: true})
	defer client.CloseIdleConnections()
	return tp.doBy(t, client, method, path, body, header)
}

func (tp *testPod) doBy(t *testing.T, client *http.Client, method, path, body string, header map[string]string) page {
	t.Helper()
	req, err := http.NewRequestWithContext(soon(t), method, tp.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{res.StatusCode, res.Header, string(text)}
}

func TestPageIsServedBesideTheServices(t *testing.T) {
	tp := startPod(t, nil)
	for _, c := range []struct {
		method, path string
		code         int
		contains     string
	}{
		{"GET", "/", http.StatusOK, "<title>aipod</title>"},
		{"GET", "/favicon.svg", http.StatusOK, "<svg"},
		{"GET", "/nothing", http.StatusNotFound, ""},
		{"POST", "/", http.StatusNotFound, ""},
		{"POST", "/grpc.testing.TestService/EmptyCall", http.StatusNotFound, ""}, // which RPC clients read as UNIMPLEMENTED
	} {
		got := tp.do(t, c.method, c.path, "", nil)
		if got.code != c.code || !strings.Contains(got.body, c.contains) {
			t.Errorf("%s %s: %d %.80q, want %d and %q", c.method, c.path, got.code, got.body, c.code, c.contains)
		}
		if h2 := tp.doBy(t, tp.http, c.method, c.path, "", nil); h2.code != got.code || h2.body != got.body {
			t.Errorf("%s %s over HTTP/2: %d %.80q, and %d %.80q over HTTP/1.1", c.method, c.path, h2.code, h2.body, got.code, got.body)
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
			preflight := tp.do(t, "OPTIONS", listFunctions, "", map[string]string{
				"Origin": c.origin, "Access-Control-Request-Method": "POST",
				"Access-Control-Request-Headers": "connect-protocol-version,connect-timeout-ms,content-encoding,content-type,x-job-id,x-upstream",
			})
			actual := tp.do(t, "POST", listFunctions, "{}", map[string]string{"Origin": c.origin, "Content-Type": "application/json"})
			if actual.code != http.StatusOK {
				t.Errorf("the call: %d %s", actual.code, actual.body)
			}
			for what, res := range map[string]page{"preflight": preflight, "the call": actual} {
				got := answer{res.header.Get("Access-Control-Allow-Origin"), res.header.Get("Access-Control-Allow-Credentials")}
				if got != c.want {
					t.Errorf("%s: %+v, want %+v", what, got, c.want)
				}
			}
			allowed := preflight.header.Get("Access-Control-Allow-Headers")
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
