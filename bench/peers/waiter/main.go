// Command waiter holds many calls open and measures the silence between their
// beats. It speaks HTTP/2 frame by frame, so that thousands of calls cost it
// little; to all servers it is the same.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/bench/peers/peer"
	"github.com/aipod/aipod/gen/ai"
)

const (
	window  = 1 << 30          // of a connection, in bytes: more than all beats
	opening = 60 * time.Second // that the calls may take to give their first beats
	settle  = 2 * time.Second  // from the last first beat to the measuring
)

func main() {
	os.Exit(peer.Main(peer.Program{Ops: map[string]peer.Op{"wait": wait}}))
}

// beat is a message of gRPC with a beat.
var beat = message([]byte(peer.Pong))

func message(data []byte) []byte {
	m, err := proto.Marshal(&ai.Raw{Data: data})
	if err != nil {
		panic(err) // bytes can always be encoded
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// A load is all connections.
type load struct {
	measuring atomic.Bool
	ended     atomic.Bool
	awaited   atomic.Int64  // calls without a first beat
	ready     chan struct{} // closed when there is none
}

// A conn is one connection. Its reader owns it when the requests are written.
type conn struct {
	load   *load
	nc     net.Conn
	framer *http2.Framer
	write  sync.Mutex // of the framer
	last   map[uint32]time.Time
	gaps   []time.Duration // while measuring
	beats  int             // the same
}

func wait(ctx context.Context, o peer.Options, more map[string]float64) (int64, error) {
	calls := o.Conns * o.Streams
	l := &load{ready: make(chan struct{})}
	l.awaited.Store(int64(calls))
	base, _, err := peer.Memory(o.PID)
	if err != nil {
		return 0, err
	}
	faults := make(chan error, o.Conns)
	var conns []*conn
	var wg sync.WaitGroup
	defer func() {
		l.ended.Store(true)
		for _, c := range conns {
			_ = c.nc.Close() // its reader ends
		}
		wg.Wait()
	}()
	began := time.Now()
	for range o.Conns {
		c, err := l.open(o)
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
		wg.Go(func() {
			if err := c.read(); !l.ended.Load() {
				faults <- err
			}
		})
		if err := c.request(o); err != nil {
			return 0, err
		}
	}
	pause := func(d time.Duration, until <-chan struct{}) error {
		select {
		case <-time.After(d):
			return nil
		case <-until:
			return nil
		case err := <-faults:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := pause(opening, l.ready); err != nil {
		return 0, err
	}
	if n := l.awaited.Load(); n > 0 {
		return 0, fmt.Errorf("%d of %d calls gave no sign of life within %v", n, calls, opening)
	}
	more["open_s"] = time.Since(began).Seconds()
	if err := pause(settle, nil); err != nil {
		return 0, err
	}
	cpu, err := peer.CPU(o.PID)
	if err != nil {
		return 0, err
	}
	l.measuring.Store(true)
	from := time.Now()
	if err := pause(o.For, nil); err != nil {
		return 0, err
	}
	l.measuring.Store(false)
	till := time.Now()
	after, err := peer.CPU(o.PID)
	if err != nil {
		return 0, err
	}
	now, _, err := peer.Memory(o.PID)
	if err != nil {
		return 0, err
	}
	l.ended.Store(true)
	for _, c := range conns {
		_ = c.nc.Close() // its reader ends
	}
	wg.Wait()
	more["seconds"] = till.Sub(from).Seconds()
	more["server_cpu"] = (after - cpu).Seconds()
	more["rss_call_kib"] = float64(now) / float64(calls) / (1 << 10)
	more["rss_grown_kib"] = float64(now-base) / float64(calls) / (1 << 10)
	return 0, summarize(conns, calls, till, more)
}

func summarize(conns []*conn, calls int, till time.Time, more map[string]float64) error {
	var gaps []time.Duration
	for _, c := range conns {
		gaps = append(gaps, c.gaps...)
		more["beats"] += float64(c.beats)
		for _, at := range c.last {
			gaps = append(gaps, till.Sub(at)) // of calls that fell silent
		}
	}
	if len(gaps) < calls {
		return fmt.Errorf("only %d beats of %d calls", len(gaps), calls)
	}
	slices.Sort(gaps)
	more["calls"] = float64(calls)
	more["p99.9_gap_s"] = gaps[len(gaps)*999/1000].Seconds()
	more["max_gap_s"] = gaps[len(gaps)-1].Seconds()
	return nil
}

func (l *load) open(o peer.Options) (*conn, error) {
	nc, err := net.Dial("tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{load: l, nc: nc, framer: http2.NewFramer(nc, nc), last: make(map[uint32]time.Time, o.Streams)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.SetReuseFrames()
	_, err = io.WriteString(nc, http2.ClientPreface)
	return c, errors.Join(err, c.framer.WriteSettings(), c.framer.WriteWindowUpdate(0, window))
}

// request begins all calls of a connection.
func (c *conn) request(o peer.Options) error {
	path, body := "/"+peer.Service+"/"+peer.Hold, message(nil)
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path"}, {Name: ":authority", Value: o.Addr},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}
	if o.Target != "peer" {
		path, body = "/ai.AI/chaos", message([]byte(`{"seconds": 3600}`))
		fields = append(fields, hpack.HeaderField{Name: "x-func-name", Value: "sleep"}, hpack.HeaderField{Name: "x-heartbeat", Value: peer.Beat.String()})
	}
	fields[2].Value = path
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := range o.Streams {
		block.Reset()
		for _, f := range fields {
			if err := enc.WriteField(f); err != nil {
				return err
			}
		}
		id := uint32(2*i + 1)
		c.write.Lock()
		err := errors.Join(
			c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}),
			c.framer.WriteData(id, true, body))
		c.write.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads a connection. Calls end only with it: anything else is an error.
func (c *conn) read() error {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.answer(c.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.answer(func() error { return c.framer.WritePing(true, f.Data) })
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				err = fmt.Errorf("a call has ended: %v", f.Fields)
			}
		case *http2.DataFrame:
			err = c.hear(f)
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("a call was reset: %v", f.ErrCode)
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server wants no more: %v %s", f.ErrCode, f.DebugData())
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) answer(write func() error) error {
	c.write.Lock()
	defer c.write.Unlock()
	return write()
}

// hear notes what a call has said: a beat, or more when they have come together.
func (c *conn) hear(f *http2.DataFrame) error {
	n := len(f.Data()) / len(beat)
	if n == 0 || !bytes.Equal(f.Data(), bytes.Repeat(beat, n)) {
		return fmt.Errorf("%q is no beat", f.Data())
	}
	now := time.Now()
	before, heard := c.last[f.StreamID]
	c.last[f.StreamID] = now
	switch {
	case !heard:
		if c.load.awaited.Add(-1) == 0 {
			close(c.load.ready)
		}
	case c.load.measuring.Load():
		c.gaps = append(c.gaps, now.Sub(before))
		c.beats += n
	}
	return nil
}
