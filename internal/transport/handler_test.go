package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/codec"
)

// echo answers each message with its like, and before that with a PONG.
func echo(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
	if err := stream.Send(&ai.Raw{Data: []byte("PONG")}); err != nil {
		return err
	}
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func TestBulk(t *testing.T) {
	url := "http://" + serve(t, ServerConfig{}, chaosMux(echo)) + aiconnect.AIChaosProcedure
	client := NewHTTPClient(ClientConfig{})
	defer client.CloseIdleConnections()
	large := &ai.Raw{Data: bytes.Repeat([]byte("ten bytes "), 6000)}
	for _, protocol := range []struct{ contentType, encoding, accept string }{
		{"application/grpc", "Grpc-Encoding", "Grpc-Accept-Encoding"},
		{"application/grpc-web", "Grpc-Encoding", "Grpc-Accept-Encoding"},
		{"application/connect+proto", "Connect-Content-Encoding", "Connect-Accept-Encoding"},
	} {
		for _, test := range []struct {
			sent, accept   string
			wantCompressed bool
		}{
			{"identity", "identity, deflate, gzip", false}, // as grpcio has it
			{"identity", "gzip", false},
			{"identity", "gzip,zstd", true},
			{"identity", "", false},
			{"gzip", "gzip", false},
			{"gzip", "identity, deflate, gzip", false},
			{"zstd", "zstd", true},
		} {
			t.Run(fmt.Sprintf("%s/sent %s/accepts %s", protocol.contentType, test.sent, test.accept), func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(envelope(t, large, test.sent)))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", protocol.contentType)
				req.Header.Set("Te", "trailers")
				req.Header.Set(protocol.encoding, test.sent)
				if test.accept != "" {
					req.Header.Set(protocol.accept, test.accept)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if compressed, _ := readEnvelope(t, res.Body); compressed {
					t.Error("the heartbeat is compressed")
				}
				compressed, message := readEnvelope(t, res.Body)
				if compressed != test.wantCompressed {
					t.Errorf("compressed: %v, want %v", compressed, test.wantCompressed)
				}
				if encoding := res.Header.Get(protocol.encoding); compressed && encoding != codec.Zstd {
					t.Errorf("compressed with %q", encoding)
				}
				if compressed {
					return // connect's clients can read it: the conformance suite
				}
				var got ai.Raw
				if err := proto.Unmarshal(message, &got); err != nil || !proto.Equal(&got, large) {
					t.Errorf("the answer is not what was sent (%v)", err)
				}
			})
		}
	}
}

// envelope is a message as gRPC and Connect streams frame it.
func envelope(t *testing.T, m proto.Message, compression string) []byte {
	t.Helper()
	message, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	flags := byte(1)
	switch compression {
	case codec.Gzip:
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(message); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		message = b.Bytes()
	case codec.Zstd:
		message = codec.EncodeResult(message, true)
	default:
		flags = 0
	}
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)
}

func readEnvelope(t *testing.T, r io.Reader) (compressed bool, message []byte) {
	t.Helper()
	var prefix [5]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		t.Fatal(err)
	}
	message = make([]byte, binary.BigEndian.Uint32(prefix[1:]))
	if _, err := io.ReadFull(r, message); err != nil {
		t.Fatal(err)
	}
	return prefix[0] == 1, message
}

func TestHTTP1Bidi(t *testing.T) {
	addr := serve(t, ServerConfig{}, chaosMux(echo))
	client := NewHTTPClient(ClientConfig{HTTP1: true})
	defer client.CloseIdleConnections()
	for _, protocol := range []Protocol{Connect, GRPCWeb} {
		t.Run(string(protocol), func(t *testing.T) {
			opts, err := ClientOptions(protocol)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream := aiconnect.NewAIClient(client, "http://"+addr, opts...).Chaos(ctx)
			payload := bytes.Repeat([]byte{7}, 100<<10)
			for range 5 {
				if err := stream.Send(&ai.Raw{Data: payload}); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.CloseRequest(); err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				want := payload
				if i == 0 {
					want = []byte("PONG")
				}
				m, err := stream.Receive()
				if err != nil || !bytes.Equal(m.GetData(), want) {
					t.Fatalf("message %d: %d bytes, %v", i, len(m.GetData()), err)
				}
			}
			if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last message: %v", err)
			}
			if err := stream.CloseResponse(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A heartbeat must not wait for the end of the upload.
func TestHTTP1AnswersWhileItReads(t *testing.T) {
	conn, r := dialHTTP1(t, serve(t, ServerConfig{}, chaosMux(echo)))
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: pod\r\nContent-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n",
		aiconnect.AIChaosProcedure)
	if err != nil {
		t.Fatal(err)
	}
	res := readResponse(t, r) //nolint:bodyclose // readResponse has it closed
	if _, pong := readEnvelope(t, res.Body); !bytes.Contains(pong, []byte("PONG")) {
		t.Errorf("got %q", pong)
	}
	message := envelope(t, &ai.Raw{Data: []byte("late")}, "")
	if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n0\r\n\r\n", len(message), message); err != nil {
		t.Fatal(err)
	}
	if _, late := readEnvelope(t, res.Body); !bytes.Contains(late, []byte("late")) {
		t.Errorf("got %q", late)
	}
}

// Nobody reads the body of a call that is refused for its path or content type.
// net/http, left to itself, closes it too late: https://go.dev/issue/68560.
func TestHTTP1EarlyRefusalKeepsConnection(t *testing.T) {
	conn, r := dialHTTP1(t, serve(t, ServerConfig{}, chaosMux(echo)))
	body := string(envelope(t, &ai.Raw{Data: []byte("x")}, ""))
	for _, test := range []struct {
		path, contentType string
		wantStatus        int
	}{
		{"/ai.AI/unknown", "application/grpc-web", http.StatusNotFound},
		{aiconnect.AIChaosProcedure, "application/grpc-web+foo", http.StatusUnsupportedMediaType},
		{aiconnect.AIChaosProcedure, "application/connect+foo", http.StatusUnsupportedMediaType},
		{aiconnect.AIChaosProcedure, "application/grpc-web", http.StatusOK},
	} {
		_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: pod\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			test.path, test.contentType, len(body), body)
		if err != nil {
			t.Fatal(err)
		}
		res := readResponse(t, r) //nolint:bodyclose // readResponse has it closed
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != test.wantStatus {
			t.Errorf("%s as %s: %s, %v", test.path, test.contentType, res.Status, err)
		}
	}
}

func TestHTTP1RefusalDoesNotWaitForUpload(t *testing.T) {
	conn, r := dialHTTP1(t, serve(t, ServerConfig{}, chaosMux(echo)))
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: pod\r\nContent-Type: application/connect+foo\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
		aiconnect.AIChaosProcedure)
	if err != nil {
		t.Fatal(err)
	}
	if res := readResponse(t, r); res.StatusCode != http.StatusUnsupportedMediaType { //nolint:bodyclose // readResponse has it closed
		t.Errorf("got %s", res.Status)
	}
	// The cleanup would wait for a body that has no end.
	_ = conn.Close()
}

func dialHTTP1(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func readResponse(t *testing.T, r *bufio.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// What is held leaves in one frame, when it is released or the call ends.
func TestHold(t *testing.T) {
	pong := &ai.Raw{Data: []byte("PONG")}
	for _, test := range []struct {
		name    string
		release bool
		want    int // DATA frames
	}{{"to the end", false, 1}, {"and released", true, 2}} {
		t.Run(test.name, func(t *testing.T) {
			got := callFrames(t, serve(t, ServerConfig{}, chaosMux(func(ctx context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
				x := ExchangeOf(ctx)
				x.Hold()
				for range 2 {
					if err := stream.Send(pong); err != nil {
						return err
					}
				}
				if test.release {
					if err := x.Release(); err != nil {
						return err
					}
				}
				return stream.Send(pong)
			})))
			data := slices.DeleteFunc(slices.Clone(got), func(f frame) bool { return f.Type != http2.FrameData })
			if len(data) != test.want || got[len(got)-1].Status != "0" {
				t.Errorf("frames %+v: want %d with data, and status 0", got, test.want)
			}
		})
	}
	for _, protocol := range Protocols {
		for _, http1 := range []bool{false, true} {
			if http1 && protocol == GRPC {
				continue // which needs HTTP/2
			}
			t.Run(fmt.Sprintf("%s, HTTP/1.1 %v", protocol, http1), func(t *testing.T) {
				release, end := make(chan struct{}), make(chan struct{})
				addr := serve(t, ServerConfig{}, chaosMux(func(ctx context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
					x := ExchangeOf(ctx)
					x.Hold()
					if err := stream.Send(pong); err != nil {
						return err
					}
					<-release
					if err := x.Release(); err != nil {
						return err
					}
					<-end
					return nil
				}))
				opts, err := ClientOptions(protocol)
				if err != nil {
					t.Fatal(err)
				}
				client := NewHTTPClient(ClientConfig{HTTP1: http1})
				defer client.CloseIdleConnections()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				stream := aiconnect.NewAIClient(client, "http://"+addr, opts...).Chaos(ctx)
				if err := stream.CloseRequest(); err != nil {
					t.Fatal(err)
				}
				received := make(chan error, 1)
				go func() {
					_, err := stream.Receive()
					received <- err
				}()
				select {
				case err := <-received:
					t.Errorf("before it was released: %v", err)
				case <-time.After(50 * time.Millisecond):
				}
				close(release)
				if err := <-received; err != nil {
					t.Error(err)
				}
				close(end)
				if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
					t.Errorf("after the last message: %v", err)
				}
				if err := stream.CloseResponse(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
