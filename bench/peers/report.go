package main

import (
	_ "embed"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// preamble begins the page.
const preamble = `# Benchmarks

aipod against the same job done with other things. All but the notes at its end is written by a program, and measured. To reproduce it, on Debian 12 or newer:

` + "```sh" + `
bench/peers/run.sh                  # all rows, about 40 minutes
bench/peers/run.sh upload small     # some
cd bench/peers && go run . -help    # what there is
` + "```" + `

Server and client are two processes on one machine that share its cores. For each run both are new, and so is what the server stores. The sides of a table take turns, A B C A B C …
Cells are the median (least–most) of the runs. A ratio is taken within each turn, and then the median of the ratios. Every run must give the right answer, or the row fails: sizes and, of small answers, contents are checked.

- **time**: of the client's operation, from connecting to the answer; not the start of its process. **throughput**: payload by time.
- **CPU**: user and system time, of the server while the client ran, of the client in its whole life. **RSS**: the most that was ever resident.
- Payloads are files in the page cache, made by ` + "`internal/bench`" + `: random does not compress, text about 3 to 1, csv about 4 to 1.

Each single run is in [bench/peers/results](../bench/peers/results), the peers in [bench/peers](../bench/peers).
`

// notes end the page. They are written by hand.
//
//go:embed notes.md
var notes string

// report makes the page of what is in a directory. It returns how many targets
// were missed.
func report(all []row, dir string) (page string, missed int, err error) {
	var body, summary strings.Builder
	var machines []string
	for _, r := range all {
		res, err := readResult(dir, r.name)
		if err != nil {
			return "", 0, err
		}
		fmt.Fprintf(&body, "\n## %s\n\n%s\n", r.title, r.about)
		if res == nil {
			fmt.Fprintf(&body, "\nNot measured yet: `bench/peers/run.sh %s`.\n", r.name)
			continue
		}
		if len(machines) == 0 || machines[len(machines)-1] != res.Machine {
			machines = append(machines, res.Machine)
		}
		for _, t := range r.tables {
			for _, m := range res.Tables {
				if m.Name == t.name {
					missed += writeTable(&body, &summary, r, t, m)
				}
			}
		}
		fmt.Fprintf(&body, "\n`bench/peers/run.sh %s`, %s to %s UTC, commit %s, load before %s.\n\n", r.name,
			res.Began.Format(time.DateTime), res.Ended.Format(time.TimeOnly), res.Commit, res.Load)
		writeCommands(&body, r)
	}
	var head strings.Builder
	head.WriteString(preamble)
	fmt.Fprintf(&head, "\n## Where\n\n")
	for _, m := range machines {
		fmt.Fprintf(&head, "- %s\n", m)
	}
	fmt.Fprintf(&head, "- %s\n", versions())
	fmt.Fprintf(&head, "\n## Targets\n\n| row | table | what | target | measured | |\n|---|---|---|--:|--:|---|\n%s", summary.String())
	return head.String() + body.String() + notes, missed, nil
}

// writeTable writes the figures of a table, and what became of its targets.
func writeTable(body, summary *strings.Builder, r row, t table, m measuredTable) (missed int) {
	fmt.Fprintf(body, "\n### %s\n\n| | runs |", t.name)
	for _, c := range t.metrics {
		fmt.Fprintf(body, " %s |", strings.TrimSuffix(c.name+", "+c.unit, ", "))
	}
	fmt.Fprintf(body, "\n|---|--:|%s\n", strings.Repeat("--:|", len(t.metrics)))
	for _, s := range t.sides {
		samples := m.Sides[s.name]
		if len(samples) == 0 {
			continue
		}
		fmt.Fprintf(body, "| %s | %d |", s.name, len(samples))
		for _, c := range t.metrics {
			sp := c.spread(samples)
			if len(samples) == 1 {
				fmt.Fprintf(body, " %s |", c.format(sp.median))
				continue
			}
			fmt.Fprintf(body, " %s (%s–%s) |", c.format(sp.median), c.format(sp.least), c.format(sp.most))
		}
		fmt.Fprintln(body)
	}
	for _, g := range t.targets {
		s, ok := g.measured(m)
		if !ok {
			continue
		}
		verdict := "met"
		switch {
		case g.informs:
			verdict = ""
		case !g.met(s):
			verdict = "**missed**"
			missed++
		}
		fmt.Fprintf(summary, "| %s | %s | %s | %s | %s | %s |\n", r.name, t.name, g, g.promise(), g.show(s), verdict)
	}
	return missed
}

// writeCommands writes what was run, without the addresses.
func writeCommands(body *strings.Builder, r row) {
	fmt.Fprint(body, "<details><summary>commands</summary>\n\n```\n")
	seen := map[string]bool{}
	for _, t := range r.tables {
		for _, s := range t.sides {
			line := fmt.Sprintf("%s\n  server: %s\n", s.name, strings.Join(s.server, " "))
			if s.setup != nil {
				line += "  before: " + strings.Join(s.setup, " ") + "\n"
			}
			if s.client != nil {
				line += "  client: " + strings.Join(s.client, " ") + "\n"
			}
			if s.delay > 0 {
				line += "  between: relay serve -delay " + s.delay.String() + "\n"
			}
			if !seen[line] {
				body.WriteString(line)
			}
			seen[line] = true
		}
	}
	fmt.Fprint(body, "```\n\n</details>\n")
}

// versions says of what the programs are made.
func versions() string {
	parts := []string{runtime.Version()}
	modules := []string{"connectrpc.com/connect", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/tus/tusd/v2", "golang.org/x/net"}
	out, err := exec.Command("go", append([]string{"list", "-m", "-f", "{{.Path}} {{.Version}}"}, modules...)...).Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			parts = append(parts, strings.TrimSpace(line))
		}
	}
	out, err = exec.Command(python, "-c", "import grpc, platform, zstandard; "+
		"print('Python', platform.python_version()+', grpcio', grpc.__version__+', zstandard', zstandard.__version__)").Output()
	if err == nil {
		parts = append(parts, strings.TrimSpace(string(out)))
	}
	return strings.Join(parts, ", ")
}
