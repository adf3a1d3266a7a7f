package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/aipod/aipod/e2e/conformance/compat"
	conformancev1 "github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1"
	"github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
)

// A caller makes one call and notes what comes of it.
type caller struct {
	client conformancev1connect.ConformanceServiceClient
	req    *conformancev1.ClientCompatRequest
	result *conformancev1.ClientResponseResult
	cancel context.CancelFunc

	// When to cancel: instead of half-closing, a time after that, or after so
	// many responses. The latter two are negative if not at all.
	beforeClose    bool
	afterClose     time.Duration
	afterResponses int
}

func newCaller(client conformancev1connect.ConformanceServiceClient, req *conformancev1.ClientCompatRequest) *caller {
	c := &caller{client: client, req: req, result: new(conformancev1.ClientResponseResult), afterClose: -1, afterResponses: -1}
	if req.GetCancel() == nil {
		return c
	}
	switch timing := req.GetCancel().GetCancelTiming().(type) {
	case *conformancev1.ClientCompatRequest_Cancel_BeforeCloseSend:
		c.beforeClose = true
	case *conformancev1.ClientCompatRequest_Cancel_AfterNumResponses:
		c.afterResponses = int(timing.AfterNumResponses)
	case *conformancev1.ClientCompatRequest_Cancel_AfterCloseSendMs:
		c.afterClose = time.Duration(timing.AfterCloseSendMs) * time.Millisecond
	case nil:
		c.afterClose = 0
	}
	return c
}

func (c *caller) call(ctx context.Context) (*conformancev1.ClientResponseResult, error) {
	if c.req.GetService() != conformancev1connect.ConformanceServiceName {
		return nil, fmt.Errorf("unknown service %q", c.req.GetService())
	}
	if c.req.TimeoutMs != nil {
		timeout, cancel := context.WithTimeout(ctx, time.Duration(c.req.GetTimeoutMs())*time.Millisecond)
		defer cancel()
		ctx = timeout
	}
	ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	ctx, info := connect.NewClientContext(ctx)
	compat.AddHeaders(info.RequestHeader(), c.req.GetRequestHeaders())
	if err := c.invoke(ctx); err != nil {
		return nil, err
	}
	c.result.ResponseHeaders = compat.Headers(info.ResponseHeader())
	c.result.ResponseTrailers = compat.Headers(info.ResponseTrailer())
	return c.result, nil
}

func (c *caller) invoke(ctx context.Context) error {
	switch c.req.GetMethod() {
	case "Unary":
		return unary(ctx, c, c.client.Unary)
	case "IdempotentUnary":
		return unary(ctx, c, c.client.IdempotentUnary)
	case "Unimplemented":
		return unary(ctx, c, c.client.Unimplemented)
	case "ServerStream":
		return c.serverStream(ctx)
	case "ClientStream":
		return c.clientStream(ctx)
	case "BidiStream":
		return c.bidiStream(ctx)
	}
	return fmt.Errorf("unknown method %q", c.req.GetMethod())
}

func unary[Req, Res any](ctx context.Context, c *caller, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) error {
	messages, err := requests[Req](c.req.GetRequestMessages())
	if err != nil {
		return err
	}
	if len(messages) != 1 {
		return fmt.Errorf("a unary call has one request, not %d", len(messages))
	}
	c.cancelLater()
	res, err := method(ctx, connect.NewRequest(messages[0]))
	if err != nil {
		c.failed(err)
		return nil
	}
	// An UnimplementedResponse has no payload.
	if res, ok := any(res.Msg).(interface {
		GetPayload() *conformancev1.ConformancePayload
	}); ok {
		c.received(res.GetPayload())
	}
	return nil
}

func (c *caller) serverStream(ctx context.Context) error {
	messages, err := requests[conformancev1.ServerStreamRequest](c.req.GetRequestMessages())
	if err != nil {
		return err
	}
	if len(messages) != 1 {
		return fmt.Errorf("a server stream has one request, not %d", len(messages))
	}
	stream, err := c.client.ServerStream(ctx, connect.NewRequest(messages[0]))
	if err != nil {
		c.failed(err)
		return nil
	}
	c.cancelLater()
	for stream.Receive() {
		c.received(stream.Msg().GetPayload())
	}
	c.failed(stream.Err())
	c.failed(stream.Close())
	return nil
}

func (c *caller) clientStream(ctx context.Context) error {
	messages, err := requests[conformancev1.ClientStreamRequest](c.req.GetRequestMessages())
	if err != nil {
		return err
	}
	stream := c.client.ClientStream(ctx)
	for i, m := range messages {
		c.pause()
		if stream.Send(m) != nil {
			c.unsent(len(messages) - i)
			break
		}
	}
	if c.beforeClose {
		c.cancel()
	}
	c.cancelLater()
	res, err := stream.CloseAndReceive()
	if err != nil {
		c.failed(err)
		return nil
	}
	c.received(res.Msg.GetPayload())
	return nil
}

func (c *caller) bidiStream(ctx context.Context) error {
	messages, err := requests[conformancev1.BidiStreamRequest](c.req.GetRequestMessages())
	if err != nil {
		return err
	}
	fullDuplex := c.req.GetStreamType() == conformancev1.StreamType_STREAM_TYPE_FULL_DUPLEX_BIDI_STREAM
	stream := c.client.BidiStream(ctx)
	// receive tells whether there may be more to receive.
	receive := func() bool {
		res, err := stream.Receive()
		switch {
		case err == nil:
			c.received(res.GetPayload())
		case !errors.Is(err, io.EOF):
			c.failed(err)
		}
		return err == nil
	}
	more := true
	for i, m := range messages {
		c.pause()
		// The error of Send is only that there is one to Receive.
		if stream.Send(m) != nil {
			c.unsent(len(messages) - i)
			break
		}
		if fullDuplex {
			if more = receive(); !more {
				break
			}
		}
	}
	if c.beforeClose {
		c.cancel()
	}
	c.failed(stream.CloseRequest())
	c.cancelLater()
	for more && receive() {
	}
	c.failed(stream.CloseResponse())
	return nil
}

// requests unpacks the messages to be sent.
func requests[T any](from []*anypb.Any) ([]*T, error) {
	var messages []*T
	for _, packed := range from {
		m := new(T)
		if err := packed.UnmarshalTo(any(m).(proto.Message)); err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// cancelLater starts the time after which to cancel, if there is one.
func (c *caller) cancelLater() {
	if c.afterClose >= 0 {
		time.AfterFunc(c.afterClose, c.cancel)
	}
}

func (c *caller) pause() {
	time.Sleep(time.Duration(c.req.GetRequestDelayMs()) * time.Millisecond)
}

func (c *caller) unsent(n int) { c.result.NumUnsentRequests = int32(n) }

func (c *caller) received(payload *conformancev1.ConformancePayload) {
	c.result.Payloads = append(c.result.Payloads, payload)
	if len(c.result.Payloads) == c.afterResponses {
		c.cancel()
	}
}

// failed notes the first error.
func (c *caller) failed(err error) {
	if err == nil || c.result.Error != nil {
		return
	}
	c.result.Error = &conformancev1.Error{Code: conformancev1.Code(connect.CodeOf(err)), Message: new(err.Error())}
	var wire *connect.Error
	if errors.As(err, &wire) {
		c.result.Error.Message = new(wire.Message())
		for _, d := range wire.Details() {
			c.result.Error.Details = append(c.result.Error.Details,
				&anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
		}
	}
}
