// Package peer is what all programs that are measured have in common: a server
// that says where it listens, and a client that does one thing, says how long
// that took, and stays until whoever measures it has looked at it.
//
// It is not part of what is measured.
package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// Options are the flags of all programs; each uses those that it has a use for.
type Options struct {
	Addr    string        // of the server: HOST:PORT
	File    string        // the payload
	Size    int64         // bytes of payload to be sent or received
	Chunk   int           // bytes in a message
	Tuned   bool          // not the library's defaults
	Dir     string        // for what the server stores
	Func    string        // of aipod
	Level   string        // of aipod: how hard the payload is compressed
	Job     string        // of aipod: the name of a durable job
	Beat    time.Duration // of aipod: the heartbeat
	Conns   int           // connections
	Streams int           // on each connection
	For     time.Duration // how long it goes on
	Target  string        // of generators of load: which server they speak to
	Delay   time.Duration // of the relay, each way
	PID     int           // of the server, for ops that measure it themselves
}

// An Op is what a client does. It returns the bytes of payload that the server
// has confirmed or sent, and may add other figures to more.
type Op func(ctx context.Context, o Options, more map[string]float64) (int64, error)

// A Program is a peer's server, or nil, and its client's ops.
type Program struct {
	// Serve serves until it fails.
	Serve func(l net.Listener, o Options) error
	Ops   map[string]Op
}

// A Result is what a client says of its op, as a line of JSON.
type Result struct {
	Seconds float64            `json:"seconds"`
	Bytes   int64              `json:"bytes"`
	More    map[string]float64 `json:"more,omitempty"`
}

// Listening begins the line that a server prints when it listens.
const Listening = "listening "

// Main runs a program and returns the exit code of its process.
func Main(p Program) int {
	if err := p.run(context.Background(), os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (p Program) run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("what is to be done is missing: serve or one of %v", p.ops())
	}
	var o Options
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.StringVar(&o.Addr, "addr", "127.0.0.1:0", "`HOST:PORT` of the server")
	fs.StringVar(&o.File, "file", "", "the payload")
	fs.Int64Var(&o.Size, "size", 0, "`bytes` to send or to receive")
	fs.IntVar(&o.Chunk, "chunk", 32<<10, "`bytes` in a message")
	fs.BoolVar(&o.Tuned, "tuned", false, "not the library's defaults")
	fs.StringVar(&o.Dir, "dir", "", "`directory` for what the server stores")
	fs.StringVar(&o.Func, "func", "sha256", "aipod's function")
	fs.StringVar(&o.Level, "level", "", "how hard aipod compresses")
	fs.StringVar(&o.Job, "job", "", "`name` of a durable job")
	fs.DurationVar(&o.Beat, "beat", 0, "aipod's heartbeat; 0 is its default")
	fs.IntVar(&o.Conns, "conns", 1, "connections")
	fs.IntVar(&o.Streams, "streams", 1, "streams on each connection")
	fs.DurationVar(&o.For, "for", time.Second, "how long it goes on")
	fs.StringVar(&o.Target, "target", "peer", "what kind of server it is: aipod, aipod-queued or peer")
	fs.DurationVar(&o.Delay, "delay", 0, "delay each way")
	fs.IntVar(&o.PID, "pid", 0, "`PID` of the server")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] == "serve" && p.Serve != nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s%s\n", Listening, l.Addr())
		return p.Serve(l, o)
	}
	op := p.Ops[args[0]]
	if op == nil {
		return fmt.Errorf("unknown op %q: choose serve or one of %v", args[0], p.ops())
	}
	r := Result{More: map[string]float64{}}
	began := time.Now()
	var err error
	if r.Bytes, err = op(ctx, o, r.More); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if r.Seconds = time.Since(began).Seconds(); r.More["seconds"] > 0 {
		r.Seconds = r.More["seconds"] // the op knows better
		delete(r.More, "seconds")
	}
	if err := json.NewEncoder(stdout).Encode(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, stdin)
	return err
}

func (p Program) ops() []string {
	var all []string
	for name := range p.Ops {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// ReadResult finds the line with the result in what a client prints.
func ReadResult(stdout io.Reader) (Result, error) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), `{"seconds"`) {
			continue
		}
		var r Result
		err := json.Unmarshal(lines.Bytes(), &r)
		return r, err
	}
	if err := lines.Err(); err != nil {
		return Result{}, err
	}
	return Result{}, io.ErrUnexpectedEOF
}
