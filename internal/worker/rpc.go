package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	maxMessage     = 16 << 20 // bytes of a line
	largeMessage   = 16 << 10 // bytes that a socket may not take at once
	messageTimeout = 2 * time.Minute
	pollTime       = time.Millisecond
)

// An rpcConn is JSON-RPC 2.0 with a worker, an object a line.
//
// Nobody reads all the time: who waits for an answer does, and hands over to the
// next one who waits; between calls, poll does. A small call is then answered by
// the goroutine that made it, without a switch to another one, which would cost
// as much as all the rest of it.
type rpcConn struct {
	conn net.Conn
	log  *slog.Logger
	// note takes notifications, in their order. It is called by whoever reads.
	note func(method string, params json.RawMessage)

	reading chan struct{} // capacity 1: who has put something in reads, and has:
	r       *bufio.Reader
	partial []byte // of a line, when reading was interrupted

	writing sync.Mutex

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*rpcCall
	fault   error         // of a line that is not of the protocol
	closed  chan struct{} // closed when nothing more comes
}

// An rpcCall is a request that waits for its answer.
type rpcCall struct {
	id       uint64
	answered chan struct{} // closed when result or refusal is there
	result   json.RawMessage
	refusal  *rpcError
}

// An rpcError is an error that the worker has answered.
type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

func (e *rpcError) Error() string { return e.Message }

// errDisconnected is that the worker has closed its socket, or spoke nonsense.
var errDisconnected = errors.New("the worker's connection has ended")

// newRPC makes a connection and the socket at its other end, which is the
// caller's to close.
func newRPC(log *slog.Logger, note func(string, json.RawMessage)) (*rpcConn, *os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	conn, err := net.FileConn(ours) // a duplicate that can wait and be interrupted
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make socket pair: %w", err), theirs.Close())
	}
	return &rpcConn{
		conn: conn, log: log, note: note, r: bufio.NewReaderSize(conn, 16<<10),
		reading: make(chan struct{}, 1), pending: map[uint64]*rpcCall{}, closed: make(chan struct{}),
	}, theirs, nil
}

// send sends a request. Its answer comes with wait.
func (c *rpcConn) send(method string, params any) (*rpcCall, error) {
	call := &rpcCall{answered: make(chan struct{})}
	c.mu.Lock()
	c.last++
	call.id = c.last
	c.pending[call.id] = call
	c.mu.Unlock()
	return call, c.write(`,"id":`+strconv.FormatUint(call.id, 10), method, params)
}

// notify sends a notification.
func (c *rpcConn) notify(method string, params any) error { return c.write("", method, params) }

func (c *rpcConn) write(id, method string, params any) error {
	text, err := json.Marshal(params)
	if err != nil {
		return err
	}
	line := make([]byte, 0, len(text)+len(method)+64)
	line = append(line, `{"jsonrpc":"2.0","method":"`...)
	line = append(append(append(line, method...), '"'), id...)
	line = append(append(append(line, `,"params":`...), text...), '}', '\n')
	return c.writeLine(line)
}

// writeLine writes a line. A worker that does not read for messageTimeout is given
// up.
func (c *rpcConn) writeLine(line []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(line) > largeMessage {
		if err := c.conn.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
			return errDisconnected
		}
	}
	_, err := c.conn.Write(line)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.close(errors.New("it does not read its socket"))
		return errDisconnected
	case err != nil:
		return errDisconnected
	case len(line) > largeMessage:
		_ = c.conn.SetWriteDeadline(time.Time{}) // it worked just now
	}
	return nil
}

// wait waits for the answer of a call. The error is a *rpcError, errDisconnected,
// or the cause of ctx; then the answer can still be waited for.
func (c *rpcConn) wait(ctx context.Context, call *rpcCall) (json.RawMessage, error) {
	for {
		if call.isAnswered() {
			if call.refusal != nil {
				return nil, call.refusal
			}
			return call.result, nil
		}
		select {
		case c.reading <- struct{}{}:
			c.readFor(ctx, call)
			<-c.reading
		case <-call.answered:
			continue
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.closed:
		}
		switch {
		case call.isAnswered():
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case c.isClosed():
			return nil, errDisconnected
		}
	}
}

func (call *rpcCall) isAnswered() bool {
	select {
	case <-call.answered:
		return true
	default:
		return false
	}
}

func (c *rpcConn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// readFor reads until a call is answered, ctx ends, or the connection does.
func (c *rpcConn) readFor(ctx context.Context, call *rpcCall) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // unless it is closed
		close(interrupted)
	})
	defer func() {
		if !stop() {
			<-interrupted
			_ = c.conn.SetReadDeadline(time.Time{}) // unless it is closed
		}
	}()
	for !call.isAnswered() && c.read() {
	}
}

// poll takes what has come, if nobody else reads.
func (c *rpcConn) poll() {
	select {
	case c.reading <- struct{}{}:
	default:
		return
	}
	if c.conn.SetReadDeadline(time.Now().Add(pollTime)) == nil {
		for c.read() {
		}
		_ = c.conn.SetReadDeadline(time.Time{}) // unless it is closed
	}
	<-c.reading
}

// read takes one line. It says whether there may be more: not after the deadline,
// and not after the end.
func (c *rpcConn) read() bool {
	line, err := c.readLine()
	if err == nil {
		err = c.handle(line)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
	case errors.Is(err, errNotProtocol):
		c.close(err)
	default: // the worker has closed it
		c.close(nil)
	}
	return false
}

// errNotProtocol is in the errors about lines that are not of the protocol.
var errNotProtocol = errors.New("not of the protocol")

// readLine reads a line, which is valid until the next one is read.
func (c *rpcConn) readLine() ([]byte, error) {
	for {
		part, err := c.r.ReadSlice('\n')
		if err == nil && len(c.partial) == 0 {
			return part, nil
		}
		if len(c.partial)+len(part) > maxMessage {
			return nil, fmt.Errorf("%w: it is longer than %d MiB, large results go to output_path", errNotProtocol, maxMessage>>20)
		}
		c.partial = append(c.partial, part...)
		switch {
		case err == nil:
			line := c.partial
			c.partial = nil
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(c.partial)) > 0:
			return nil, fmt.Errorf("%w: it has no end: %.200q", errNotProtocol, c.partial)
		default:
			return nil, err
		}
	}
}

// handle takes a message. An error is that it is not of the protocol.
func (c *rpcConn) handle(line []byte) error {
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
		Result json.RawMessage `json:"result"`
		Error  *rpcError       `json:"error"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("%w: %w: %.200q", errNotProtocol, err, line)
	}
	switch {
	case m.Method != "" && m.ID == nil:
		c.note(m.Method, m.Params)
		return nil
	case m.Method != "":
		// In a goroutine of its own, for it may block, and who reads must not.
		go func() {
			const refusal = `,"error":{"code":-32601,"message":"the pod answers no requests"}}`
			if err := c.writeLine([]byte(`{"jsonrpc":"2.0","id":` + string(m.ID) + refusal + "\n")); err != nil {
				c.log.Debug("worker not answered", "err", err)
			}
		}()
		return nil
	case m.ID == nil || m.Result == nil && m.Error == nil:
		return fmt.Errorf("%w: it has neither a method nor a result nor an error: %.200q", errNotProtocol, line)
	}
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	c.mu.Lock()
	call := c.pending[id]
	if err != nil {
		call = nil
	}
	delete(c.pending, id)
	c.mu.Unlock()
	if call == nil {
		c.log.Warn("worker protocol", "what", "an answer that nobody waits for", "id", fmt.Sprintf("%.40s", m.ID))
		return nil
	}
	call.result, call.refusal = m.Result, m.Error
	close(call.answered)
	return nil
}

// close ends the connection, because of a fault of the worker's or nil.
func (c *rpcConn) close(fault error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed() {
		return
	}
	c.fault = fault
	close(c.closed)
	_ = c.conn.Close() // nobody is left to care
}

// blamed is what the worker has done that is not of the protocol, or nil.
func (c *rpcConn) blamed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault
}
