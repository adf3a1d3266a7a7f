package service

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/transport"
)

// echoAI is what connect-go does without a pod: the same messages there and back.
type echoAI struct {
	aiconnect.UnimplementedAIHandler
}

func (echoAI) Chaos(_ context.Context, stream *connect.BidiStream[ai.Raw, ai.Raw]) error {
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

// BenchmarkSmallCall is one unnamed call of 1 KiB there and 1 KiB back, against
// connect-go's own echo.
func BenchmarkSmallCall(b *testing.B) {
	kwargs := []byte(`{"name":"` + strings.Repeat("x", 1024) + `"}`)
	b.Run("aipod", func(b *testing.B) {
		tp := startPod(b, nil)
		tp.model.funcs["echo"] = tp.model.funcs["kwargs"]
		stop := make(chan struct{})
		defer close(stop)
		go func() { // or it would be full
			for {
				select {
				case <-tp.model.started:
				case <-stop:
					return
				}
			}
		}()
		benchCalls(b, tp.client(b, transport.GRPC), kwargs)
	})
	b.Run("connect", func(b *testing.B) {
		mux := http.NewServeMux()
		mux.Handle(aiconnect.NewAIHandler(echoAI{}))
		server := httptest.NewUnstartedServer(mux)
		server.Config = transport.NewServer(transport.ServerConfig{}, mux)
		server.Start()
		defer server.Close()
		client := aiconnect.NewAIClient(transport.NewHTTPClient(transport.ClientConfig{}), server.URL, connect.WithGRPC())
		benchCalls(b, client, kwargs)
	})
}

func benchCalls(b *testing.B, client aiconnect.AIClient, kwargs []byte) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			stream := client.Chaos(context.Background())
			stream.RequestHeader().Set(headerFunc, "echo")
			if err := stream.Send(&ai.Raw{Data: kwargs}); err != nil {
				b.Error(err)
			}
			if err := stream.CloseRequest(); err != nil {
				b.Error(err)
			}
			for {
				if _, err := stream.Receive(); err != nil {
					break
				}
			}
			if err := stream.CloseResponse(); err != nil {
				b.Error(err)
			}
		}
	})
}
