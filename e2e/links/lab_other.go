//go:build !linux

package main

import (
	"context"
	"errors"
	"io"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

// A lab is what only Linux has.
type lab struct{}

func openLab(context.Context, string, io.Writer) (*lab, error) {
	return nil, errors.New("needs Linux, whose network namespaces and traffic control it uses: run it in a virtual machine")
}

func (*lab) close() error       { return nil }
func (*lab) kernel() string     { return "" }
func (*lab) congestion() string { return "" }

func (*lab) shape(context.Context, shape) error { return nil }

func (*lab) startSender(context.Context, bench.Kind, int64) (*sender, error) { return nil, nil }

type sender struct{}

func (*sender) call(context.Context, client.Level) (call, error) { return call{}, nil }
func (*sender) stop() error                                      { return nil }
