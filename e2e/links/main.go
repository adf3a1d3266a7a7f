// Command links measures on shaped links whether adaptive sending keeps its
// promise: never slower than 1.10 times the best fixed level, whatever the link
// and the payload.
//
//	go run ./e2e/links
//	go run ./e2e/links -links 1000,0 -payloads csv -rounds 5 -o -
//
// It needs Linux, root, ip and tc: a pod and a client run in two network
// namespaces joined by a veth pair, whose sending end a token bucket slows down.
// All that it makes is gone when it ends. The exit code is 1 if the promise is
// broken, or something fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/flagenv"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// senderCommand makes the program the one that sends; see send.
const senderCommand = "sender"

// options are the flags.
type options struct {
	size       flagenv.Size
	links      []int // Mbit/s; 0 is not shaped
	payloads   []bench.Kind
	rounds     int
	congestion string
	out        string // a path, or - for none
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == senderCommand {
		if err := send(ctx, args[1:], stdin, stdout); err != nil {
			fmt.Fprintln(stderr, "links: sender:", err)
			return exitFailed
		}
		return exitOK
	}
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "links: %v; see -help\n", err)
		return exitUsage
	}
	kept, err := measureAll(ctx, o, args, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "links: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "links:", err)
		return exitFailed
	case !kept:
		fmt.Fprintf(stderr, "links: adaptive sending was slower than %.2f times the best fixed level\n", promise)
		return exitFailed
	}
	return exitOK
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{
		size:     256 << 20,
		links:    []int{20, 200, 1000, 0},
		payloads: []bench.Kind{bench.Text, bench.CSV, bench.Random},
	}
	fs := flag.NewFlagSet("links", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // run says what is wrong
	fs.Var(&o.size, "size", "`size` of a payload")
	fs.Func("links", "rates in `Mbit`/s, with commas between; 0 is a link that is not shaped (default 20,200,1000,0)", func(text string) (err error) {
		o.links, err = list(text, func(s string) (int, error) {
			mbit, err := strconv.Atoi(s)
			if err != nil || mbit < 0 || mbit > maxMbit {
				return 0, fmt.Errorf("%q is not a rate from 0 to %d Mbit/s", s, maxMbit)
			}
			return mbit, nil
		})
		return err
	})
	fs.Func("payloads", "their `kinds`, with commas between (default text,csv,random)", func(text string) (err error) {
		o.payloads, err = list(text, func(s string) (bench.Kind, error) {
			_, err := bench.NewPayload(bench.Kind(s), 0, 0)
			return bench.Kind(s), err
		})
		return err
	})
	fs.IntVar(&o.rounds, "rounds", 3, fmt.Sprintf("`number` of times that each level is measured; once on links below %d Mbit/s, %d times as often on one that is not shaped", manyRounds, unshapedRounds))
	fs.StringVar(&o.congestion, "congestion", "cubic", "TCP's congestion control; if the kernel has it not, its default is taken")
	fs.StringVar(&o.out, "o", "docs/links.md", "`file` to write the page to, after each row anew; - for none")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(stderr, "usage: go run ./e2e/links [flags]")
			fs.SetOutput(stderr)
			fs.PrintDefaults()
		}
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", fs.Arg(0))
	case o.rounds < 1:
		return o, errors.New("-rounds must be at least 1")
	case o.size < 1<<20 || o.size > 2<<30:
		return o, errors.New("-size must be from 1MiB to 2GiB, for it is held in memory")
	}
	return o, nil
}

// list parses what has commas between.
func list[T any](text string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for s := range strings.SplitSeq(text, ",") {
		v, err := parse(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// measureAll measures all payloads on all links, and tells whether the promise
// was kept. The rows go to stdout as they come, how it goes to stderr.
func measureAll(ctx context.Context, o options, args []string, stdout, stderr io.Writer) (kept bool, err error) {
	l, err := openLab(ctx, o.congestion, stderr)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	p := page{
		began:      time.Now(),
		command:    strings.Join(append([]string{"go run ./e2e/links"}, args...), " "),
		machine:    fmt.Sprintf("%s with %d cores, %s/%s, %s", l.kernel(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		size:       o.size,
		congestion: l.congestion(),
		missing:    len(o.links) * len(o.payloads),
	}
	fmt.Fprint(stdout, tableHead)
	kept = true
	for _, mbit := range slices.Compact(o.links) {
		s := shapeOf(mbit)
		if err := l.shape(ctx, s); err != nil {
			return false, err
		}
		for _, kind := range o.payloads {
			r, err := measureRow(ctx, l, s, kind, o, stderr)
			if err != nil {
				return false, fmt.Errorf("%s over %s: %w", kind, s, err)
			}
			p.rows = append(p.rows, r)
			p.missing--
			kept = kept && r.ratio() <= promise
			fmt.Fprint(stdout, r)
			if o.out == "-" {
				continue
			}
			if err := os.WriteFile(o.out, []byte(p.String()), 0o644); err != nil {
				return false, fmt.Errorf("write the page: %w", err)
			}
		}
	}
	return kept, nil
}

// measureRow measures a payload on the link as it is.
func measureRow(ctx context.Context, l *lab, s shape, kind bench.Kind, o options, stderr io.Writer) (r row, err error) {
	sender, err := l.startSender(ctx, kind, int64(o.size))
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, sender.stop()) }()
	r = row{link: s, kind: kind}
	for n := range s.rounds(o.rounds) {
		for _, level := range levels {
			if r.skips(level) {
				continue
			}
			c, err := sender.call(ctx, level)
			if err != nil {
				return row{}, fmt.Errorf("%s: %w", level, err)
			}
			r.add(level, c)
			fmt.Fprintf(stderr, "%s, %s, round %d: %-8s %8.2f s, %.3f of its size sent\n", s, kind, n+1, level, c.Seconds, c.ratio())
		}
	}
	return r, nil
}
