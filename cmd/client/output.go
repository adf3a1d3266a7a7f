package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// An output is where a result goes: stdout, or a file that is replaced as a
// whole once there is a result.
type output struct {
	a    *app
	path string   // of the file, empty for stdout
	tmp  *os.File // beside the file; nil for stdout, or when the path is no regular file
}

// openOutput finds out whether the result can be written before it is paid for.
func (a *app) openOutput(path string) (*output, error) {
	if path == "-" || path == "" {
		return &output{a: a}, nil
	}
	out := &output{a: a, path: path}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, usagef("--output: %s is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		return out, nil
	}
	out.tmp, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, usagef("--output: %v", rootCause(err))
	}
	return out, nil
}

// discard removes what is left when there was no result.
func (o *output) discard() {
	if o.tmp != nil {
		_ = o.tmp.Close()
		_ = os.Remove(o.tmp.Name())
	}
}

// result writes the result.
func (o *output) result(result json.RawMessage) error {
	var err error
	switch {
	case o.path == "":
		err = o.a.printResult(result)
	case o.tmp == nil:
		err = os.WriteFile(o.path, append(result, '\n'), 0o666)
	default:
		err = o.replace(result)
	}
	if err != nil {
		return failf("write the result: %w", err)
	}
	return nil
}

func (o *output) replace(result json.RawMessage) error {
	if _, err := o.tmp.Write(append(result, '\n')); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(o.path); err == nil {
		mode = info.Mode().Perm()
	}
	if err := errors.Join(o.tmp.Chmod(mode), o.tmp.Close()); err != nil {
		return err
	}
	return os.Rename(o.tmp.Name(), o.path)
}

func (a *app) printResult(result json.RawMessage) error {
	var text bytes.Buffer
	if !a.terminal(a.stdout) || json.Indent(&text, result, "", "  ") != nil {
		text.Reset()
		text.Write(result)
	}
	text.WriteByte('\n')
	_, err := text.WriteTo(a.stdout)
	return err
}

// printLine prints a line that is the whole output of a command.
func (a *app) printLine(line []byte) error {
	if _, err := a.stdout.Write(append(line, '\n')); err != nil {
		return failf("write the answer: %w", err)
	}
	return nil
}
