// Command caller makes small calls in a closed loop, with grpc-go as it comes: the
// same client for all servers.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/aipod/aipod/bench/peers/peer"
	"github.com/aipod/aipod/gen/ai"
)

func main() {
	os.Exit(peer.Main(peer.Program{Ops: map[string]peer.Op{"calls": calls}}))
}

// A call is what goes to a server, and how its answer ends.
type call struct {
	path     string
	header   metadata.MD
	requests [][]byte
	last     []byte // is in the last message
}

const small = 1 << 10

// callOf is 1 KiB there and back. To aipod's hello it is a name of 480 bytes, which
// comes back twice, and 1 KiB of payload besides, which it ignores.
func callOf(target string) call {
	data := bytes.Repeat([]byte("x"), small)
	if target != "aipod" {
		return call{path: "/" + peer.Service + "/" + peer.Echo, requests: [][]byte{data}, last: data}
	}
	name := data[:480]
	return call{
		path: "/ai.AI/chaos", header: metadata.Pairs("x-func-name", "hello"),
		requests: [][]byte{fmt.Appendf(nil, `{"name": %q}`, name), data}, last: name,
	}
}

func calls(ctx context.Context, o peer.Options, more map[string]float64) (int64, error) {
	c := callOf(o.Target)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		fault error
	)
	end := time.Now().Add(o.For)
	began := time.Now()
	for range o.Conns {
		conn, err := grpc.NewClient("passthrough:///"+o.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, err
		}
		defer func() { _ = conn.Close() }() // all calls have ended
		for range o.Streams {
			wg.Go(func() {
				var mine []time.Duration
				var err error
				for err == nil && time.Now().Before(end) {
					at := time.Now()
					if err = c.do(ctx, conn); err == nil {
						mine = append(mine, time.Since(at))
					}
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, mine...)
				fault = errors.Join(fault, err)
			})
		}
	}
	wg.Wait()
	if fault != nil || len(took) == 0 {
		return 0, fmt.Errorf("%d calls succeeded: %w", len(took), fault)
	}
	slices.Sort(took)
	more["calls_per_s"] = float64(len(took)) / time.Since(began).Seconds()
	more["p50_ms"] = 1e3 * took[len(took)/2].Seconds()
	more["p99_ms"] = 1e3 * took[len(took)*99/100].Seconds()
	return int64(len(took)) * small, nil
}

func (c call) do(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, c.header))
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, c.path)
	if err != nil {
		return err
	}
	for _, data := range c.requests {
		if err := s.SendMsg(&ai.Raw{Data: data}); err != nil {
			return err
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	var last ai.Raw
	for {
		err := s.RecvMsg(&last)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if !bytes.Contains(last.GetData(), c.last) {
		return fmt.Errorf("the answer is %.80q", last.GetData())
	}
	return nil
}
