package worker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
)

// serveUpstream starts a server, and gives its URL.
func serveUpstream(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

// serveRaw starts a server that is no HTTP server: handle gets each connection,
// and closes it.
func serveRaw(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { handle(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// loadUpstream makes an instance of a model with the functions predict and echo.
func loadUpstream(t *testing.T, url string) (*Upstream, Instance) {
	t.Helper()
	m, err := OpenUpstream(UpstreamConfig{URL: url, Functions: []string{"predict", "echo"}})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := m.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(inst.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return m, inst
}

// randomPayload makes a payload and its SHA-256.
func randomPayload(t *testing.T, size int64) (*spool.Blob, []byte) {
	t.Helper()
	s, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(0)
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, sum), rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	blob, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blob.Remove(); err != nil {
			t.Error(err)
		}
	})
	return blob, sum.Sum(nil)
}

// An upstreamOutput is the output of a call. It keeps no more than the sum.
type upstreamOutput struct {
	opened int
	size   int64
	sum    hash.Hash
	wrote  func(p []byte) error // if not nil, is told each piece
}

// upstreamCall makes a call of predict.
func upstreamCall(input *spool.Blob) (*Call, *upstreamOutput) {
	out := &upstreamOutput{sum: sha256.New()}
	c := &Call{JobID: "j", Func: "predict", Kwargs: json.RawMessage("{}"), Input: input, Attempt: 1}
	c.OpenOutput = func() (io.Writer, error) {
		out.opened++
		return out, nil
	}
	return c, out
}

func (o *upstreamOutput) Write(p []byte) (int, error) {
	if o.wrote != nil {
		if err := o.wrote(p); err != nil {
			return 0, err
		}
	}
	o.size += int64(len(p))
	return o.sum.Write(p)
}

func TestUpstreamConfig(t *testing.T) {
	tests := map[string]struct {
		cfg  UpstreamConfig
		want string // in the error; empty is none
	}{
		"IPv4":               {UpstreamConfig{URL: "http://127.0.0.1:8000"}, ""},
		"other IPv4":         {UpstreamConfig{URL: "http://127.1.2.3:8000/models/"}, ""},
		"IPv6":               {UpstreamConfig{URL: "http://[::1]:8000"}, ""},
		"name":               {UpstreamConfig{URL: "https://localhost"}, ""},
		"allowed":            {UpstreamConfig{URL: "https://gpu.example:8443", Allow: []string{"other", "gpu.example"}}, ""},
		"name in capitals":   {UpstreamConfig{URL: "http://LOCALHOST"}, ""},
		"allowed port":       {UpstreamConfig{URL: "http://gpu.example:8000", Allow: []string{"GPU.example:8000"}}, ""},
		"allowed default":    {UpstreamConfig{URL: "https://gpu.example", Allow: []string{"gpu.example:443"}}, ""},
		"allowed IPv6":       {UpstreamConfig{URL: "http://[2001:db8::1]", Allow: []string{"[2001:db8::1]:80"}}, ""},
		"other port":         {UpstreamConfig{URL: "http://gpu.example", Allow: []string{"gpu.example:443"}}, "--upstream-allow gpu.example"},
		"none":               {UpstreamConfig{}, "give a URL"},
		"no scheme":          {UpstreamConfig{URL: "localhost:8000"}, "give a URL"},
		"other scheme":       {UpstreamConfig{URL: "ftp://localhost"}, "give a URL"},
		"no URL":             {UpstreamConfig{URL: "http://[::1"}, "upstream"},
		"user":               {UpstreamConfig{URL: "http://ada:secret@localhost"}, "without user"},
		"query":              {UpstreamConfig{URL: "http://localhost?key=secret"}, "without user"},
		"other machine":      {UpstreamConfig{URL: "http://192.0.2.1"}, "--upstream-allow 192.0.2.1"},
		"other name":         {UpstreamConfig{URL: "http://gpu.example:8000"}, "--upstream-allow gpu.example"},
		"looks like":         {UpstreamConfig{URL: "http://localhost.example"}, "--upstream-allow localhost.example"},
		"looks like IPv4":    {UpstreamConfig{URL: "http://127.0.0.1.example"}, "--upstream-allow 127.0.0.1.example"},
		"unspecified":        {UpstreamConfig{URL: "http://0.0.0.0:8000"}, "--upstream-allow 0.0.0.0"},
		"another is allowed": {UpstreamConfig{URL: "http://gpu.example", Allow: []string{"example", "gpu"}}, "--upstream-allow gpu.example"},
		"function":           {UpstreamConfig{URL: "http://localhost", Functions: []string{"a/b"}}, "can't be the name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := OpenUpstream(test.cfg)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "ada:secret") {
				t.Errorf("%v shows the password", err)
			}
			if (m == nil) != (err != nil) {
				t.Errorf("got %v and the error %v", m, err)
			}
		})
	}
}

func TestUpstreamDescribe(t *testing.T) {
	m, err := OpenUpstream(UpstreamConfig{URL: "http://127.0.0.1:8000/v1"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.Describe(), Description{
		Model: "127.0.0.1:8000", Functions: []Function{{Name: "predict", Doc: "POST http://127.0.0.1:8000/v1/predict"}},
	}); diff != "" {
		t.Error(diff)
	}
}

// TestUpstreamProxy has a proxy in the environment, which is not used, even for
// hosts that are not this machine. It is the first test that calls: net/http reads
// the environment once.
func TestUpstreamProxy(t *testing.T) {
	proxy := serveUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("the proxy was called") })
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("http_proxy", proxy)
	there, err := url.Parse(serveUpstream(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenUpstream(UpstreamConfig{URL: "http://0.0.0.0:" + there.Port(), Allow: []string{"0.0.0.0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	inst, err := m.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	call, _ := upstreamCall(nil)
	if value, err := inst.Call(t.Context(), call); err != nil || string(value) != "null" {
		t.Errorf("%s, %v", value, err)
	}
}

// TestUpstreamElsewhere has a name of this machine lead to another one.
func TestUpstreamElsewhere(t *testing.T) {
	url := serveUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("it was called") })
	m, inst := loadUpstream(t, url)
	m.base.Host = strings.Replace(m.base.Host, "127.0.0.1", "0.0.0.0", 1) // which leads here, but who knows
	call, _ := upstreamCall(nil)
	var crash *CrashError
	if _, err := inst.Call(t.Context(), call); err == nil || errors.As(err, &crash) || !strings.Contains(err.Error(), "--upstream-allow 0.0.0.0") {
		t.Errorf("got %v", err)
	}
	for address, ok := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true,
		"0.0.0.0:80": false, "10.0.0.1:80": false, "169.254.169.254:80": false, "[fe80::1%lo]:80": false, "[::]:80": false, "nonsense": false,
	} {
		if err := m.control(t.Context(), "tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestUpstreamRequest(t *testing.T) {
	type request struct {
		Method, Path, Query string
		Length              int64
		Header              map[string]string
		Sum                 []byte
	}
	got := make(chan request, 1)
	url := serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			t.Error(err)
		}
		header := map[string]string{}
		for key, values := range r.Header {
			if key != "User-Agent" {
				header[key] = strings.Join(values, "|")
			}
		}
		got <- request{r.Method, r.URL.Path, r.URL.RawQuery, r.ContentLength, header, sum.Sum(nil)}
		w.WriteHeader(http.StatusNoContent)
	})
	const kwargs = `{"b": true,"n":1e3,"big":12345678901234567890,"s":"a&b=é\n","del":"` + "\x7f" + `","none":null,` + "\n" + `"list":[1,"世界"],"object":{"🚀":"\u0000"}}`
	empty := sha256.Sum256(nil)
	input, sum := randomPayload(t, 3<<20)
	none, _ := randomPayload(t, 0)
	base := map[string]string{"Content-Type": "application/octet-stream", "Aipod-Job-Id": "j", "Aipod-Attempt": "1", "Aipod-Kwargs": "{}"}
	header := func(more ...string) map[string]string {
		h := map[string]string{"Content-Length": "0"}
		for key, value := range base {
			h[key] = value
		}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	tests := map[string]struct {
		change func(*Call)
		want   request
	}{
		"nothing": {func(*Call) {}, request{Header: header()}},
		"empty":   {func(c *Call) { c.Input, c.Kwargs = none, nil }, request{Header: header()}},
		"payload": {
			func(c *Call) { c.Input = input },
			request{Length: 3 << 20, Sum: sum, Header: header("Content-Length", "3145728")},
		},
		"function": {func(c *Call) { c.Func = "echo" }, request{Path: "/v1/echo", Header: header()}},
		"version": {
			func(c *Call) { c.Version, c.JobID, c.Attempt = "2026-01", "job_1", 3 },
			request{Header: header("Aipod-Version", "2026-01", "Aipod-Job-Id", "job_1", "Aipod-Attempt", "3")},
		},
		"kwargs": {
			func(c *Call) { c.Kwargs = json.RawMessage(kwargs) },
			request{
				Query: "b=true&big=12345678901234567890&del=%7F&n=1e3&s=a%26b%3D%C3%A9%0A",
				Header: header("Aipod-Kwargs", `{"b":true,"n":1e3,"big":12345678901234567890,"s":"a&b=\u00e9\n","del":"\u007f","none":null,`+
					`"list":[1,"\u4e16\u754c"],"object":{"\ud83d\ude80":"\u0000"}}`),
			},
		},
		"metadata": {
			func(c *Call) {
				c.Metadata = map[string]string{
					"x-user": "ada", "x-team": "é", "authorization": "secret", "cookie": "secret", "host": "other", "aipod-job-id": "other",
					"x-upstream": "a", "x-job-id": "b", "x-heartbeat": "c", "x-func-name": "d", "x-bad name": "e", "x-bad-value": "a\nb: c", "x-": "g",
				}
			},
			request{Header: header("X-User", "ada", "X-Team", "é", "X-", "g")},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, inst := loadUpstream(t, url+"/v1/")
			call, _ := upstreamCall(nil)
			test.change(call)
			if value, err := inst.Call(t.Context(), call); err != nil || string(value) != "null" {
				t.Fatalf("%s, %v", value, err)
			}
			want := test.want
			want.Method = http.MethodPost
			if want.Path == "" {
				want.Path = "/v1/predict"
			}
			if want.Sum == nil {
				want.Sum = empty[:]
			}
			request := <-got
			// How white space between values is written is nobody's business.
			sent := []byte(request.Header["Aipod-Kwargs"])
			var compact bytes.Buffer
			if err := json.Compact(&compact, sent); err != nil {
				t.Errorf("%v: %s", err, sent)
			}
			request.Header["Aipod-Kwargs"] = compact.String()
			if diff := cmp.Diff(request, want); diff != "" {
				t.Error(diff)
			}
			if call.Kwargs != nil {
				if same, err := sameValue(sent, call.Kwargs); err != nil || !same {
					t.Errorf("%s are other kwargs than %s: %v", sent, call.Kwargs, err)
				}
			}
		})
	}
}

func TestUpstreamRequestRefused(t *testing.T) {
	_, inst := loadUpstream(t, serveUpstream(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for name, test := range map[string]struct {
		change func(*Call)
		want   string // in the *InputError; empty is none
	}{
		"kwargs that fit":       {func(c *Call) { c.Kwargs = json.RawMessage(`{"k":"` + strings.Repeat("x", 8<<10-8) + `"}`) }, ""},
		"kwargs too large":      {func(c *Call) { c.Kwargs = json.RawMessage(`{"k":"` + strings.Repeat("x", 8<<10-7) + `"}`) }, "8193 bytes"},
		"kwargs too large once": {func(c *Call) { c.Kwargs = json.RawMessage(`{"k":["` + strings.Repeat("世", 2000) + `"]}`) }, "send them as the payload"},
		"kwargs that are none":  {func(c *Call) { c.Kwargs = json.RawMessage(`[1]`) }, "kwargs"},
		"version":               {func(c *Call) { c.Version = "a\r\nHost: b" }, "version"},
	} {
		t.Run(name, func(t *testing.T) {
			call, _ := upstreamCall(nil)
			test.change(call)
			_, err := inst.Call(t.Context(), call)
			var input *InputError
			if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &input) || !strings.Contains(input.Reason, test.want)) {
				t.Errorf("got %T %v, want %q", err, err, test.want)
			}
		})
	}
}

func TestUpstreamPayloadGone(t *testing.T) {
	_, inst := loadUpstream(t, serveUpstream(t, func(http.ResponseWriter, *http.Request) {}))
	input, _ := randomPayload(t, 100)
	if err := input.Remove(); err != nil {
		t.Fatal(err)
	}
	call, _ := upstreamCall(input)
	_, err := inst.Call(t.Context(), call)
	var crash *CrashError
	if err == nil || errors.As(err, &crash) {
		t.Errorf("got %v: the upstream is not to blame", err)
	}
}

// TestUpstreamPayloadUnreadable has a payload that can't be read though it could
// be opened.
func TestUpstreamPayloadUnreadable(t *testing.T) {
	_, inst := loadUpstream(t, serveUpstream(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	input, _ := randomPayload(t, 100)
	path, err := input.Path()
	if err == nil {
		err = errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	call, _ := upstreamCall(input)
	_, err = inst.Call(t.Context(), call)
	var crash *CrashError
	if err == nil || errors.As(err, &crash) || !strings.Contains(err.Error(), "read payload") {
		t.Errorf("got %v: the upstream is not to blame", err)
	}
}

func TestUpstreamResult(t *testing.T) {
	large := `"` + strings.Repeat("x", 1<<20-2) + `"` // 1 MiB
	tests := map[string]struct {
		contentType, body string
		status            int  // default 200
		chunked           bool // the length is not told before
		value             string
		output            string
		err               string // *FailedError
	}{
		"JSON":              {contentType: "application/json", body: `{"a":[1,"é"]}`, value: `{"a":[1,"é"]}`},
		"JSON, chunked":     {contentType: "application/json; charset=utf-8", body: `7`, chunked: true, value: `7`},
		"JSON of a kind":    {contentType: "application/problem+json", body: `null`, value: `null`},
		"created":           {contentType: "application/json", status: http.StatusCreated, body: `"made"`, value: `"made"`},
		"no content":        {status: http.StatusNoContent, value: `null`},
		"no JSON":           {contentType: "application/json", body: `<html>`, err: `application/json`},
		"empty JSON":        {contentType: "application/json", err: `application/json`},
		"half JSON":         {contentType: "application/json", body: `{"a":`, err: `{\"a\":`},
		"JSON of 1 MiB":     {contentType: "application/json", body: large, value: large},
		"1 MiB, chunked":    {contentType: "application/json", body: large, chunked: true, value: large},
		"more than 1 MiB":   {contentType: "application/json", body: large + "\n", output: large + "\n"},
		"more, chunked":     {contentType: "application/json", body: large + large, chunked: true, output: large + large},
		"text":              {contentType: "text/plain", body: "hello", output: "hello"},
		"lines of JSON":     {contentType: "application/x-ndjson", body: "1\n2\n", output: "1\n2\n"},
		"bytes":             {contentType: "application/octet-stream", body: "\x00\xff", chunked: true, output: "\x00\xff"},
		"a nonsensical one": {contentType: "; ;", body: "x", output: "x"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			url := serveUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.contentType)
				if test.status != 0 {
					w.WriteHeader(test.status)
				}
				if test.chunked {
					_ = http.NewResponseController(w).Flush()
				}
				_, _ = io.WriteString(w, test.body)
			})
			_, inst := loadUpstream(t, url)
			call, out := upstreamCall(nil)
			value, err := inst.Call(t.Context(), call)
			var failure *FailedError
			if test.err == "" && err != nil || test.err != "" && (!errors.As(err, &failure) || !strings.Contains(failure.Reason, test.err)) {
				t.Fatalf("got %T %.200v, want %q", err, err, test.err)
			}
			if string(value) != test.value {
				t.Errorf("result of %d bytes, want %d: %.100s", len(value), len(test.value), value)
			}
			opened := 0
			if test.output != "" {
				opened = 1
			}
			if want := sha256.Sum256([]byte(test.output)); out.opened != opened || !bytes.Equal(out.sum.Sum(nil), want[:]) {
				t.Errorf("output of %d bytes, opened %d times, want %d", out.size, out.opened, len(test.output))
			}
		})
	}
}

// TestUpstreamEmptyOutput: no bytes are an output, too.
func TestUpstreamEmptyOutput(t *testing.T) {
	_, inst := loadUpstream(t, serveUpstream(t, func(http.ResponseWriter, *http.Request) {}))
	call, out := upstreamCall(nil)
	if value, err := inst.Call(t.Context(), call); err != nil || value != nil || out.opened != 1 || out.size != 0 {
		t.Errorf("%s, %v, output of %d bytes, opened %d times", value, err, out.size, out.opened)
	}
}

func TestUpstreamRefuses(t *testing.T) {
	tests := []struct {
		status int
		body   string
		want   error // without where the server is
	}{
		{300, "", &FailedError{Func: "predict", Reason: `the upstream redirects (300 Multiple Choices) to "", which is not followed: give that as --upstream`}},
		{400, "column x is missing\n", &InputError{Reason: "400 Bad Request: column x is missing"}},
		{401, "", &InputError{Reason: "401 Unauthorized"}},
		{404, "", &FunctionError{Func: "predict"}},
		{405, "x", &FunctionError{Func: "predict"}},
		{409, `{"error":"it exists"}`, &InputError{Reason: "409 Conflict: it exists"}},
		{411, "", &InputError{Reason: "411 Length Required"}},
		{413, `{"detail":"1 MiB at most"}`, &InputError{Reason: "413 Request Entity Too Large: 1 MiB at most"}},
		{415, `{"message":"give a JPEG"}`, &InputError{Reason: "415 Unsupported Media Type: give a JPEG"}},
		{416, `"text"`, &InputError{Reason: `416 Requested Range Not Satisfiable: "text"`}},
		{422, `{"detail":[{"loc":["k"]}]}`, &InputError{Reason: `422 Unprocessable Entity: {"detail":[{"loc":["k"]}]}`}},
		{429, `{"error":"later","message":"x"}`, &ResourceError{Reason: "429 Too Many Requests: later"}},
		{418, "", &InputError{Reason: "418 I'm a teapot"}},
		{500, "caf\xe9 \xe4", &FailedError{Func: "predict", Reason: "500 Internal Server Error: caf\uFFFD \uFFFD"}},
		{501, "", &FunctionError{Func: "predict"}},
		{502, "", &CrashError{How: "502 Bad Gateway"}},
		{503, `{"error":"it loads"}`, &CrashError{How: "503 Service Unavailable: it loads"}},
		{504, "", &CrashError{How: "504 Gateway Timeout"}},
		{507, "no disk", &ResourceError{Reason: "507 Insufficient Storage: no disk"}},
		{508, "around", &FailedError{Func: "predict", Reason: "508 Loop Detected: around"}},
		{500, strings.Repeat("x", 1<<20), &FailedError{Func: "predict", Reason: "500 Internal Server Error: " + strings.Repeat("x", 4<<10)}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			at := serveUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			_, inst := loadUpstream(t, at)
			call, out := upstreamCall(nil)
			value, err := inst.Call(t.Context(), call)
			var function *FunctionError
			if errors.As(test.want, &function) {
				function.Model = strings.TrimPrefix(at, "http://")
			}
			var crash *CrashError
			if errors.As(test.want, &crash) {
				crash.What = "the upstream " + at
			}
			if diff := cmp.Diff(err, test.want); diff != "" {
				t.Error(diff)
			}
			if value != nil || out.opened != 0 {
				t.Errorf("%s, output opened %d times", value, out.opened)
			}
		})
	}
}

func TestUpstreamRedirects(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			other := serveUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
			_, inst := loadUpstream(t, serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, other+"/there", status)
			}))
			input, _ := randomPayload(t, 1000)
			call, _ := upstreamCall(input)
			_, err := inst.Call(t.Context(), call)
			var failure *FailedError
			if !errors.As(err, &failure) || !strings.Contains(failure.Reason, other+"/there") || !strings.Contains(failure.Reason, "not followed") {
				t.Errorf("got %T %v", err, err)
			}
		})
	}
}

// TestUpstreamOutputStreams has the server wait until the first byte of its
// answer has arrived.
func TestUpstreamOutputStreams(t *testing.T) {
	first := make(chan struct{})
	url := serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "1")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-first:
			_, _ = io.WriteString(w, "2")
		case <-r.Context().Done():
			t.Error("the first byte did not arrive")
		}
	})
	_, inst := loadUpstream(t, url)
	call, out := upstreamCall(nil)
	var pieces []string
	out.wrote = func(p []byte) error {
		pieces = append(pieces, string(p))
		if len(pieces) == 1 {
			close(first)
		}
		return nil
	}
	if value, err := inst.Call(t.Context(), call); err != nil || value != nil {
		t.Fatalf("%s, %v", value, err)
	}
	if diff := cmp.Diff(pieces, []string{"1", "2"}); diff != "" {
		t.Error(diff)
	}
}

// TestUpstreamEcho streams both ways at once, with little memory.
func TestUpstreamEcho(t *testing.T) {
	const size = 64 << 20
	url := serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, 64<<10)); err != nil {
			t.Error(err)
		}
	})
	_, inst := loadUpstream(t, url)
	input, sum := randomPayload(t, size)
	call, out := upstreamCall(input)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	value, err := inst.Call(t.Context(), call)
	runtime.ReadMemStats(&after)
	if err != nil || value != nil || out.size != size || !bytes.Equal(out.sum.Sum(nil), sum) {
		t.Errorf("%s, %v: %d bytes", value, err, out.size)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes of memory for a payload of %d", used, size)
	}
}

// TestUpstreamAnswersEarly has servers that do not read all of the payload.
func TestUpstreamAnswersEarly(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"well": http.StatusOK, "refuses": http.StatusRequestEntityTooLarge} {
		t.Run(name, func(t *testing.T) {
			_, inst := loadUpstream(t, serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadFull(r.Body, make([]byte, 1000)); err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `{"error":"enough"}`)
			}))
			input, _ := randomPayload(t, 32<<20)
			call, _ := upstreamCall(input)
			value, err := inst.Call(t.Context(), call)
			if status == http.StatusOK {
				if err != nil || string(value) != `{"error":"enough"}` {
					t.Errorf("%s, %v", value, err)
				}
				return
			}
			if diff := cmp.Diff(err, error(&InputError{Reason: "413 Request Entity Too Large: enough"})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// readers is how often this process has a file open, as far as the system tells.
func readers(path string) (n int) {
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && target == path {
			n++
		}
	}
	return n
}

// TestUpstreamHangsUp has a server that answers, and closes the connection
// without having read the payload, which resets it.
func TestUpstreamHangsUp(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"well":    "200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n\"enough\"",
		"refuses": "413 Too Large\r\nContent-Length: 6\r\n\r\nenough",
	} {
		t.Run(name, func(t *testing.T) {
			_, inst := loadUpstream(t, serveRaw(t, func(conn *net.TCPConn) {
				defer func() { _ = conn.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 "+answer)
			}))
			input, _ := randomPayload(t, 8<<20)
			path, err := input.Path()
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				call, _ := upstreamCall(input)
				got, err := inst.Call(t.Context(), call)
				if n := readers(path); n > 0 {
					t.Fatalf("the payload is open %d times after the call", n)
				}
				if name == "well" && (err != nil || string(got) != `"enough"`) {
					t.Fatalf("%s, %v", got, err)
				}
				if name == "refuses" {
					if diff := cmp.Diff(err, error(&InputError{Reason: "413 Too Large: enough"})); diff != "" {
						t.Fatal(diff)
					}
				}
			}
		})
	}
}

func TestUpstreamCanceled(t *testing.T) {
	errGone := errors.New("gone")
	for name, answer := range map[string]func(w http.ResponseWriter){
		"before the answer": func(http.ResponseWriter) {},
		"in the answer":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, "1") },
		"in JSON": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "[1,")
		},
		"in an error": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "because")
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			ended := make(chan struct{})
			_, inst := loadUpstream(t, serveUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if name != "before the answer" {
					answer(w)
					_ = http.NewResponseController(w).Flush()
				}
				cancel(errGone)
				<-r.Context().Done() // or the test hangs
				close(ended)
			}))
			input, _ := randomPayload(t, 1<<20)
			call, _ := upstreamCall(input)
			if value, err := inst.Call(ctx, call); !errors.Is(err, errGone) {
				t.Errorf("%s, %v", value, err)
			}
			<-ended
		})
	}
}

// TestUpstreamCanceledAsItReads has a server that has not got all of the payload.
func TestUpstreamCanceledAsItReads(t *testing.T) {
	t.Parallel()
	errGone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	returned, ended := make(chan struct{}), make(chan error, 1)
	_, inst := loadUpstream(t, serveUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadFull(r.Body, make([]byte, 1000))
		cancel(errGone)
		<-returned
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		ended <- err
	}))
	input, _ := randomPayload(t, 32<<20)
	call, _ := upstreamCall(input)
	if value, err := inst.Call(ctx, call); !errors.Is(err, errGone) {
		t.Errorf("%s, %v", value, err)
	}
	close(returned)
	if err := <-ended; err == nil {
		t.Error("the server got all of the payload")
	}
}

func TestUpstreamEndsEarly(t *testing.T) {
	for name, answer := range map[string]string{
		"length":     "Content-Length: 100\r\n\r\n1",
		"chunks":     "Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n",
		"in a chunk": "Transfer-Encoding: chunked\r\n\r\nff\r\n1",
		"JSON":       "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n1",
		"header":     "Content-Len",
	} {
		t.Run(name, func(t *testing.T) {
			url := serveRaw(t, func(conn *net.TCPConn) {
				defer func() { _ = conn.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+answer)
			})
			_, inst := loadUpstream(t, url)
			call, out := upstreamCall(nil)
			value, err := inst.Call(t.Context(), call)
			var crash *CrashError
			if !errors.As(err, &crash) || crash.What != "the upstream "+url || crash.How == "" {
				t.Errorf("%s, %T %v", value, err, err)
			}
			if out.size > 1 {
				t.Errorf("output of %d bytes", out.size)
			}
		})
	}
}

func TestUpstreamIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + l.Addr().String()
	if err := l.Close(); err != nil { // nobody takes the port in so short a time
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		url, want string
	}{
		"refused": {refused, "connection refused"},
		"reset": {serveRaw(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}), "connection reset by peer"},
		"closed": {serveRaw(t, func(conn *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_ = conn.Close()
		}), "EOF"},
		"no HTTP": {serveRaw(t, func(conn *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
			_ = conn.Close()
		}), "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			_, inst := loadUpstream(t, test.url)
			call, _ := upstreamCall(nil)
			value, err := inst.Call(t.Context(), call)
			var crash *CrashError
			if !errors.As(err, &crash) || crash.What != "the upstream "+test.url || !strings.Contains(crash.How, test.want) {
				t.Errorf("%s, %T %v, want %q", value, err, err, test.want)
			}
		})
	}
}

func TestUpstreamOutputRefused(t *testing.T) {
	ended := make(chan struct{}, 2)
	_, inst := loadUpstream(t, serveUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				ended <- struct{}{}
				return
			}
		}
	}))
	full := &spool.LimitError{Limit: 1}
	call, out := upstreamCall(nil)
	out.wrote = func([]byte) error { return full }
	if _, err := inst.Call(t.Context(), call); !errors.Is(err, full) {
		t.Errorf("write: got %v", err)
	}
	<-ended // though it would have gone on for ever
	call, _ = upstreamCall(nil)
	call.OpenOutput = func() (io.Writer, error) { return nil, full }
	if _, err := inst.Call(t.Context(), call); !errors.Is(err, full) {
		t.Errorf("open: got %v", err)
	}
	<-ended
}

func TestUpstreamConnections(t *testing.T) {
	var mu sync.Mutex
	opened, closed := 0, make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Query().Get("answer") {
		case "json":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "[]")
		case "output":
			_, _ = w.Write(make([]byte, 1<<20))
		case "error":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "no")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			opened++
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	m, inst := loadUpstream(t, s.URL)
	if inst.Done() != nil {
		t.Error("the instance can die")
	}
	other, err := m.Load(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	input, _ := randomPayload(t, 1<<20)
	for _, answer := range []string{"json", "output", "error", "none", "json"} {
		for _, inst := range []Instance{inst, other} {
			call, _ := upstreamCall(input)
			call.Kwargs = json.RawMessage(`{"answer":"` + answer + `"}`)
			if _, err := inst.Call(t.Context(), call); err != nil && answer != "error" {
				t.Fatal(err)
			}
		}
	}
	mu.Lock()
	if opened != 1 {
		t.Errorf("%d connections for one call at a time", opened)
	}
	mu.Unlock()
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	<-closed
}

func TestUpstreamTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(w, r.Body)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // a handshake fails
	t.Cleanup(s.Close)
	m, inst := loadUpstream(t, s.URL)
	input, sum := randomPayload(t, 100<<10)
	call, out := upstreamCall(input)
	var crash *CrashError
	if _, err := inst.Call(t.Context(), call); !errors.As(err, &crash) || !strings.Contains(crash.How, "certificate") {
		t.Errorf("got %v", err)
	}
	m.transport.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	if _, err := inst.Call(t.Context(), call); err != nil || !bytes.Equal(out.sum.Sum(nil), sum) {
		t.Errorf("%d bytes: %v", out.size, err)
	}
}
