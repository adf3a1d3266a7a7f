package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The values of HTTP/2 settings that a peer doesn't send, in bytes: RFC 9113,
// section 6.5.2, and the window of the connection: section 6.9.2.
const (
	defaultWindow = 65535
	defaultFrame  = 16384
)

// A hop is one connection to what answers first, read frame by frame. One
// goroutine uses it. Close it.
type hop struct {
	conn   net.Conn
	framer *http2.Framer
	url    *url.URL
	header http.Header
	detach func() bool

	settings map[http2.SettingID]uint32
	credit   map[uint32]int64 // bytes of WINDOW_UPDATE, by stream; 0 is the connection
	answers  map[uint32]int   // DATA frames, by stream
	goaway   *http2.GoAwayFrame
	debug    string // of goaway
	next     uint32 // stream
	pings    uint64
}

// hopLimit is how long each of the things that are tried on a hop may take.
const hopLimit = 20 * time.Second

// openHop connects and waits for the hop's settings.
func (d *doctor) openHop(ctx context.Context) (*hop, error) {
	conn, err := d.dial(ctx, "h2")
	if err != nil {
		return nil, err
	}
	h := &hop{
		conn: conn, framer: http2.NewFramer(conn, conn), url: d.url, header: d.cfg.Header, next: 1,
		settings: map[http2.SettingID]uint32{}, credit: map[uint32]int64{}, answers: map[uint32]int{},
	}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	// Its reads know no context.
	h.detach = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := h.greet(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *hop) greet() error {
	h.allow()
	if _, err := io.WriteString(h.conn, http2.ClientPreface); err != nil {
		return err
	}
	if err := h.framer.WriteSettings(); err != nil {
		return err
	}
	return h.read(func(f http2.Frame) bool {
		s, ok := f.(*http2.SettingsFrame)
		return ok && !s.IsAck()
	})
}

func (h *hop) close() {
	h.detach()
	_ = h.conn.Close()
}

// allow gives what comes next its time.
func (h *hop) allow() { _ = h.conn.SetDeadline(time.Now().Add(hopLimit)) }

// errGoaway is a hop that doesn't like the connection.
var errGoaway = errors.New("GOAWAY")

// read reads frames until one is what was waited for, and answers and keeps on the
// way what has to be.
func (h *hop) read(until func(http2.Frame) bool) error {
	for {
		f, err := h.framer.ReadFrame()
		var stream http2.StreamError
		if errors.As(err, &stream) {
			continue
		}
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				break
			}
			_ = f.ForeachSetting(func(s http2.Setting) error {
				h.settings[s.ID] = s.Val
				return nil
			})
			err = h.framer.WriteSettingsAck()
		case *http2.PingFrame:
			if !f.IsAck() {
				err = h.framer.WritePing(true, f.Data)
			}
		case *http2.WindowUpdateFrame:
			h.credit[f.StreamID] += int64(f.Increment)
		case *http2.GoAwayFrame:
			copied := *f
			h.goaway, h.debug = &copied, string(f.DebugData())
			if f.ErrCode != http2.ErrCodeNo {
				return errGoaway
			}
		case *http2.DataFrame:
			h.answers[f.StreamID]++
		}
		if err != nil {
			return err
		}
		if until(f) {
			return nil
		}
	}
}

// ping sends PINGs and waits for all answers. What the hop had to say before them
// has then been read.
func (h *hop) ping(n int) error {
	for range n {
		h.pings++
		var data [8]byte
		binary.BigEndian.PutUint64(data[:], h.pings)
		if err := h.framer.WritePing(false, data); err != nil {
			return err
		}
	}
	return h.read(func(f http2.Frame) bool {
		p, ok := f.(*http2.PingFrame)
		return ok && p.IsAck() && binary.BigEndian.Uint64(p.Data[:]) == h.pings
	})
}

// request opens a stream for a call of gRPC with one message; open leaves it so.
func (h *hop) request(procedure string, message []byte, open bool) (stream uint32, err error) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fields := [][2]string{
		{":method", "POST"}, {":scheme", h.url.Scheme}, {":path", h.url.Path + procedure}, {":authority", h.url.Host},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "aipod-doctor"},
	}
	for name, values := range h.header {
		for _, value := range values {
			fields = append(fields, [2]string{strings.ToLower(name), value})
		}
	}
	for _, f := range fields {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return 0, err
		}
	}
	stream = h.next
	h.next += 2
	if err := h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return 0, err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return stream, h.framer.WriteData(stream, !open, append(body, message...))
}

// ends says whether a frame ends a stream, whichever.
func ends(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.RSTStreamFrame:
		return true
	case *http2.MetaHeadersFrame:
		return f.StreamEnded()
	case *http2.DataFrame:
		return f.StreamEnded()
	}
	return false
}

// farewell is what a GOAWAY says, or why the connection is gone without one.
func (h *hop) farewell(err error) string {
	switch {
	case h.goaway == nil:
		return why(err)
	case h.debug != "":
		return fmt.Sprintf("GOAWAY %v %q", h.goaway.ErrCode, h.debug)
	}
	return fmt.Sprintf("GOAWAY %v", h.goaway.ErrCode)
}
