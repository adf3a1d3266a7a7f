package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
)

// quick is a run that takes some seconds.
func quick(url string) Config {
	return Config{URL: url, Silence: 1200 * time.Millisecond, Max: 1500 * time.Millisecond, Upload: 1 << 20, patience: 800 * time.Millisecond, requests: 60}
}

func examine(t *testing.T, cfg Config) []Finding {
	t.Helper()
	found, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// all returns the findings of a kind and a level.
func all(found []Finding, level Level, kind Kind) []Finding {
	var some []Finding
	for _, f := range found {
		if f.Level == level && f.Kind == kind {
			some = append(some, f)
		}
	}
	return some
}

func expectNoJobs(t *testing.T, pod string) {
	t.Helper()
	res, err := aipodv1connect.NewJobServiceClient(http.DefaultClient, pod).ListJobs(t.Context(), connect.NewRequest(&aipodv1.ListJobsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Msg.GetJobs()) > 0 {
		t.Errorf("jobs are left behind: %v", res.Msg.GetJobs())
	}
}

func TestPodItselfHasNoProblems(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	found := examine(t, quick(pod))
	for _, f := range found {
		if f.Level != OK && f.Kind != RTT { // which depends on what else the machine does
			t.Errorf("%+v", f)
		}
	}
	for _, kind := range []Kind{
		Protocols, Sticky, IdleTimeout, UploadIdleTimeout, TimeLimit, UploadTimeLimit, RequestBuffering, ResponseBuffering, HalfDuplex,
		MessageLimit, UploadLimit, RTT,
	} {
		for _, over := range []string{overHTTP2, overHTTP1} {
			n := 0
			for _, f := range all(found, OK, kind) {
				if f.Over == over {
					n++
				}
			}
			if n == 0 {
				t.Errorf("%s over %s was not tried", kind, over)
			}
		}
	}
	settings := all(found, OK, Settings)
	if len(settings) != 1 || settings[0].Facts["initial_window_bytes"] != 8<<20 || settings[0].Facts["max_streams"] != 1000 {
		t.Errorf("settings: %+v", settings)
	}
	if window := all(found, OK, Window); len(window) != 1 || window[0].Facts["conn_window_bytes"] < 15<<20 {
		t.Errorf("window: %+v", window)
	}
	if goaway := all(found, OK, Goaway); len(goaway) != 1 || goaway[0].Value != 60 {
		t.Errorf("goaway: %+v", goaway)
	}
	expectNoJobs(t, pod)
}

func TestLimitsAreFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		proxy proxy
		kinds map[Kind]float64 // problems that are found over both versions, by value; 0 is any
	}{
		{
			"idle and body", proxy{idle: 600 * time.Millisecond, uploadIdle: 700 * time.Millisecond, maxBody: 300 << 10},
			map[Kind]float64{IdleTimeout: 0.6, UploadIdleTimeout: 0.7, MessageLimit: 300 << 10, UploadLimit: 300 << 10},
		},
		{"total", proxy{total: 900 * time.Millisecond}, map[Kind]float64{TimeLimit: 0.9, UploadTimeLimit: 0.9}},
		{
			"buffering", proxy{holdRequest: true, holdResponse: true},
			map[Kind]float64{RequestBuffering: 0, ResponseBuffering: 0},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pod := newPod(t)
			cfg := quick(test.proxy.start(t, pod))
			found := examine(t, cfg)
			for kind, want := range test.kinds {
				got := all(found, Problem, kind)
				if len(got) != 2 {
					t.Errorf("%s was found %d times, want over h2 and over http/1.1", kind, len(got))
				}
				for _, f := range got {
					// Other tests take the time of this one: the end-to-end tests are exact.
					most := want + 0.8
					if f.Unit == "bytes" && f.Value != want {
						t.Errorf("%s over %s is %v bytes, want %v", kind, f.Over, f.Value, want)
					}
					if want > 0 && (f.Value < want/2 || f.Value > most) {
						t.Errorf("%s over %s is %v, want %v", kind, f.Over, f.Value, want)
					}
					if f.Costs == "" || f.Nginx == "" || f.HAProxy == "" || f.Envoy == "" || strings.Contains(f.Costs, "{limit}") {
						t.Errorf("%s comes with no advice: %+v", kind, f)
					}
				}
			}
			for _, f := range found {
				if _, want := test.kinds[f.Kind]; f.Level == Problem && !want {
					t.Errorf("and what isn't there: %+v", f)
				}
			}
			expectNoJobs(t, pod)
			if t.Failed() {
				for _, f := range found {
					t.Logf("%s %s %s: %s", f.Level, f.Kind, f.Over, f.Text)
				}
			}
		})
	}
}

// Requests about a job that come to any pod are a problem, and still leave nothing
// behind.
func TestRequestsGoAstray(t *testing.T) {
	t.Parallel()
	pods := []string{newPod(t), newPod(t)}
	p := proxy{other: pods[1]}
	found := examine(t, quick(p.start(t, pods[0])))
	for _, f := range found {
		if f.Level == Problem && f.Kind != Sticky {
			t.Errorf("%+v", f)
		}
	}
	if got := all(found, Problem, Sticky); len(got) != 2 {
		t.Errorf("found over %d HTTP versions, want 2", len(got))
	}
	for _, pod := range pods {
		expectNoJobs(t, pod)
	}
}

func TestFewStreamsAreANote(t *testing.T) {
	t.Parallel()
	p := proxy{http: transport.ServerConfig{MaxStreams: 100}}
	d := testDoctor(t, p.start(t, newPod(t)))
	d.probeHop(t.Context(), d.ways(t), 0)
	if got := all(d.found.sorted(), Note, Streams); len(got) != 1 || got[0].Value != 100 {
		t.Errorf("%+v", d.found.sorted())
	}
}

func testDoctor(t *testing.T, url string) *doctor {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, url, nil)
	return &doctor{cfg: &Config{URL: url, patience: 800 * time.Millisecond, requests: floodRequests}, url: req.URL, found: new(findings)}
}

func (d *doctor) ways(t *testing.T) []*way {
	t.Helper()
	return []*way{{cfg: d.cfg, over: overHTTP2, protocol: transport.GRPC, fn: "hello"}}
}

// strictHop is a server that answers so many calls and PINGs on a connection, and
// then says GOAWAY.
func strictHop(t *testing.T, calls, pings int) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveStrictly(conn, calls, pings) })
		}
	})
	return "http://" + ln.Addr().String()
}

func serveStrictly(conn net.Conn, calls, pings int) {
	defer func() { _ = conn.Close() }()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := conn.Read(preface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	if framer.WriteSettings() != nil {
		return
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		id := f.Header().StreamID
		switch f := f.(type) {
		case *http2.PingFrame:
			if pings--; pings < 0 {
				err = framer.WriteGoAway(id, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
			} else {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.DataFrame:
			if calls--; calls >= 0 {
				err = framer.WriteRSTStream(id, http2.ErrCodeRefusedStream)
			}
			if calls == 0 {
				err = framer.WriteGoAway(id, http2.ErrCodeNo, nil)
			}
		}
		if err != nil {
			return
		}
	}
}

func TestStrictHop(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		calls, pings int
		kind         Kind
		level        Level
		value        float64
	}{
		{100, 1000, Goaway, Problem, 100},
		{1000, 1000, Goaway, Note, 1000},
		{5000, 1000, Goaway, OK, floodRequests},
		{5000, 12, Pings, Problem, 0},
	} {
		t.Run(fmt.Sprintf("%d calls, %d pings", test.calls, test.pings), func(t *testing.T) {
			t.Parallel()
			d := testDoctor(t, strictHop(t, test.calls, test.pings))
			d.probeHop(t.Context(), d.ways(t), 0)
			got := all(d.found.sorted(), test.level, test.kind)
			if len(got) != 1 || (test.value > 0 && got[0].Value != test.value) {
				t.Errorf("got %+v", d.found.sorted())
			}
		})
	}
}

func TestNoPod(t *testing.T) {
	t.Parallel()
	url := serve(t, transport.ServerConfig{}, http.NotFoundHandler())
	var none *NoPodError
	if _, err := Run(t.Context(), quick(url)); !errors.As(err, &none) || !strings.Contains(err.Error(), "404") {
		t.Errorf("a server that is no pod: %v", err)
	}
	var op *net.OpError
	if _, err := Run(t.Context(), quick("http://127.0.0.1:1")); !errors.As(err, &op) {
		t.Errorf("nobody there: %v", err)
	}
	for _, cfg := range []Config{
		{URL: "pod:1"}, {URL: "http://"}, {URL: "http://x", Silence: time.Minute}, {URL: "http://x", Max: time.Millisecond},
	} {
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(700*time.Millisecond, cancel)
	begun := time.Now()
	_, err := Run(ctx, Config{URL: pod})
	if took := time.Since(begun); !errors.Is(err, context.Canceled) || took > 3*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	expectNoJobs(t, pod)
}

func TestSearch(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1 << 10, 5 << 10, 64 << 10, 100_000, 1 << 20, 1_000_000, 4 << 20, maxMessage - 1} {
		tries := 0
		got, err := search(t.Context(), maxMessage, func(_ context.Context, n int64) (int64, error, error) {
			tries++
			if n > limit {
				return 0, errors.New("too large"), nil
			}
			return n, nil, nil
		})
		if err != nil || got > limit || limit-got > max(1<<10, limit/fineness*2) || tries > 25 {
			t.Errorf("limit %d: found %d in %d tries, %v", limit, got, tries, err)
		}
	}
	refuse := func(context.Context, int64) (int64, error, error) { return 0, errors.New("no"), nil }
	if got, err := search(t.Context(), maxMessage, refuse); err == nil {
		t.Errorf("nothing passes, but %d is found", got)
	}
}

// The verdict on pairs of streams.
func TestTellStreams(t *testing.T) {
	t.Parallel()
	at := func(lasted ...time.Duration) streamTest {
		var test streamTest
		for _, d := range lasted {
			test.cuts = append(test.cuts, cut{lasted: d, silent: d, err: errors.New("cut")})
		}
		return test
	}
	for _, test := range []struct {
		name       string
		busy, lazy streamTest
		want       []Kind // problems
	}{
		{"all live", at(), at(), nil},
		{"idle", at(), at(3*time.Second, 3*time.Second), []Kind{IdleTimeout}},
		{"total", at(5*time.Second, 5*time.Second), at(5 * time.Second), []Kind{TimeLimit}},
		{"both", at(9 * time.Second), at(3*time.Second, 3*time.Second), []Kind{IdleTimeout, TimeLimit}},
		{"total, after some bytes", at(1000 * time.Millisecond), streamTest{cuts: []cut{{
			lasted: 950 * time.Millisecond, silent: 600 * time.Millisecond, err: errors.New("cut"),
		}}}, []Kind{TimeLimit}},
		{"no pattern", at(), at(2*time.Second, 9*time.Second), []Kind{Unstable}},
		{"pod ends it", streamTest{err: errPodEnded}, streamTest{err: errPodEnded}, nil},
	} {
		d := testDoctor(t, "http://x")
		d.tellStreams(&way{cfg: d.cfg, over: overHTTP2}, "answers", TimeLimit, IdleTimeout, test.busy, test.lazy)
		var got []Kind
		for _, f := range d.found.sorted() {
			if f.Level == Problem {
				got = append(got, f.Kind)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: problems %v, want %v", test.name, got, test.want)
		}
	}
}
