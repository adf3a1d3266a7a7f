//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
)

// envelope is a message as Connect's streams, gRPC and gRPC-Web frame it: a
// byte of flags, the length in four bytes, the message.
func envelope(t *testing.T, data []byte) []byte {
	t.Helper()
	wire, err := proto.Marshal(&ai.Raw{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(wire))), wire...)
}

// openEnvelopes undoes envelope; the last one, with other flags, is the
// protocol's own end.
func openEnvelopes(body []byte) (messages []string, flags byte, end string, err error) {
	for len(body) > 0 {
		if len(body) < 5 || uint64(len(body)-5) < uint64(binary.BigEndian.Uint32(body[1:])) {
			return nil, 0, "", fmt.Errorf("cut off: %q", body)
		}
		flags = body[0]
		size := binary.BigEndian.Uint32(body[1:])
		data := body[5 : 5+size]
		body = body[5+size:]
		if flags != 0 {
			end = string(data)
			continue
		}
		var raw ai.Raw
		if err := proto.Unmarshal(data, &raw); err != nil {
			return nil, 0, "", err
		}
		messages = append(messages, string(raw.GetData()))
	}
	return messages, flags, end, nil
}

// The two ends that say that all went well.
const (
	connectEnd = 2    // flags, before a JSON object without "error"
	webEnd     = 0x80 // flags, before the trailers
)

func TestCurlHTTP1(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	data := textBytes(3 << 20)
	var body bytes.Buffer
	body.Write(envelope(t, []byte(`{}`)))
	for rest := data; len(rest) > 0; rest = rest[min(len(rest), 100_000):] {
		body.Write(envelope(t, rest[:min(len(rest), 100_000)]))
	}
	request := writeFile(t, "request", body.Bytes())
	for name, tc := range map[string]struct {
		contentType string
		flags       byte
		ok          func(end string) bool
	}{
		"connect": {"application/connect+proto", connectEnd, func(end string) bool { return strings.TrimSpace(end) == "{}" }},
		"grpc-web": {"application/grpc-web+proto", webEnd, func(end string) bool {
			return strings.Contains(strings.ToLower(end), "grpc-status: 0\r\n")
		}},
	} {
		// With a body of this size curl asks whether to send it and waits for
		// "100 Continue" for a second, and longer while other things come.
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			answer := filepath.Join(t.TempDir(), "answer")
			status := mustRun(t, 15*time.Second, tool(t, "curl"), "--http1.1", "--noproxy", "*", "-sS", "--max-time", "10",
				"-H", "Content-Type: "+tc.contentType, "-H", "x-func-name: sha256",
				"--data-binary", "@"+request, "-o", answer, "-w", "%{http_code} %{content_type}",
				"http://"+p.addr+"/ai.AI/chaos")
			if status != "200 "+tc.contentType {
				t.Errorf("the answer is %s", status)
			}
			if took := time.Since(begun); took > 900*time.Millisecond {
				t.Errorf("curl took %v: it was not told to continue", took)
			}
			body, err := os.ReadFile(answer)
			if err != nil {
				t.Fatal(err)
			}
			messages, flags, end, err := openEnvelopes(body)
			if err != nil {
				t.Fatal(err)
			}
			if len(messages) < 2 || messages[0] != "PONG" {
				t.Fatalf("got %q, want PONG and a result", messages)
			}
			expectDigest(t, []byte(messages[len(messages)-1]), digestOf(data))
			if flags != tc.flags || !tc.ok(end) {
				t.Errorf("the end is %#x %q", flags, end)
			}
		})
	}
	t.Cleanup(func() { p.expectNoPayloads(t) })
}
