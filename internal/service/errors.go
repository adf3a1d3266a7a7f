package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// retrySpool is when a caller may try again after the spool was full. Space
// comes back when other jobs end.
const retrySpool = 5 * time.Second

// toConnect gives every error its code: this is the only place where codes are
// chosen. Errors that no case knows are internal: the caller learns that much,
// the log learns the cause.
func toConnect(err error, log *slog.Logger) error {
	var (
		wire     *connect.Error
		payload  *codec.PayloadError
		input    *worker.InputError
		function *worker.FunctionError
		version  *worker.VersionError
		queue    *worker.QueueFullError
		panicked *worker.PanicError
		failed   *worker.FailedError
		resource *worker.ResourceError
		crash    *worker.CrashError
		timeout  *worker.TimeoutError
		limit    *spool.LimitError
		budget   *spool.BudgetError
		disk     *spool.DiskFullError
		gap      *spool.GapError
		conflict *spool.ConflictError
		size     *spool.SizeError
		checksum *spool.ChecksumError
		exists   *job.ExistsError
		attempts *job.AttemptsError
		failure  *job.ExplainedError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wire):
		return wire
	case errors.As(err, &payload):
		return connect.NewError(connect.CodeInvalidArgument, payload)
	case errors.As(err, &input):
		return connect.NewError(connect.CodeInvalidArgument, input)
	case errors.As(err, &function):
		return connect.NewError(connect.CodeUnimplemented, function)
	case errors.As(err, &version):
		return connect.NewError(connect.CodeNotFound, version)
	case errors.As(err, &queue):
		return retryable(connect.CodeResourceExhausted, queue, queue.RetryAfter)
	case errors.As(err, &panicked):
		log.Error("function panicked", "func", panicked.Func, "panic", panicked.Value, "stack", string(panicked.Stack))
		return connect.NewError(connect.CodeInternal, errors.New("the function "+panicked.Func+" panicked; the pod's log says where"))
	case errors.As(err, &failed):
		return connect.NewError(connect.CodeUnknown, failed)
	case errors.As(err, &timeout):
		return connect.NewError(connect.CodeDeadlineExceeded, timeout)
	case errors.As(err, &resource):
		return connect.NewError(connect.CodeResourceExhausted, resource)
	case errors.As(err, &crash) && crash.OutOfMemory:
		return connect.NewError(connect.CodeResourceExhausted, crash)
	case errors.As(err, &crash):
		return connect.NewError(connect.CodeAborted, crash)
	case errors.As(err, &limit):
		return detailed(connect.CodeResourceExhausted, limit, &aipodv1.SizeLimit{Limit: limit.Limit})
	case errors.As(err, &budget):
		return retryable(connect.CodeResourceExhausted, budget, retrySpool)
	case errors.As(err, &disk):
		log.Error("disk full", "err", disk.Unwrap())
		return retryable(connect.CodeResourceExhausted, disk, retrySpool)
	case errors.As(err, &gap):
		return detailed(connect.CodeOutOfRange, gap, &aipodv1.Committed{Offset: gap.Committed})
	case errors.As(err, &size) && size.Committed < size.Size:
		return detailed(connect.CodeOutOfRange, size, &aipodv1.Committed{Offset: size.Committed})
	case errors.As(err, &size):
		return connect.NewError(connect.CodeInvalidArgument, size)
	case errors.As(err, &conflict):
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(
			"%w: the payload is not the one that the job was begun with; call under another id", conflict))
	case errors.As(err, &checksum):
		return detailed(connect.CodeDataLoss, fmt.Errorf("%w: send it again", checksum), &aipodv1.Committed{})
	case errors.As(err, &exists):
		return connect.NewError(connect.CodeAlreadyExists, exists)
	case errors.As(err, &attempts):
		return connect.NewError(connect.CodeAborted, attempts)
	case errors.As(err, &failure):
		return connect.NewError(connect.Code(failure.Code), failure)
	case errors.Is(err, job.ErrNotFound):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, job.ErrSuperseded):
		return connect.NewError(connect.CodeAborted, job.ErrSuperseded)
	case errors.Is(err, job.ErrCanceled), errors.Is(err, job.ErrDeleted):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, spool.ErrClosed), errors.Is(err, job.ErrGone):
		return connect.NewError(connect.CodeAborted, errors.New("the job has ended or was deleted meanwhile"))
	case errors.Is(err, job.ErrDraining), errors.Is(err, job.ErrShutdown), errors.Is(err, worker.ErrClosed):
		return retryable(connect.CodeUnavailable, err, time.Second)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the deadline of the call has passed"))
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the call was canceled"))
	}
	log.Error("internal error", "err", err)
	return connect.NewError(connect.CodeInternal, errors.New("internal error; the pod's log has the cause"))
}

// retryable is an error with google.rpc.RetryInfo.
func retryable(code connect.Code, err error, after time.Duration) *connect.Error {
	return detailed(code, err, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

// detailed is an error with facts for programs.
func detailed(code connect.Code, err error, fact proto.Message) *connect.Error {
	e := connect.NewError(code, err)
	if detail, derr := connect.NewErrorDetail(fact); derr == nil {
		e.AddDetail(detail)
	}
	return e
}
