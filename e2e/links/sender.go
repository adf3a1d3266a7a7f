package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

const (
	// warmup is how much is sent first at each level, in bytes, so that none pays
	// for what is made once in a process.
	warmup = 1 << 20
	// ready is how long the pod may take to listen.
	ready = 20 * time.Second
)

// A request asks the sender for a call.
type request struct{ Level client.Level }

// A reply is how it went. The first one comes unasked, when the sender is ready.
type reply struct {
	Call  call
	Error string `json:",omitempty"`
}

// send makes the payload of a kind and size that args name, and sends it to the
// pod that they name as often as it is asked. It ends with its input.
func send(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("it is started by links itself")
	}
	addr, kind := args[0], bench.Kind(args[1])
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	data, err := payload(kind, size)
	if err != nil {
		return err
	}
	if err := waitForPod(ctx, addr); err != nil {
		return err
	}
	for _, level := range levels {
		if _, err := sendOnce(ctx, addr, data[:min(len(data), warmup)], level); err != nil {
			return err
		}
	}
	replies := json.NewEncoder(out)
	if err := replies.Encode(reply{}); err != nil {
		return err
	}
	for requests := json.NewDecoder(in); ; {
		var req request
		err := requests.Decode(&req)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var r reply
		if r.Call, err = sendOnce(ctx, addr, data, req.Level); err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
	}
}

func payload(kind bench.Kind, size int64) ([]byte, error) {
	p, err := bench.NewPayload(kind, size, 1)
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	_, err = io.ReadFull(p, data)
	return data, err
}

func waitForPod(ctx context.Context, addr string) error {
	c, err := client.New(client.Config{Addr: addr})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, ready)
	defer cancel()
	for {
		_, err := c.Functions(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the pod did not answer within %v: %w", ready, err)
		}
	}
}

// sendOnce sends data to a function that ignores it. A call that needed more than
// one stream, or sent anything twice, is an error: it measures something else.
func sendOnce(ctx context.Context, addr string, data []byte, level client.Level) (call, error) {
	c, err := client.New(client.Config{Addr: addr})
	if err != nil {
		return call{}, err
	}
	defer c.Close()
	runtime.GC()
	began := time.Now()
	result, err := c.Run(ctx, client.Call{
		Func: "hello", Payload: client.ReaderAt(bytes.NewReader(data), int64(len(data))), Ephemeral: true, Level: level,
	})
	took := time.Since(began)
	if err != nil {
		return call{}, err
	}
	if s := result.Stats; s.Streams != 1 || s.Sent != int64(len(data)) {
		return call{}, fmt.Errorf("%d streams carried %d bytes instead of one stream %d", s.Streams, s.Sent, len(data))
	}
	return call{Seconds: took.Seconds(), Sent: result.Stats.Sent, Wire: result.Stats.Wire}, nil
}
