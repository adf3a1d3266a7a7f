// Package flagenv gives command line flags an environment twin, and has the
// flag values that the commands share.
//
// It is for flags of one process, set up and parsed by one goroutine. It is not
// a configuration system: no files, no nesting.
package flagenv

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Bind gives every flag of fs an environment variable, --max-payload with the
// prefix AIPOD is AIPOD_MAX_PAYLOAD, and adds its name to the flag's help. Call
// it when all flags are defined.
//
// Call what it returns once fs has been parsed: that sets the flags that the
// command line didn't give from the variables that lookup finds. A variable
// that is empty counts as not set. A flag that may be repeated takes one value
// a line. A value that does not fit is an *[Error].
//
//	apply := flagenv.Bind(cmd.Flags(), "AIPOD", os.LookupEnv)
//	cmd.PreRunE = func(*cobra.Command, []string) error { return apply() }
func Bind(fs *pflag.FlagSet, prefix string, lookup func(name string) (string, bool)) (apply func() error) {
	var flags []*pflag.Flag
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		flags = append(flags, f)
		f.Usage += " [$" + Name(prefix, f.Name) + "]"
	})
	return func() error {
		for _, f := range flags {
			name := Name(prefix, f.Name)
			value, ok := lookup(name)
			if f.Changed || !ok || value == "" {
				continue
			}
			if err := set(fs, f, value); err != nil {
				return &Error{Name: name, Value: value, Err: err}
			}
		}
		return nil
	}
}

// Name is the environment twin of a flag.
func Name(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func set(fs *pflag.FlagSet, f *pflag.Flag, value string) error {
	if _, ok := f.Value.(pflag.SliceValue); ok {
		for line := range strings.Lines(value) {
			line = strings.TrimRight(line, "\r\n")
			if line == "" {
				continue
			}
			if err := fs.Set(f.Name, line); err != nil {
				return cause(err)
			}
		}
		return nil
	}
	return cause(fs.Set(f.Name, value))
}

// cause is the error of the flag's value alone: pflag's own text names the flag,
// which the user has not typed.
func cause(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}

// An Error is an environment variable that does not fit its flag.
type Error struct {
	Name, Value string
	Err         error
}

func (e *Error) Error() string {
	return fmt.Sprintf("invalid value %q of the environment variable %s: %v", e.Value, e.Name, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
