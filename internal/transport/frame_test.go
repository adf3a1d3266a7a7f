package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
)

// testAI answers chaos as its field does.
type testAI struct {
	aiconnect.UnimplementedAIHandler
	chaos func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error
}

func (h testAI) Chaos(ctx context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
	return h.chaos(ctx, stream)
}

// serve starts a server as a pod does and returns its address.
func serve(t *testing.T, cfg ServerConfig, handler http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(cfg, handler)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return ln.Addr().String()
}

// chaosMux is the handler of testAI with Bulk and Middleware around it.
func chaosMux(chaos func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(Bulk(func(opts ...connect.HandlerOption) (string, http.Handler) {
		return aiconnect.NewAIHandler(testAI{chaos: chaos}, opts...)
	}, HandlerOptions()...))
	return Middleware(mux)
}

// dialFrames opens an HTTP/2 connection without TLS and sends the preface.
func dialFrames(t *testing.T, addr string) *http2.Framer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return framer
}

// A frame is what a test says of a HEADERS or DATA frame.
type frame struct {
	Type http2.FrameType
	End  bool
	// Status is grpc-status if the frame has it; Mark is x-mark.
	Status, Mark string
}

// callFrames calls chaos over gRPC with an empty input and returns the frames
// that its stream gets.
func callFrames(t *testing.T, addr string) []frame {
	t.Helper()
	framer := dialFrames(t, addr)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", aiconnect.AIChaosProcedure}, {":authority", addr},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	var frames []frame
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after %+v: %v", frames, err)
		}
		if f.Header().StreamID != 1 {
			continue
		}
		got := frame{Type: f.Header().Type}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			got.End = f.StreamEnded()
			for _, field := range f.RegularFields() {
				switch field.Name {
				case "grpc-status":
					got.Status = field.Value
				case "x-mark":
					got.Mark = field.Value
				}
			}
		case *http2.DataFrame:
			got.End = f.StreamEnded()
		case *http2.RSTStreamFrame:
			t.Fatalf("after %+v: reset with %v", frames, f.ErrCode)
		default:
			continue
		}
		frames = append(frames, got)
		if got.End {
			return frames
		}
	}
}

func TestTrailersOnly(t *testing.T) {
	refusal := connect.NewError(connect.CodeUnavailable, errors.New("try again"))
	for _, test := range []struct {
		name  string
		chaos func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error
		want  []frame
	}{{
		name:  "error before the first message",
		chaos: func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error { return refusal },
		want:  []frame{{Type: http2.FrameHeaders, End: true, Status: "14"}},
	}, {
		name:  "end before the first message",
		chaos: func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error { return nil },
		want:  []frame{{Type: http2.FrameHeaders, End: true, Status: "0"}},
	}, {
		name: "error with a trailer",
		chaos: func(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
			stream.ResponseTrailer().Set("X-Mark", "trailer")
			return refusal
		},
		want: []frame{{Type: http2.FrameHeaders, End: true, Status: "14", Mark: "trailer"}},
	}, {
		// Clients look for it in front of the status.
		name: "error with a header",
		chaos: func(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
			stream.ResponseHeader().Set("X-Mark", "header")
			return refusal
		},
		want: []frame{{Type: http2.FrameHeaders, Mark: "header"}, {Type: http2.FrameHeaders, End: true, Status: "14"}},
	}, {
		name: "error after the headers",
		chaos: func(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
			if err := stream.Send(nil); err != nil {
				return err
			}
			return refusal
		},
		want: []frame{{Type: http2.FrameHeaders}, {Type: http2.FrameHeaders, End: true, Status: "14"}},
	}, {
		name: "error after a message",
		chaos: func(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
			if err := stream.Send(&ai.Raw{Data: []byte("PONG")}); err != nil {
				return err
			}
			return refusal
		},
		want: []frame{{Type: http2.FrameHeaders}, {Type: http2.FrameData}, {Type: http2.FrameHeaders, End: true, Status: "14"}},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got := callFrames(t, serve(t, ServerConfig{}, chaosMux(test.chaos)))
			// A message may come in more than one frame.
			got = slices.CompactFunc(got, func(a, b frame) bool { return a == b && a.Type == http2.FrameData })
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTrailersOnlyInsideAnotherMiddleware(t *testing.T) {
	inner := chaosMux(func(context.Context, *connect.BidiStream[ai.Raw, ai.Raw]) error {
		return connect.NewError(connect.CodeUnavailable, errors.New("try again"))
	})
	addr := serve(t, ServerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Mark", "outer")
		inner.ServeHTTP(w, r)
	}))
	want := []frame{{Type: http2.FrameHeaders, End: true, Status: "14", Mark: "outer"}}
	if diff := cmp.Diff(want, callFrames(t, addr)); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestServerSettings(t *testing.T) {
	for _, test := range []struct {
		name                           string
		cfg                            ServerConfig
		streams, streamWindow, connWin uint32
	}{
		{"defaults", ServerConfig{}, 1000, 8 << 20, 16 << 20},
		{"configured", ServerConfig{MaxStreams: 7, StreamWindow: 32 << 20, ConnWindow: 64 << 20}, 7, 32 << 20, 64 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			framer := dialFrames(t, serve(t, test.cfg, http.NotFoundHandler()))
			settings := map[http2.SettingID]uint32{}
			var window uint32
			for window == 0 {
				f, err := framer.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch f := f.(type) {
				case *http2.SettingsFrame:
					for i := range f.NumSettings() {
						settings[f.Setting(i).ID] = f.Setting(i).Val
					}
				case *http2.WindowUpdateFrame:
					// The window of a connection begins with 65535 bytes.
					window = 65535 + f.Increment
				}
			}
			for id, want := range map[http2.SettingID]uint32{
				http2.SettingMaxConcurrentStreams: test.streams,
				http2.SettingInitialWindowSize:    test.streamWindow,
				http2.SettingMaxFrameSize:         readFrame,
			} {
				if settings[id] != want {
					t.Errorf("%v is %d, want %d", id, settings[id], want)
				}
			}
			if window != test.connWin {
				t.Errorf("the connection's window is %d, want %d", window, test.connWin)
			}
		})
	}
}

func TestWithout(t *testing.T) {
	for list, want := range map[string]string{
		"gzip":                     "",
		"identity, deflate, gzip":  "identity, deflate",
		"gzip,zstd":                "zstd",
		"x-gzip":                   "x-gzip",
		"identity":                 "identity",
		strings.Repeat("gzip,", 2): "",
	} {
		if got := without(list, "gzip"); got != want {
			t.Errorf("without gzip, %q is %q, want %q", list, got, want)
		}
	}
}
