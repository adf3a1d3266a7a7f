package client

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aipod/aipod/internal/codec"
)

// wireError is an error that the pod sent.
func wireError(t *testing.T, code connect.Code, text string, after time.Duration) error {
	t.Helper()
	err := connect.NewWireError(code, errors.New(text))
	if after >= 0 {
		d, derr := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
		if derr != nil {
			t.Fatal(derr)
		}
		err.AddDetail(d)
	}
	return err
}

func TestJudge(t *testing.T) {
	wire := func(code connect.Code, text string) error { return wireError(t, code, text, -1) }
	own := func(code connect.Code, text string) error { return connect.NewError(code, errors.New(text)) }
	for _, c := range []struct {
		err   error
		want  verdict
		after time.Duration
	}{
		{err: errCut, want: again},
		{err: fmt.Errorf("%w: no answer", errSilent), want: again},
		{err: errStalled, want: again},
		{err: fmt.Errorf("%w: at 5", errGap), want: failing},
		{err: &codec.PayloadError{Reason: "bad"}, want: failing},
		{err: errWrongOutput, want: resend},
		{err: own(connect.CodeInternal, "unexpected EOF"), want: again},
		{err: own(connect.CodeUnknown, "HTTP status 500"), want: again},
		{err: own(connect.CodeUnavailable, "HTTP status 502"), want: again},
		{err: own(connect.CodeResourceExhausted, "ENHANCE_YOUR_CALM"), want: again},
		{err: own(connect.CodeCanceled, "RST_STREAM"), want: again},
		{err: own(connect.CodePermissionDenied, "HTTP status 403"), want: final},
		{err: own(connect.CodeUnimplemented, "HTTP status 404"), want: final},
		{err: wire(connect.CodeUnavailable, "x"), want: again},
		{err: wireError(t, connect.CodeUnavailable, "draining", time.Second), want: again, after: time.Second},
		{err: wire(connect.CodeDeadlineExceeded, "x"), want: again},
		{err: wire(connect.CodeInternal, "x"), want: failing},
		{err: wire(connect.CodeUnknown, "x"), want: failing},
		{err: wire(connect.CodeOutOfRange, "x"), want: failing},
		{err: wire(connect.CodeDataLoss, "x"), want: resend},
		{err: wire(connect.CodeAborted, "superseded: a newer stream"), want: evicted},
		{err: wire(connect.CodeAborted, "x"), want: over},
		{err: wire(connect.CodeCanceled, "x"), want: over},
		{err: wireError(t, connect.CodeResourceExhausted, "full", 5*time.Second), want: refused, after: 5 * time.Second},
		{err: wire(connect.CodeResourceExhausted, "too large"), want: final},
		{err: wire(connect.CodeInvalidArgument, "x"), want: final},
		{err: wire(connect.CodeNotFound, "x"), want: final},
		{err: wire(connect.CodeAlreadyExists, "x"), want: final},
		{err: wire(connect.CodeUnimplemented, "x"), want: final},
		{err: wire(connect.CodeFailedPrecondition, "x"), want: final},
		{err: wire(connect.CodePermissionDenied, "x"), want: final},
		{err: wire(connect.CodeUnauthenticated, "x"), want: final},
	} {
		if got, after := judge(c.err); got != c.want || after != c.after {
			t.Errorf("%v: %d after %v, want %d after %v", c.err, got, after, c.want, c.after)
		}
	}
}

func TestStrange(t *testing.T) {
	own := func(code connect.Code, text string) error { return connect.NewError(code, errors.New(text)) }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{own(connect.CodeUnknown, "HTTP status 505 HTTP Version Not Supported"), true},
		{own(connect.CodeUnknown, "HTTP status 415 Unsupported Media Type"), true},
		{own(connect.CodeUnimplemented, "bidi streams require at least HTTP/2"), true},
		{own(connect.CodeUnavailable, "the frame header looked like an HTTP/1.1 header"), true},
		{own(connect.CodeUnavailable, "HTTP status 502 Bad Gateway"), false},
		{own(connect.CodeUnknown, "read enveloped message: connection reset"), false},
		{wireError(t, connect.CodeUnimplemented, "no such function", -1), false},
		{connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), false},
		{errSilent, false},
	} {
		if got := strange(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
