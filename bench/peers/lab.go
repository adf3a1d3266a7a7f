package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/aipod/aipod/internal/bench"
)

// python is Debian's own: another one on PATH doesn't see Debian's modules.
const python = "/usr/bin/python3"

// A lab has the programs and payloads that are measured.
type lab struct {
	bin   string // directory of the programs
	stubs string // directory of Python's modules
	dir   string // of all this, and what servers store
	log   io.Writer
}

// newLab builds the programs. dir is where; if it is empty, a new directory is made.
func newLab(ctx context.Context, dir string, log io.Writer) (*lab, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(dir, "aipod-peers-")
	if err != nil {
		return nil, err
	}
	l := &lab{bin: filepath.Join(dir, "bin"), stubs: filepath.Join(dir, "stubs"), dir: dir, log: log}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) close() error { return os.RemoveAll(l.dir) }

// build builds aipod's server, the peers, and Python's modules.
func (l *lab) build(ctx context.Context) error {
	fmt.Fprintln(l.log, "building")
	for _, dir := range []string{l.bin, l.stubs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	for _, b := range []struct {
		dir  string
		args []string
	}{
		{filepath.Join("..", ".."), []string{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", l.bin + "/", "./cmd/server"}},
		{".", []string{
			"go", "build", "-trimpath", "-ldflags=-s -w", "-o", l.bin + "/", "./aipodpeer", "./caller", "./connectpeer", "./grpcpeer",
			"./plainpeer", "./relay", "./tuspeer", "./waiter",
		}},
	} {
		if err := do(ctx, b.dir, b.args...); err != nil {
			return err
		}
	}
	plugin, err := exec.LookPath("grpc_python_plugin")
	if err != nil {
		return fmt.Errorf("run.sh installs it: %w", err)
	}
	proto := filepath.Join("..", "..", "proto")
	return do(ctx, ".", "protoc", "-I", proto, "--python_out="+l.stubs, "--grpc_python_out="+l.stubs, "--plugin=protoc-gen-grpc_python="+plugin,
		filepath.Join(proto, "ai", "ai.proto"), filepath.Join(proto, "aipod", "v1", "job.proto"))
}

// do runs a program to its end.
func do(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// payload makes the file of a payload, unless it is there.
func (l *lab) payload(p payload) (string, error) {
	path := filepath.Join(l.dir, p.String())
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	src, err := bench.NewPayload(p.kind, p.size, 1)
	if err != nil {
		return "", err
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, src, make([]byte, 1<<20))
	// Written now, so that the disk is quiet later. It stays in the page cache.
	return path, errors.Join(err, f.Sync(), f.Close())
}

// A payload is a file that is uploaded. The zero value is none.
type payload struct {
	kind bench.Kind
	size int64
}

func (p payload) String() string {
	if p.size%mib != 0 {
		return fmt.Sprintf("%s-%dKiB", p.kind, p.size/kib)
	}
	return fmt.Sprintf("%s-%dMiB", p.kind, p.size/mib)
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)
