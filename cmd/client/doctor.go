package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/aipod/aipod/internal/doctor"
)

// doctorLimits bound what doctor may be told.
const (
	minDoctorTime = time.Second
	maxDoctorTime = time.Hour
)

func (a *app) doctorCommand() *cobra.Command {
	var (
		dial   dialFlags
		cfg    doctor.Config
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "doctor [URL]",
		Short: "Find out what stands between here and a pod",
		Long: `Find out what stands between here and a pod, by trying: which protocols pass,
when silent, stalling and long streams are cut, how large requests may be, what
is buffered, round-trip times, and the HTTP/2 settings of the first hop. Each
problem comes with what it costs and the line of nginx, HAProxy and Envoy that
mends it.

It takes as long as --max. A limit of the total time can only be found if it is
shorter than that: give 5m to find the usual ones. It sends some 100 MiB, runs no
function and leaves no job behind.

Prints the findings and exits 0 if none is a problem, 1 if one is. A pod that
can't be reached is exit 3.`,
		Example: `  client doctor https://pod.example
  client doctor https://pod.example --max 5m
  client doctor http://127.0.0.1:8080 -H 'x-upstream: xxx' --json | jq -r 'select(.level == "problem").nginx'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%q is one argument too many: see %s --help", args[1], cmd.CommandPath())
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&cfg.Silence, "silence", doctor.MaxSilence, "longest idle timeout to look for, 1s to 30s")
	cmd.Flags().DurationVar(&cfg.Max, "max", time.Minute, "how long to hold streams to find a limit of their total time, such as 5m")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each finding as one line of JSON")
	dial.registerHeader(cmd.Flags())
	// All protocols are tried.
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	dial.register(all)
	for _, name := range []string{"addr", "ca", "insecure"} {
		cmd.Flags().AddFlag(all.Lookup(name))
	}
	return a.finish(cmd, func(ctx context.Context, args []string) error {
		switch {
		case cfg.Silence < minDoctorTime || cfg.Silence > doctor.MaxSilence:
			return usagef("--silence %v: give %v to %v", cfg.Silence, minDoctorTime, doctor.MaxSilence)
		case cfg.Max < minDoctorTime || cfg.Max > maxDoctorTime:
			return usagef("--max %v: give %v to %v", cfg.Max, minDoctorTime, maxDoctorTime)
		}
		if len(args) == 1 {
			dial.addr = args[0]
		}
		c, err := dial.open()
		if err != nil {
			return err
		}
		defer c.close()
		cfg.URL, cfg.Header = c.addr, c.header
		if t, ok := c.http.Transport.(*http.Transport); ok {
			cfg.TLS = t.TLSClientConfig
		}
		return a.doctor(ctx, c, cfg, asJSON)
	})
}

func (a *app) doctor(ctx context.Context, c *conn, cfg doctor.Config, asJSON bool) error {
	found, err := a.examine(ctx, cfg)
	var none *doctor.NoPodError
	switch {
	case errors.As(err, &none):
		return &failure{
			exit: exitUnreachable, what: "something listens at " + c.addr + ", but " + none.Error(),
			todo: "check the URL and what it leads to, and -H if the proxy wants a header", err: err,
		}
	case err != nil:
		return c.unreachable(err)
	}
	if asJSON {
		err = a.printFindings(found)
	} else {
		err = writeFindings(a.stdout, c.addr, found, a.terminal(a.stdout) && a.color())
	}
	if err != nil {
		return failf("write the findings: %w", err)
	}
	if doctor.Problems(found) > 0 {
		return &failure{exit: exitFailed} // the findings have said it
	}
	return nil
}

// examine runs the doctor and shows on a terminal what it does.
func (a *app) examine(ctx context.Context, cfg doctor.Config) ([]doctor.Finding, error) {
	if !a.terminal(a.stderr) || a.dumb() {
		return doctor.Run(ctx, cfg)
	}
	var (
		mu      sync.Mutex
		running []string
		wg      sync.WaitGroup
	)
	cfg.Progress = func(names []string) {
		mu.Lock()
		defer mu.Unlock()
		running = names
	}
	begun, done := time.Now(), make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(displayTick)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(a.stderr, "\r\x1b[K")
				return
			case <-tick.C:
			}
			mu.Lock()
			line := strings.Join(running, ", ")
			mu.Unlock()
			fmt.Fprintf(a.stderr, "\r\x1b[K%s of %s  %s", short(time.Since(begun)), short(cfg.Max), clip(line))
		}
	})
	found, err := doctor.Run(ctx, cfg)
	close(done)
	wg.Wait()
	return found, err
}

// clip keeps a line that is drawn again and again on one line of most terminals.
func clip(line string) string {
	const most = 60
	if len(line) > most {
		return line[:most-3] + "..."
	}
	return line
}

// printFindings prints JSON lines.
func (a *app) printFindings(found []doctor.Finding) error {
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false)
	for _, f := range found {
		if err := out.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

var levelColors = map[doctor.Level]string{doctor.OK: "\x1b[32m", doctor.Note: "\x1b[36m", doctor.Problem: "\x1b[31m"}

// writeFindings prints a report for people.
func writeFindings(w io.Writer, addr string, found []doctor.Finding, color bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", addr)
	notes := 0
	for _, f := range found {
		level := fmt.Sprintf("%-7s", f.Level)
		if color {
			level = levelColors[f.Level] + level + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s  %-8s  %s\n", level, f.Over, printable(f.Text))
		for _, line := range [][2]string{{"costs", f.Costs}, {"nginx", f.Nginx}, {"haproxy", f.HAProxy}, {"envoy", f.Envoy}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "%19s%-9s%s\n", "", line[0]+":", line[1])
			}
		}
		if f.Level == doctor.Note {
			notes++
		}
	}
	problems := doctor.Problems(found)
	fmt.Fprintf(&b, "\n%s, %s\n", count(problems, "problem"), count(notes, "note"))
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
