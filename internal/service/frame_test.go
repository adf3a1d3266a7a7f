package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai/aiconnect"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
)

// A frameConn speaks HTTP/2 frame by frame.
type frameConn struct {
	net.Conn
	*http2.Framer
	head bytes.Buffer
	hpk  *hpack.Encoder
	next uint32 // id of the next stream
}

func dialFrames(t testing.TB, url string) *frameConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c := &frameConn{Conn: conn, Framer: http2.NewFramer(conn, conn), next: 1}
	c.hpk = hpack.NewEncoder(&c.head)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// open sends the headers of a chaos call, and more, and returns the stream's id.
func (c *frameConn) open(t testing.TB, fn string, end bool, more ...hpack.HeaderField) (uint32, error) {
	t.Helper()
	return c.request(t, aiconnect.AIChaosProcedure, end, append(more, hpack.HeaderField{Name: headerFunc, Value: fn})...)
}

// request is open for any procedure.
func (c *frameConn) request(t testing.TB, procedure string, end bool, more ...hpack.HeaderField) (uint32, error) {
	t.Helper()
	c.head.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":authority", Value: "pod"},
		{Name: ":path", Value: procedure},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}, more...) {
		if err := c.hpk.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	id := c.next
	c.next += 2
	return id, c.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: c.head.Bytes(), EndHeaders: true, EndStream: end,
	})
}

// 10,000 streams that are opened and reset, in bursts: net/http may end a
// connection that does this (ENHANCE_YOUR_CALM), but nothing stays behind and
// others are served.
func TestEmptyStreamsOpenedAndReset(t *testing.T) {
	tp := startPod(t, nil)
	before := runtime.NumGoroutine()
	const streams = 10_000
	var c *frameConn
	hangUp := func() {
		if c != nil {
			_ = c.Close() // the server may have closed it already
		}
		c = nil
	}
	conns := 0
	for n := range streams {
		if c == nil {
			c = dialFrames(t, tp.url)
			conns++
			go io.Copy(io.Discard, c.Conn) //nolint:errcheck // ends with the connection
		}
		id, err := c.open(t, "hello", n%2 == 0)
		if err == nil && n%3 != 0 {
			err = c.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err == nil && n%1000 == 999 {
			time.Sleep(10 * time.Millisecond)
			err = c.WritePing(false, [8]byte{})
		}
		if err != nil { // the server had enough of us
			hangUp()
		}
	}
	t.Logf("%d streams over %d connections", streams, conns)
	if r, err := chaos(t.Context(), tp.client(t, transport.GRPC), "hello", []byte("{}")); err != nil {
		t.Errorf("another caller meanwhile: %q, %v", r.result, err)
	}
	hangUp()
	eventually(t, "goroutines are left", func() (any, bool) {
		n := runtime.NumGoroutine()
		return n, n <= before+10 // those of the other caller's connection
	})
}

// emptyKwargs is one message: 5 bytes of envelope, then field 1 of ai.Raw.
const emptyKwargs = "\x00\x00\x00\x00\x04\x0a\x02{}"

// The first heartbeat is stuck until the whole of a durable job has come and run.
func TestSlowReaderOfJobs(t *testing.T) {
	tp := startPod(t, nil)
	c := dialFrames(t, tp.url)
	defer c.Close() //nolint:errcheck // nothing is lost
	window := func(bytes uint32) {
		if err := c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: bytes}); err != nil {
			t.Fatal(err)
		}
	}
	window(0)
	const calls = 20
	for i := range calls {
		id, err := c.open(t, "hello", false, hpack.HeaderField{Name: headerJob, Value: fmt.Sprintf("job-%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WriteData(id, true, []byte(emptyKwargs)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range calls {
		eventually(t, "a job that succeeds", func() (any, bool) {
			j, err := tp.table.Get(fmt.Sprintf("job-%d", i))
			return err, err == nil && isClosed(j.Done())
		})
	}
	window(1 << 10)
	var answers, ended int
	for ended < calls {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := f.(*http2.DataFrame); ok && bytes.Contains(data.Data(), []byte(`"hello"`)) {
			answers++
		}
		if f.Header().Flags.Has(http2.FlagHeadersEndStream) && f.Header().Type == http2.FrameHeaders {
			ended++
		}
	}
	if answers != calls {
		t.Errorf("%d of %d calls were answered", answers, calls)
	}
}

// Events that are there together leave together.
func TestEventsShareFrames(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, transport.GRPC)}
	s.made("a", &aipodv1.Spec{Func: "talk", KwargsJson: []byte(`{"n":50}`)}, "")
	s.untilState("a", aipodv1.State_STATE_SUCCEEDED)
	c := dialFrames(t, tp.url)
	defer c.Close() //nolint:errcheck // nothing is lost
	id, err := c.request(t, aipodv1connect.JobServiceWatchJobProcedure, false)
	if err != nil {
		t.Fatal(err)
	}
	req, err := proto.Marshal(&aipodv1.WatchJobRequest{JobId: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteData(id, true, transport.Envelope(req)); err != nil {
		t.Fatal(err)
	}
	var body []byte
	frames := 0
	for ended := false; !ended; {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := f.(*http2.DataFrame); ok {
			frames++
			body = append(body, data.Data()...)
		}
		ended = f.Header().Type == http2.FrameHeaders && f.Header().Flags.Has(http2.FlagHeadersEndStream)
	}
	lines := bytes.Count(body, []byte("line "))
	// net/http sends each 4 KiB, and what is left with the trailers.
	if most := len(body)/4096 + 2; lines != 50 || frames > most {
		t.Errorf("%d lines of 50 in %d frames; %d bytes fit into %d", lines, frames, len(body), most)
	}
}

// A client that is there but doesn't read must not keep the pod from sending
// heartbeats to others, nor from noticing that it left.
func TestSlowReader(t *testing.T) {
	tp := startPod(t, nil)
	c := dialFrames(t, tp.url)
	if err := c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	id, err := c.open(t, "wait", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteData(id, true, []byte(emptyKwargs)); err != nil {
		t.Fatal(err)
	}
	// With a window of 0 the first heartbeat is stuck already; the job runs all
	// the same.
	<-tp.model.started
	if r, err := chaos(t.Context(), tp.client(t, transport.GRPC), "hello", []byte("{}")); err != nil {
		t.Errorf("another caller: %q, %v", r.result, err)
	}
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	select {
	case <-tp.model.gone:
	case <-time.After(5 * time.Second):
		t.Error("the function was not told that the client left")
	}
}

// A peer that is gone without a word is found by an HTTP/2 PING that nobody
// answers.
func TestPeerGoneWithoutAWord(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		cfg.Heartbeat = maxHeartbeat // a beat that is written would be noticed later
		cfg.Transport.PingInterval = 200 * time.Millisecond
		cfg.Transport.PingTimeout = 500 * time.Millisecond
	})
	c := dialFrames(t, tp.url)
	id, err := c.open(t, "wait", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteData(id, true, []byte("\x00\x00\x00\x00\x04\x0a\x02{}")); err != nil {
		t.Fatal(err)
	}
	<-tp.model.started
	begun := time.Now()
	pings := 0
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			break
		}
		if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
			pings++
		}
	}
	if pings == 0 {
		t.Error("the server sent no PING")
	}
	select {
	case <-tp.model.gone:
	case <-time.After(5 * time.Second):
		t.Error("the function was not told")
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v to find out", took)
	}
	_ = c.Close() // the server has closed it already
}
