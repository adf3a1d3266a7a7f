// Command peers measures aipod against the same job done with what there is:
// connect-go, grpc-go, the first aipod in Python, tusd, net/http and TCP. It
// writes docs/BENCHMARKS.md.
//
//	./run.sh                    # install what is missing, build, measure all rows
//	./run.sh upload small       # these rows; the others keep what was measured before
//	go run . -pairs 3 -o - upload
//
// Server and client are processes of their own. The sides of a table take turns,
// A B C A B C …, and ratios are those within one turn, so that what else the
// machine does hits all of them.
//
// What was measured is in results/, a file a row, with every single run. The exit
// code is 1 if something failed, 3 if a target was missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitMissed      = 3
	exitInterrupted = 130
)

// options are the flags.
type options struct {
	rows    []string // names; none is all
	pairs   int
	quick   bool
	missing bool
	report  bool
	keep    string // directory of results
	out     string // a path, or - for standard output
	dir     string // for payloads and what servers store
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "peers: %v; see -help\n", err)
		return exitUsage
	}
	missed, err := measureAll(ctx, o, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "peers: interrupted; what is in", o.keep, "stays")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "peers:", err)
		return exitFailed
	case missed > 0:
		fmt.Fprintf(stderr, "peers: %d targets were missed\n", missed)
		return exitMissed
	}
	return exitOK
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{pairs: 7, keep: "results", out: filepath.Join("..", "..", "docs", "BENCHMARKS.md")}
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // run says what is wrong
	fs.IntVar(&o.pairs, "pairs", o.pairs, "how often each side of a table is measured")
	fs.BoolVar(&o.quick, "quick", false, "small sizes and short times, to try the programs: the figures say nothing")
	fs.BoolVar(&o.missing, "missing", false, "only rows that were not measured yet")
	fs.BoolVar(&o.report, "report", false, "measure nothing, write the page only")
	fs.StringVar(&o.keep, "results", o.keep, "`directory` of what was measured")
	fs.StringVar(&o.out, "o", o.out, "`file` to write, - for standard output")
	fs.StringVar(&o.dir, "dir", "", "`directory` for payloads and what servers store, on a real disk (default a temporary one)")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stderr, "usage: peers [flags] [row…]\n\nrows:\n")
		for _, r := range rows(fullSize) {
			fmt.Fprintf(stderr, "  %-10s %s\n", r.name, r.title)
		}
		fmt.Fprintln(stderr, "\nflags:")
		fs.SetOutput(stderr)
		fs.PrintDefaults()
	}
	o.rows = fs.Args()
	if err == nil && o.pairs < 1 {
		err = errors.New("-pairs must be 1 or more")
	}
	return o, err
}

// choose returns the rows that are to be measured.
func choose(o options, all []row) ([]row, error) {
	var chosen []row
	for _, r := range all {
		if len(o.rows) > 0 && !slices.Contains(o.rows, r.name) || o.report {
			continue
		}
		if o.missing {
			if _, err := os.Stat(filepath.Join(o.keep, r.name+".json")); err == nil {
				continue
			}
		}
		chosen = append(chosen, r)
	}
	for _, name := range o.rows {
		if !slices.ContainsFunc(all, func(r row) bool { return r.name == name }) {
			var names []string
			for _, r := range all {
				names = append(names, r.name)
			}
			return nil, fmt.Errorf("there is no row %q: choose from %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

// measureAll measures the rows and writes the page. It returns how many targets
// were missed.
func measureAll(ctx context.Context, o options, stdout, stderr io.Writer) (int, error) {
	scale := fullSize
	if o.quick {
		scale = quickSize
	}
	all := rows(scale)
	chosen, err := choose(o, all)
	if err != nil {
		return 0, err
	}
	var failed error
	if len(chosen) > 0 {
		l, err := newLab(ctx, o.dir, stderr)
		if err != nil {
			return 0, err
		}
		for _, r := range chosen {
			began := time.Now()
			fmt.Fprintf(stderr, "%s: %s\n", r.name, r.title)
			res, err := l.measureRow(ctx, r, o.pairs)
			if err == nil {
				err = res.write(o.keep)
			}
			if ctx.Err() != nil {
				failed = ctx.Err()
				break
			}
			if err != nil {
				// The other rows can be measured all the same.
				fmt.Fprintf(stderr, "%s: failed: %v\n", r.name, err)
				failed = errors.Join(failed, fmt.Errorf("row %s: %w", r.name, err))
				continue
			}
			fmt.Fprintf(stderr, "%s: took %v\n", r.name, time.Since(began).Round(time.Second))
		}
		if err := l.close(); err != nil {
			return 0, errors.Join(failed, err)
		}
	}
	page, missed, err := report(all, o.keep)
	if err != nil {
		return 0, errors.Join(failed, err)
	}
	if o.out == "-" {
		_, err = io.WriteString(stdout, page)
	} else {
		err = os.WriteFile(o.out, []byte(page), 0o644)
	}
	return missed, errors.Join(failed, err)
}
