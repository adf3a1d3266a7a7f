package client

import (
	"errors"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/aipod/aipod/internal/codec"
)

// A verdict is what the end of a stream means for a job.
type verdict int

const (
	final   verdict = iota // nothing that the client does will help
	again                  // the connection was cut: another stream
	failing                // the pod said so, but of itself: another stream, for some times
	refused                // the pod has no room now, and says when to try again
	over                   // the job has ended or was deleted: look what became of it
	evicted                // someone else sends the input now
	resend                 // what has come is not what was sent: send it again
)

// judge gives the verdict on the error of a stream or request. after is when the
// pod wants to be asked again; 0 if it doesn't say.
func judge(err error) (v verdict, after time.Duration) {
	var (
		rpc     *connect.Error
		payload *codec.PayloadError
	)
	switch {
	case errors.Is(err, errWrongOutput):
		return resend, 0
	case errors.Is(err, errGap), errors.As(err, &payload):
		return failing, 0
	case !errors.As(err, &rpc):
		return again, 0
	}
	after, told := retryAfter(rpc)
	if !connect.IsWireError(rpc) {
		switch rpc.Code() {
		case connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeUnimplemented, connect.CodeInvalidArgument:
			return final, 0
		}
		return again, after
	}
	switch rpc.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return again, after
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeOutOfRange:
		return failing, after
	case connect.CodeResourceExhausted:
		if told {
			return refused, after
		}
	case connect.CodeAborted:
		if strings.Contains(rpc.Message(), "superseded") {
			return evicted, 0
		}
		return over, after
	case connect.CodeCanceled:
		return over, after
	case connect.CodeDataLoss:
		return resend, 0
	}
	return final, 0
}

// retryAfter is the pod's own word on when to try again.
func retryAfter(rpc *connect.Error) (time.Duration, bool) {
	if info, ok := detail[*errdetails.RetryInfo](rpc); ok {
		return max(info.GetRetryDelay().AsDuration(), 0), true
	}
	return 0, false
}

// detail finds a detail of an error.
func detail[T any](rpc *connect.Error) (found T, ok bool) {
	for _, d := range rpc.Details() {
		value, err := d.Value()
		if err != nil {
			continue // of a type that this client doesn't know
		}
		if found, ok = value.(T); ok {
			return found, true
		}
	}
	return found, false
}

// strange says that what answered is not a pod, or knows nothing of streams.
func strange(err error) bool {
	var rpc *connect.Error
	if !errors.As(err, &rpc) || connect.IsWireError(rpc) {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	message := rpc.Message()
	switch rpc.Code() {
	case connect.CodeUnimplemented:
		return true
	case connect.CodeUnknown:
		return strings.HasPrefix(message, "HTTP status") || strings.Contains(message, "content-type")
	}
	// net/http has no better way to tell that the peer speaks HTTP/1.1 only.
	return strings.Contains(message, "HTTP/1.1")
}
