package codec

import "fmt"

// A PayloadError is something wrong with what the client sent as kwargs or
// payload. Reason is for the client: what is wrong, and what to do where that is
// not plain.
type PayloadError struct {
	Reason string
}

func (e *PayloadError) Error() string { return e.Reason }

func payloadErrorf(format string, args ...any) error {
	return &PayloadError{Reason: fmt.Sprintf(format, args...)}
}
