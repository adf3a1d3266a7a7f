package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"connectrpc.com/connect"
)

// A JobError is how a job ended that the pod failed, canceled or refused.
type JobError struct {
	JobID   string
	Code    connect.Code
	Message string // what is wrong and what to do
	Log     []Log  // the last lines of the function's log, oldest first
	Refused bool   // the pod didn't take the job, or the request about it
}

func (e *JobError) Error() string {
	if e.Message == "" {
		return "the job failed: " + e.Code.String()
	}
	return e.Message
}

// An UnreachableError says that the pod couldn't be reached, or not any more.
type UnreachableError struct {
	Addr     string
	JobID    string        // empty if there is none
	Accepted bool          // the pod had accepted the job, which may go on
	Attempts int           // streams without progress
	Silence  time.Duration // since the last sign of the pod
	Err      error         // the last attempt's
}

func (e *UnreachableError) Error() string {
	what := explain(e.Err, e.Addr)
	switch {
	case e.Accepted && e.JobID != "":
		return fmt.Sprintf("the job %s was given up after %v without a sign of the pod: %s",
			e.JobID, e.Silence.Round(time.Second), what)
	case e.Attempts > 1:
		return fmt.Sprintf("%s (%d attempts)", what, e.Attempts)
	}
	return what
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// interrupted is the error of a context that has ended.
func interrupted(ctx context.Context, doing string) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return fmt.Errorf("%s: %w", doing, cause)
	}
	return fmt.Errorf("%s: %w: %w", doing, err, cause)
}

// explain says what is wrong with a connection, and what to do.
func explain(err error, addr string) string {
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		if u, perr := url.Parse(addr); perr == nil && isLoopback(u.Hostname()) {
			return "no pod answers at " + addr + ": start one"
		}
		return "no pod answers at " + addr + ": check the address and that the pod runs"
	case errors.As(err, &dns):
		return "no such host: " + dns.Name + ": check the address"
	case untrusted(err):
		return "the certificate of " + addr + " is not trusted: " + rootCause(err).Error() + ": trust its authority"
	case notTLS(err):
		return addr + " does not speak TLS: try http://"
	case errors.As(err, &op) && op.Op == "dial":
		return "cannot connect to " + addr + ": " + op.Err.Error() + ": check the address and that the pod runs"
	}
	return "no usable answer from " + addr + ": " + text(err) + ": check the address, and what is between here and the pod"
}

// permanent says that no further attempt will connect.
func permanent(err error) bool { return untrusted(err) || notTLS(err) }

func untrusted(err error) bool {
	var (
		unknown x509.UnknownAuthorityError
		cert    *tls.CertificateVerificationError
	)
	return errors.As(err, &unknown) || errors.As(err, &cert)
}

func notTLS(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// rootCause is the innermost error.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// text is an error's text without connect's code in front.
func text(err error) string {
	var rpc *connect.Error
	if errors.As(err, &rpc) && rpc.Message() != "" {
		return rpc.Message()
	}
	return err.Error()
}
