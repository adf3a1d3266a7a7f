// Package compat is what the server and the client under test share: how the
// suite's runner talks to them over stdin and stdout, and metadata as the suite
// writes it.
package compat

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/protobuf/proto"

	conformancev1 "github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1"
)

// Read reads one message, after its length as four bytes in network order. The
// error is io.EOF when there is no further message.
func Read(r io.Reader, m proto.Message) error {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return err
	}
	wire := make([]byte, size)
	if _, err := io.ReadFull(r, wire); err != nil {
		return fmt.Errorf("read %T: %w", m, err)
	}
	return proto.Unmarshal(wire, m)
}

// Write writes one message as Read reads it.
func Write(w io.Writer, m proto.Message) error {
	wire, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(wire))), wire...))
	return err
}

// AddHeaders adds the suite's headers to those of net/http.
func AddHeaders(to http.Header, from []*conformancev1.Header) {
	for _, h := range from {
		for _, value := range h.GetValue() {
			to.Add(h.GetName(), value)
		}
	}
}

// Headers turns headers, or the values of a query, into the suite's.
func Headers[M ~map[string][]string](from M) []*conformancev1.Header {
	headers := make([]*conformancev1.Header, 0, len(from))
	for name, values := range from {
		headers = append(headers, &conformancev1.Header{Name: name, Value: values})
	}
	return headers
}
