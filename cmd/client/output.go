package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/client"
)

// An output is where a result goes: stdout, or a file that is replaced as a
// whole once there is a result.
type output struct {
	a     *app
	path  string   // of the file, empty for stdout
	tmp   *os.File // beside the file; nil for stdout, or when the path is no regular file
	other *lateFile
	json  bool // stdout has JSON lines
}

// openOutput finds out whether the result can be written before it is paid for.
func (a *app) openOutput(path string, json bool) (*output, error) {
	if path == "-" || path == "" {
		return &output{a: a, json: json}, nil
	}
	out := &output{a: a, path: path, json: json}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, usagef("--output: %s is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		out.other = &lateFile{path: path}
		return out, nil
	}
	out.tmp, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, usagef("--output: %v", rootCause(err))
	}
	return out, nil
}

// writer is for what the function writes; nil keeps it in memory. before is called
// once, before the first byte goes to a terminal.
func (o *output) writer(before func()) io.Writer {
	switch {
	case o.tmp != nil:
		return o.tmp
	case o.other != nil:
		return o.other
	case o.json:
		return nil
	case o.a.terminal(o.a.stdout):
		return &screenWriter{w: o.a.stdout, before: before}
	}
	// As a plain writer: a file may have been redirected here that had something in
	// it before, which is not the job's to cut back.
	return struct{ io.Writer }{o.a.stdout}
}

// A screenWriter writes to a terminal that others may draw on before.
type screenWriter struct {
	w      io.Writer
	before func() // nil once it was called
}

func (s *screenWriter) Write(p []byte) (int, error) {
	if s.before != nil {
		s.before()
		s.before = nil
	}
	return s.w.Write(p)
}

// A lateFile is something like a device or a pipe, which is opened when there is
// something to be written.
type lateFile struct {
	path string
	f    *os.File
}

func (l *lateFile) Write(p []byte) (int, error) {
	if l.f == nil {
		var err error
		if l.f, err = os.OpenFile(l.path, os.O_WRONLY, 0); err != nil {
			return 0, err
		}
	}
	return l.f.Write(p)
}

// discard removes what is left when there was no result.
func (o *output) discard() {
	if o.tmp != nil {
		_ = o.tmp.Close()
		_ = os.Remove(o.tmp.Name())
	}
	if o.other != nil && o.other.f != nil {
		_ = o.other.f.Close()
	}
}

// result writes the result, of which an output is written already.
func (o *output) result(r *client.Result) error {
	var text []byte
	if !r.HasOutput {
		text = append(bytes.Clone(r.JSON), '\n')
	}
	var err error
	switch {
	case o.path != "":
		err = o.finish(text)
	case !r.HasOutput:
		err = o.a.printResult(r.JSON)
	}
	if err != nil {
		return failf("write the result: %w", err)
	}
	return nil
}

// finish writes the rest to a file.
func (o *output) finish(rest []byte) error {
	if o.other == nil {
		if _, err := o.tmp.Write(rest); err != nil {
			return err
		}
		return o.replace()
	}
	if _, err := o.other.Write(rest); err != nil {
		return err
	}
	err := o.other.f.Close()
	o.other.f = nil
	return err
}

func (o *output) replace() error {
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

// printJSON prints a value as one line of JSON.
func (a *app) printJSON(value any) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // it is for terminals and scripts
	if err := enc.Encode(value); err != nil {
		return failf("write the answer: %w", err)
	}
	return a.printLine(bytes.TrimSuffix(line.Bytes(), []byte("\n")))
}

// printMessage prints what the pod said as one line of JSON.
func (a *app) printMessage(m proto.Message) error {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true, UseProtoNames: true}.Marshal(m)
	if err != nil {
		return failf("write the answer: %w", err)
	}
	var line bytes.Buffer // protojson puts in spaces at random
	if err := json.Compact(&line, text); err != nil {
		return failf("write the answer: %w", err)
	}
	return a.printLine(line.Bytes())
}
