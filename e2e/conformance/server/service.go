package main

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/aipod/aipod/e2e/conformance/compat"
	conformancev1 "github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1"
	"github.com/aipod/aipod/e2e/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
)

// conformance is the suite's service. A request says what the answer is to be,
// and the answer repeats what of the request has arrived.
type conformance struct {
	conformancev1connect.UnimplementedConformanceServiceHandler
}

func (conformance) Unary(ctx context.Context, req *connect.Request[conformancev1.UnaryRequest]) (*connect.Response[conformancev1.UnaryResponse], error) {
	payload, err := answer(ctx, req.Msg.GetResponseDefinition(), req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&conformancev1.UnaryResponse{Payload: payload}), nil
}

func (conformance) IdempotentUnary(ctx context.Context, req *connect.Request[conformancev1.IdempotentUnaryRequest]) (*connect.Response[conformancev1.IdempotentUnaryResponse], error) {
	payload, err := answer(ctx, req.Msg.GetResponseDefinition(), req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&conformancev1.IdempotentUnaryResponse{Payload: payload}), nil
}

func (conformance) ClientStream(ctx context.Context, stream *connect.ClientStream[conformancev1.ClientStreamRequest]) (*connect.Response[conformancev1.ClientStreamResponse], error) {
	var requests []proto.Message
	var def *conformancev1.UnaryResponseDefinition
	for stream.Receive() {
		// The stream uses its message again for the next one.
		request := proto.CloneOf(stream.Msg())
		if len(requests) == 0 {
			def = request.GetResponseDefinition()
		}
		requests = append(requests, request)
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	payload, err := answer(ctx, def, requests...)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&conformancev1.ClientStreamResponse{Payload: payload}), nil
}

func (conformance) ServerStream(ctx context.Context, req *connect.Request[conformancev1.ServerStreamRequest], stream *connect.ServerStream[conformancev1.ServerStreamResponse]) error {
	out := newOutput(ctx, req.Msg.GetResponseDefinition(), func(payload *conformancev1.ConformancePayload) error {
		if payload == nil {
			return stream.Send(nil)
		}
		return stream.Send(&conformancev1.ServerStreamResponse{Payload: payload})
	})
	out.requests = []proto.Message{req.Msg}
	return out.finish(ctx)
}

// BidiStream answers each request as it comes if it is full-duplex, and else
// begins after the last one.
func (conformance) BidiStream(ctx context.Context, stream *connect.BidiStream[conformancev1.BidiStreamRequest, conformancev1.BidiStreamResponse]) error {
	send := func(payload *conformancev1.ConformancePayload) error {
		if payload == nil {
			return stream.Send(nil)
		}
		return stream.Send(&conformancev1.BidiStreamResponse{Payload: payload})
	}
	var out *output
	fullDuplex := false
	for {
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if out == nil {
			out = newOutput(ctx, request.GetResponseDefinition(), send)
			fullDuplex = request.GetFullDuplex()
		}
		out.requests = append(out.requests, request)
		if !fullDuplex {
			continue
		}
		if out.done() {
			break
		}
		if err := out.next(ctx); err != nil {
			return err
		}
		out.requests = nil
	}
	if out == nil {
		return nil
	}
	if fullDuplex && out.sent > 0 {
		// What follows are no answers to requests any more.
		out.requests = nil
	}
	return out.finish(ctx)
}

// An output sends what a definition has to a stream.
type output struct {
	def      *conformancev1.StreamResponseDefinition
	send     func(*conformancev1.ConformancePayload) error // nil: only the headers
	requests []proto.Message                               // received, and not yet repeated to the client
	sent     int
}

func newOutput(ctx context.Context, def *conformancev1.StreamResponseDefinition, send func(*conformancev1.ConformancePayload) error) *output {
	setMetadata(ctx, def)
	return &output{def: def, send: send}
}

func (o *output) done() bool { return o.sent == len(o.def.GetResponseData()) }

// next sends one payload. The first one has all of the request's properties;
// later ones have the requests that came since, if any.
func (o *output) next(ctx context.Context) error {
	payload := &conformancev1.ConformancePayload{Data: o.def.GetResponseData()[o.sent]}
	if o.sent == 0 {
		// The headers must not wait for the delay.
		if err := o.send(nil); err != nil {
			return err
		}
		info, err := requestInfo(ctx, o.requests)
		if err != nil {
			return err
		}
		payload.RequestInfo = info
	} else if len(o.requests) > 0 {
		requests, err := asAny(o.requests)
		if err != nil {
			return err
		}
		payload.RequestInfo = &conformancev1.ConformancePayload_RequestInfo{Requests: requests}
	}
	pause(o.def.GetResponseDelayMs())
	o.sent++
	return o.send(payload)
}

// finish sends what is left, and returns the error that is to come at the end.
func (o *output) finish(ctx context.Context) error {
	for !o.done() {
		if err := o.next(ctx); err != nil {
			return err
		}
		o.requests = nil
	}
	if o.def.GetError() == nil {
		return nil
	}
	if o.sent > 0 {
		return asError(o.def.GetError())
	}
	info, err := requestInfo(ctx, o.requests)
	if err != nil {
		return err
	}
	return asError(o.def.GetError(), info)
}

// answer is the only payload of a call that has one.
func answer(ctx context.Context, def *conformancev1.UnaryResponseDefinition, requests ...proto.Message) (*conformancev1.ConformancePayload, error) {
	info, err := requestInfo(ctx, requests)
	if err != nil {
		return nil, err
	}
	setMetadata(ctx, def)
	pause(def.GetResponseDelayMs())
	if def.GetError() != nil {
		return nil, asError(def.GetError(), info)
	}
	return &conformancev1.ConformancePayload{Data: def.GetResponseData(), RequestInfo: info}, nil
}

// setMetadata sets the headers and trailers of the answer, of errors too.
func setMetadata(ctx context.Context, def interface {
	GetResponseHeaders() []*conformancev1.Header
	GetResponseTrailers() []*conformancev1.Header
}) {
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		compat.AddHeaders(call.ResponseHeader(), def.GetResponseHeaders())
		compat.AddHeaders(call.ResponseTrailer(), def.GetResponseTrailers())
	}
}

// requestInfo is what the handler sees of the call.
func requestInfo(ctx context.Context, requests []proto.Message) (*conformancev1.ConformancePayload_RequestInfo, error) {
	all, err := asAny(requests)
	if err != nil {
		return nil, err
	}
	info := &conformancev1.ConformancePayload_RequestInfo{Requests: all}
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		info.RequestHeaders = compat.Headers(call.RequestHeader())
		if query := call.Peer().Query; len(query) > 0 {
			info.ConnectGetInfo = &conformancev1.ConformancePayload_ConnectGetInfo{QueryParams: compat.Headers(query)}
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		info.TimeoutMs = new(time.Until(deadline).Milliseconds())
	}
	return info, nil
}

func asAny(messages []proto.Message) ([]*anypb.Any, error) {
	var all []*anypb.Any
	for _, m := range messages {
		one, err := anypb.New(m)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// asError is the error that e describes, with further details.
func asError(e *conformancev1.Error, more ...proto.Message) error {
	err := connect.NewError(connect.Code(e.GetCode()), errors.New(e.GetMessage()))
	details, anyErr := asAny(more)
	if anyErr != nil {
		return anyErr
	}
	for _, d := range append(e.GetDetails(), details...) {
		detail, derr := connect.NewErrorDetail(d)
		if derr != nil {
			return derr
		}
		err.AddDetail(detail)
	}
	return err
}

// pause ignores the deadline of the call on purpose: an answer that leaves at
// the very moment when the suite's client gives up is half read, and the suite
// takes that for a malformed one.
func pause(ms uint32) { time.Sleep(time.Duration(ms) * time.Millisecond) }
