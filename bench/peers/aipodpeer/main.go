// Command aipodpeer is the client of aipod that is measured: the public package
// client, with its defaults unless told otherwise. The server is the real one.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/aipod/aipod/bench/peers/peer"
	"github.com/aipod/aipod/client"
)

func main() {
	debug.SetGCPercent(30) // as cmd/client does
	os.Exit(peer.Main(peer.Program{Ops: map[string]peer.Op{"upload": upload, "store": store, "download": download, "echo": echo}}))
}

// upload runs an ephemeral job.
func upload(ctx context.Context, o peer.Options, more map[string]float64) (int64, error) {
	payload, size, err := payload(o)
	if err != nil {
		return 0, err
	}
	r, err := run(ctx, o, client.Call{Payload: payload, Ephemeral: true})
	if err != nil {
		return 0, err
	}
	if s := r.Stats; s.Streams != 1 || s.Sent != size {
		return 0, fmt.Errorf("%d streams carried %d bytes instead of one %d", s.Streams, s.Sent, size)
	}
	more["wire_bytes"] = float64(r.Stats.Wire)
	if o.Func != "sha256" {
		return size, nil
	}
	var digest struct{ Size int64 }
	if err := json.Unmarshal(r.JSON, &digest); err != nil || digest.Size != size {
		return 0, fmt.Errorf("%s is not of %d bytes: %w", r.JSON, size, err)
	}
	return size, nil
}

// store runs a durable job whose output stays with the pod.
func store(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	payload, size, err := payload(o)
	if err != nil {
		return 0, err
	}
	_, err = run(ctx, o, client.Call{Payload: payload, JobID: o.Job, Output: io.Discard})
	return size, err
}

// download fetches the output of a durable job that has ended.
func download(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	c, err := client.New(client.Config{Addr: o.Addr})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	r, err := c.Attach(ctx, o.Job, client.AttachOptions{Output: io.Discard})
	if err != nil {
		return 0, err
	}
	return received(r, o.Size)
}

// echo runs an ephemeral job whose output is as large as its input.
func echo(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	payload, size, err := payload(o)
	if err != nil {
		return 0, err
	}
	r, err := run(ctx, o, client.Call{Payload: payload, Ephemeral: true, Output: io.Discard})
	if err != nil {
		return 0, err
	}
	return received(r, size)
}

func received(r *client.Result, size int64) (int64, error) {
	if r.Stats.Received != size || r.OutputSize != size {
		return 0, fmt.Errorf("%d bytes have come, of %d, instead of %d", r.Stats.Received, r.OutputSize, size)
	}
	return size, nil
}

func run(ctx context.Context, o peer.Options, call client.Call) (*client.Result, error) {
	c, err := client.New(client.Config{Addr: o.Addr})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	call.Func, call.Level, call.Heartbeat, call.GiveUp = o.Func, client.Level(o.Level), o.Beat, time.Minute
	return c.Run(ctx, call)
}

// payload is the file; if o.Size is more than that, again and again.
func payload(o peer.Options) (client.Payload, int64, error) {
	if o.Size == 0 {
		info, err := os.Stat(o.File)
		if err != nil {
			return client.Payload{}, 0, err
		}
		return client.File(o.File), info.Size(), nil
	}
	f, err := os.Open(o.File) // until the process ends
	if err != nil {
		return client.Payload{}, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return client.Payload{}, 0, err
	}
	return client.ReaderAt(again{f, info.Size()}, o.Size), o.Size, nil
}

// again is a file that is followed by itself.
type again struct {
	f    *os.File
	size int64
}

func (a again) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		from := (at + int64(done)) % a.size
		n, err := a.f.ReadAt(p[done:min(int64(len(p)), int64(done)+a.size-from)], from)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}
