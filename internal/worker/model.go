package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/aipod/aipod/internal/spool"
)

// A Model is what a pod serves: functions by name, in versions. Its methods are
// safe for concurrent use.
type Model interface {
	// Describe tells the model's name and what it can do. It never waits.
	Describe() Description
	// Load makes an instance of a version; the empty version is the model's own
	// default. It may take long and must honour ctx. A version that does not
	// exist is a *VersionError.
	Load(ctx context.Context, version string) (Instance, error)
}

// An Instance is one loaded version of a model. The pool runs up to
// Config.Slots calls in it at once.
type Instance interface {
	// Call runs one function. The result is a JSON value; it is ignored when the
	// function has written to c.Output. Call must honour ctx: a slot stays taken
	// for as long as Call runs.
	Call(ctx context.Context, c *Call) (json.RawMessage, error)
	// Done is closed when the instance should get no more calls: it has died, or
	// wants to be replaced. The pool closes it when no call runs. Nil is never.
	Done() <-chan struct{}
	// Err says, after Done, why the instance has died; nil if it wants to be
	// replaced in good order.
	Err() error
	// Close releases the instance. No call is running.
	Close() error
}

// Lasting is for instances that last until they are closed.
type Lasting struct{}

// Done implements [Instance].
func (Lasting) Done() <-chan struct{} { return nil }

// Err implements [Instance].
func (Lasting) Err() error { return nil }

// A Description tells what a model can do.
type Description struct {
	Model     string     // name, as error messages show it
	Functions []Function // ascending by name
	Versions  []string   // that calls can name, ascending; nil when the model has none
}

// A Function is one thing that a model can do.
type Function struct {
	Name string
	Doc  string // one line: what it does, its payload, its kwargs
	// Kwargs is a JSON Schema (draft 2020-12) of the kwargs, of which forms are
	// made; nil if the model declares none. Nothing checks it.
	Kwargs json.RawMessage
	// Payload is the media type of the payload, such as text/csv or image/*;
	// NoPayload if there is none to send; empty if anything goes.
	Payload string
	// MakesVersion says that the call's version is what the function makes, not
	// what it runs on: it runs on the default version, and instances of the version
	// that it has made are replaced.
	MakesVersion bool
	// Digest says that the function wants its call's SHA256, which is then computed
	// while the payload arrives.
	Digest bool
}

// NoPayload is the Function.Payload of functions that take none.
const NoPayload = "none"

// Function finds a function by name. An unknown one is a *FunctionError.
func (d Description) Function(name string) (Function, error) {
	i := slices.IndexFunc(d.Functions, func(f Function) bool { return f.Name == name })
	if i < 0 {
		return Function{}, &FunctionError{Model: d.Model, Func: name}
	}
	return d.Functions[i], nil
}

// A Call is one run of one function.
type Call struct {
	JobID    string
	Func     string
	Version  string            // as the caller named it; empty is the default
	Kwargs   json.RawMessage   // a JSON object without reserved keys
	Metadata map[string]string // the caller's metadata, keys in lower case
	Input    *spool.Blob       // the payload, possibly empty, never nil
	SHA256   []byte            // of Input; nil unless the function declares Digest, or if it is not known, as after a restart in mid-upload
	Attempt  int               // how often the job was begun, from 1; set by Begin
	Deadline time.Time         // when the caller gives up; zero if it doesn't say

	// Report takes what the function tells of itself while it runs. It is safe
	// for concurrent use and never blocks. Nil drops everything.
	Report Reporter
	// Begin is called when the call has its slot, before the function, and may
	// take its time. Its error ends the call. Nil does nothing.
	Begin func() error
	// OpenOutput makes the output file on the first call and returns the same
	// writer after that. A job with an output has no JSON result.
	OpenOutput func() (io.Writer, error)
	// AdoptOutput is OpenOutput for a function that writes a file by itself. The
	// file, on the spool's file system, becomes the output. grow says that the first
	// size bytes of it are there and final. json says that the whole is a JSON
	// value, a result that is too large for memory.
	AdoptOutput func(path string, json bool) (grow func(size int64) error, err error)

	ticket uint64 // its last one's number, which its pool's lock guards
}

// A Reporter takes the signs of life of a running call.
type Reporter interface {
	// Progress says that done of total units are done; total 0 means unknown.
	Progress(done, total int64, unit, note string)
	// Log adds a line to the job's log.
	Log(level slog.Level, line string)
	// Alive says nothing else.
	Alive()
}

// Progress reports progress; see [Reporter].
func (c *Call) Progress(done, total int64, unit, note string) {
	if c.Report != nil {
		c.Report.Progress(done, total, unit, note)
	}
}

// Alive is a sign of life without news; see [Reporter].
func (c *Call) Alive() {
	if c.Report != nil {
		c.Report.Alive()
	}
}

// Log adds a line to the job's log.
func (c *Call) Log(level slog.Level, line string) {
	if c.Report != nil {
		c.Report.Log(level, line)
	}
}

// Logf adds a line at level info to the job's log.
func (c *Call) Logf(format string, args ...any) {
	c.Log(slog.LevelInfo, fmt.Sprintf(format, args...))
}

// DecodeKwargs decodes the kwargs into the struct that dst points to. A key
// that the struct does not have, or a value of the wrong type, is an
// *InputError.
func (c *Call) DecodeKwargs(dst any) error {
	dec := json.NewDecoder(strings.NewReader(string(c.Kwargs)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(dst); err != nil {
		return Invalidf("kwargs of %q: %s", c.Func, strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// An InputError is a call that can't succeed as it was made: the caller has to
// change the payload or the kwargs. Its text is shown to the caller.
type InputError struct {
	Reason string // what is wrong and what to do
}

func (e *InputError) Error() string { return e.Reason }

// Invalidf makes an [InputError].
func Invalidf(format string, args ...any) error {
	return &InputError{Reason: fmt.Sprintf(format, args...)}
}

// A FunctionError names a function that the model does not have.
type FunctionError struct {
	Model, Func string
}

func (e *FunctionError) Error() string {
	return fmt.Sprintf("%q not implemented yet", e.Model+"."+e.Func)
}

// A VersionError names a version that the model does not have.
type VersionError struct {
	Version string
	Have    []string
}

func (e *VersionError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("version %q does not exist: no version has been trained yet", e.Version)
	}
	return fmt.Sprintf("version %q does not exist: choose one of %s", e.Version, strings.Join(e.Have, ", "))
}
