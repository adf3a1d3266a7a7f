package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aipod/aipod/gen/ai"
)

// Pong is what a server that holds a call sends each [Beat].
const Pong = "PONG"

// Beat is the interval of held calls.
const Beat = time.Second

// Procedures of the peers that speak RPC.
const (
	Service  = "bench.Peer"
	Upload   = "Upload"   // throws the payload away and answers its size
	Download = "Download" // answers what [Request] asks for
	Echo     = "Echo"     // answers each message with itself
	Hold     = "Hold"     // answers Pong at once and each Beat, until it is canceled
)

// A Sender and a Receiver are the two ends of a stream, with connect's or
// grpc-go's names hidden.
type (
	Sender   func(*ai.Raw) error
	Receiver func() (*ai.Raw, error) // io.EOF is the end
)

// Discard is the server of Upload.
func Discard(receive Receiver, send Sender) error {
	n := 0
	for {
		m, err := receive()
		if errors.Is(err, io.EOF) {
			return send(&ai.Raw{Data: strconv.AppendInt(nil, int64(n), 10)})
		}
		if err != nil {
			return err
		}
		n += len(m.GetData())
	}
}

// Supply is the server of Download. The payload is one random piece again and
// again, so that making it costs nothing.
func Supply(receive Receiver, send Sender) error {
	m, err := receive()
	if err != nil {
		return err
	}
	var size, chunk int
	if _, err := fmt.Sscan(string(m.GetData()), &size, &chunk); err != nil || chunk <= 0 {
		return fmt.Errorf("%q is not a size and a chunk: %w", m.GetData(), err)
	}
	piece := randomPiece(chunk)
	for size > 0 {
		n := min(size, chunk)
		if err := send(&ai.Raw{Data: piece[:n]}); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// Request is what Download is asked.
func Request(o Options) *ai.Raw {
	return &ai.Raw{Data: fmt.Appendf(nil, "%d %d", o.Size, o.Chunk)}
}

// Return is the server of Echo.
func Return(receive Receiver, send Sender) error {
	for {
		m, err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := send(m); err != nil {
			return err
		}
	}
}

// Keep is the server of Hold.
func Keep(done <-chan struct{}, send Sender) error {
	beat := time.NewTicker(Beat)
	defer beat.Stop()
	for {
		if err := send(&ai.Raw{Data: []byte(Pong)}); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-beat.C:
		}
	}
}

// SendFile is the client of Upload: it sends the file in messages of o.Chunk.
func SendFile(o Options, send Sender) (int64, error) {
	f, err := os.Open(o.File)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // was only read from
	buf, total := make([]byte, o.Chunk), int64(0)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if err := send(&ai.Raw{Data: buf[:n]}); err != nil {
				return total, err
			}
			total += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// Confirmed checks the server's answer to Upload.
func Confirmed(sent int64, answer []byte) (int64, error) {
	got, err := strconv.ParseInt(strings.TrimSpace(string(answer)), 10, 64)
	if err != nil || got != sent {
		return 0, fmt.Errorf("the server has %q bytes of %d: %w", answer, sent, err)
	}
	return got, nil
}

// Drain is the client of Download.
func Drain(o Options, receive Receiver) (int64, error) {
	n := int64(0)
	for {
		m, err := receive()
		if errors.Is(err, io.EOF) {
			if n != o.Size {
				return n, fmt.Errorf("%d bytes have come instead of %d", n, o.Size)
			}
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += int64(len(m.GetData()))
	}
}

// Bounce is the client of Echo: one message there and back.
func Bounce(o Options, receive Receiver, send Sender) (int64, error) {
	data := randomPiece(o.Chunk)
	if err := send(&ai.Raw{Data: data}); err != nil {
		return 0, err
	}
	m, err := receive()
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(m.GetData(), data) {
		return 0, fmt.Errorf("%d other bytes came back", len(m.GetData()))
	}
	return int64(len(data)), nil
}

// Count is the client of Hold: it counts beats for as long as o.For.
func Count(o Options, receive Receiver, more map[string]float64) (int64, error) {
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		m, err := receive()
		if err != nil {
			return 0, err
		}
		if string(m.GetData()) != Pong {
			return 0, fmt.Errorf("%q is no beat", m.GetData())
		}
		more["beats"]++
	}
	return 0, nil
}
