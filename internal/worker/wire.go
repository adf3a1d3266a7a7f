package worker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// The worker protocol, as docs/workers.md has it: JSON-RPC 2.0 objects, one a line.

// protocolVersion is that of docs/workers.md.
const protocolVersion = 1

// Error codes of the protocol.
const (
	codeNoFunction   = -32601
	codeInvalid      = -32602
	codeNoVersion    = -32001
	codeNoResources  = -32002
	codeCanceled     = -32800
	maxMessage       = 16 << 20 // bytes of a line
	keptBuffer       = 64 << 10 // bytes of buffer that a connection keeps
	messageTimeout   = 2 * time.Minute
	workerDescriptor = 3 // where a worker finds its socket
)

type initializeParams struct {
	Protocol int             `json:"protocol"`
	Version  string          `json:"version"`
	Slots    int             `json:"slots"`
	WorkDir  string          `json:"work_dir"`
	DataDir  string          `json:"data_dir"`
	Config   json.RawMessage `json:"config"`
}

type initializeResult struct {
	Model     string `json:"model"`
	Functions []struct {
		Name         string `json:"name"`
		Doc          string `json:"doc"`
		MakesVersion bool   `json:"makes_version"`
	} `json:"functions"`
	Versions []string `json:"versions"`
}

type callParams struct {
	JobID      string            `json:"job_id"`
	Func       string            `json:"func"`
	Version    string            `json:"version"`
	Kwargs     json.RawMessage   `json:"kwargs"`
	Input      *callInput        `json:"input"`
	OutputPath string            `json:"output_path"`
	WorkDir    string            `json:"work_dir"`
	Deadline   *time.Time        `json:"deadline,omitempty"`
	Metadata   map[string]string `json:"metadata"`
	Attempt    int               `json:"attempt"`
}

type callInput struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type callResult struct {
	Value      json.RawMessage `json:"value"`
	OutputSize *int64          `json:"output_size"`
	OutputJSON bool            `json:"output_json"`
}

type cancelParams struct {
	JobID string `json:"job_id"`
}

// A workerNote has the fields of all notifications of a worker.
type workerNote struct {
	JobID    string   `json:"job_id"`
	Done     int64    `json:"done"`
	Total    int64    `json:"total"`
	Unit     string   `json:"unit"`
	Note     string   `json:"note"`
	Level    string   `json:"level"`
	Line     string   `json:"line"`
	Size     int64    `json:"size"`
	Versions []string `json:"versions"`
}

// A lineStream is a jsonrpc2.ObjectStream of bounded lines.
type lineStream struct {
	conn net.Conn
	r    *bufio.Reader

	mu    sync.Mutex
	fault error // of a line that is not of the protocol
}

// socketPair makes a stream and the socket at its other end, which is the
// caller's to close.
func socketPair() (*lineStream, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "pod")
	conn, err := net.FileConn(ours) // a duplicate that can wait and be interrupted
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make socket pair: %w", err), theirs.Close())
	}
	return &lineStream{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}, theirs, nil
}

// ReadObject is for jsonrpc2.
func (s *lineStream) ReadObject(v any) error {
	line, err := s.readLine()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return s.blame(fmt.Errorf("%w: %.200q", err, line))
	}
	return nil
}

func (s *lineStream) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := s.r.ReadSlice('\n')
		switch {
		case err == nil && line == nil:
			return part, nil
		case len(line)+len(part) > maxMessage:
			return nil, s.blame(fmt.Errorf("it is longer than %d MiB: large results go to output_path", maxMessage>>20))
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) > 0:
			return nil, s.blame(fmt.Errorf("it has no end: %.200q", line))
		default:
			return nil, err
		}
	}
}

// blame notes that the worker doesn't keep to the protocol.
func (s *lineStream) blame(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
	return err
}

// blamed is the first fault, or nil.
func (s *lineStream) blamed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// WriteObject is for jsonrpc2. A worker that does not read for messageTimeout is
// given up.
func (s *lineStream) WriteObject(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	if _, err := s.conn.Write(append(line, '\n')); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = s.blame(errors.New("it does not read its socket"))
		}
		return errors.Join(err, s.conn.Close())
	}
	return nil
}

// Close is for jsonrpc2.
func (s *lineStream) Close() error { return s.conn.Close() }
