package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
)

// The exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitInterrupted = 130
)

// A failure is an error as the user gets to see it: one line, and an exit code.
type failure struct {
	exit int
	code connect.Code // 0 when no RPC was involved
	what string       // what is wrong; empty when the output has said it already
	todo string       // what to do about it, if anything is known
	job  string       // the job's id, if it is known
	said bool         // stderr has it already
	err  error        // the cause, if any
}

func (f *failure) Error() string { return f.line() }
func (f *failure) Unwrap() error { return f.err }

// message is the line without the job and the remedy.
func (f *failure) message() string {
	return strings.Join(strings.Fields(f.what), " ")
}

func (f *failure) line() string {
	if f.what == "" || f.said {
		return ""
	}
	line := f.message()
	if f.code != 0 {
		line = f.code.String() + ": " + line
	}
	if f.job != "" {
		line += " (job " + f.job + ")"
	}
	if f.todo != "" {
		line += "; " + f.todo
	}
	return line
}

// codeName is the RPC code as scripts get to see it.
func (f *failure) codeName() string {
	switch {
	case f.code != 0:
		return f.code.String()
	case f.exit == exitInterrupted:
		return connect.CodeCanceled.String()
	case f.exit == exitUnreachable:
		return connect.CodeUnavailable.String()
	}
	return connect.CodeUnknown.String()
}

// usagef is wrong usage.
func usagef(format string, args ...any) error {
	return &failure{exit: exitUsage, what: fmt.Sprintf(format, args...)}
}

// failf is a failure on this side, with a cause if the last argument is one.
func failf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &failure{exit: exitFailed, what: err.Error(), err: errors.Unwrap(err)}
}

// asBodyFailure is for errors of a command's body, whose usage was right.
func asBodyFailure(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{exit: exitFailed, what: err.Error(), err: err}
}

// asFailure is for all that comes out of a command line: what is not a failure
// yet is cobra's, and wrong usage.
func asFailure(ctx context.Context, err error) *failure {
	var f *failure
	if !errors.As(err, &f) {
		what, _, _ := strings.Cut(err.Error(), "\n")
		f = &failure{exit: exitUsage, what: what, todo: "see: client --help", err: err}
	}
	if ctx.Err() != nil && f.exit != exitUsage && f.exit != exitInterrupted {
		return &failure{exit: exitInterrupted, what: "interrupted", job: f.job, err: err}
	}
	return f
}
