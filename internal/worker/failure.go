package worker

import (
	"fmt"
	"strings"
	"time"
)

// A FailedError is a function that has failed on its own account: it raised
// an exception. Its text is shown to the caller.
type FailedError struct {
	Func   string
	Reason string
}

func (e *FailedError) Error() string { return e.Func + ": " + e.Reason }

// A ResourceError is a function that has not enough memory or disk.
type ResourceError struct {
	Reason string
}

func (e *ResourceError) Error() string { return e.Reason }

// A CrashError is a call under which what ran it has died: the call itself may be
// fine, and can be begun again.
type CrashError struct {
	What string // that died: "the worker of version a"
	How  string // "exit status 3", "signal 9 (killed)", "connection reset by peer"
	// OutOfMemory says that the kernel killed it to get memory.
	OutOfMemory bool
	// Tail is the end of its standard error, if there was any.
	Tail string
}

func (e *CrashError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s died: %s", e.What, e.How)
	if e.OutOfMemory {
		b.WriteString(", killed by the kernel because memory ran out")
	}
	if e.Tail != "" {
		b.WriteString("; the end of its standard error:\n")
		b.WriteString(e.Tail)
	}
	return b.String()
}

// A TimeoutError is a call that took longer than calls may.
type TimeoutError struct {
	Func  string
	Limit time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s took longer than %v, which is the most that the pod lets a call take", e.Func, e.Limit)
}
