package service

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"

	"github.com/aipod/aipod/internal/transport"
)

// HandlerOptions are connect's options for every handler of a pod: the
// transport's, and the interceptor that gives errors their codes.
func HandlerOptions(log *slog.Logger) []connect.HandlerOption {
	return append(transport.HandlerOptions(),
		connect.WithInterceptors(codes{log}),
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, v any) error {
			log.Error("handler panicked", "procedure", spec.Procedure, "panic", v, "stack", string(debug.Stack()))
			return connect.NewError(connect.CodeInternal, errors.New("internal error; the pod's log has the cause"))
		}),
	)
}

// codes is the interceptor that runs what handlers return through toConnect.
type codes struct{ log *slog.Logger }

func (c codes) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		return res, c.convert(err, req.Spec())
	}
}

func (c codes) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return c.convert(next(ctx, conn), conn.Spec())
	}
}

func (codes) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (c codes) convert(err error, spec connect.Spec) error {
	if err == nil {
		return nil
	}
	err = toConnect(err, c.log.With("procedure", spec.Procedure))
	c.log.Debug("call refused or failed", "procedure", spec.Procedure, "code", connect.CodeOf(err), "err", err)
	return err
}
