package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/aipod/aipod/internal/flagenv"
)

// A page is what the documentation says of a run.
type page struct {
	began      time.Time
	command    string
	machine    string
	size       flagenv.Size
	congestion string
	rows       []row
	missing    int // rows that are not there yet
}

func (p *page) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Adaptive sending on shaped links")
	line("")
	line("A client that sends adaptively, which is the default, chooses for each chunk whether and how hard to compress it. The promise:")
	line("on no link is that slower than %.2f times the best fixed level, which nobody knows beforehand.", promise)
	line("")
	line("This page is written by a program. To reproduce it, on Linux, as root, with `ip` and `tc`:")
	line("")
	line("```sh")
	line("make links")
	line("```")
	line("")
	if p.missing > 0 {
		line("**The run was not complete: %d rows are missing.**", p.missing)
		line("")
	}
	line("%s", verdict(p.rows))
	line("")
	b.WriteString(tableHead)
	for _, r := range p.rows {
		b.WriteString(r.String())
	}
	line("")
	line("Columns raw to adaptive: seconds from the start of `client.Run` to its end, the median of the rounds. Adaptive / best: in each round,")
	line("adaptive's seconds divided by those of the level that is best by its median; of that the median. It favours the fixed levels, of which")
	line("the best is chosen afterwards. Sent / size: how large the payload was as adaptive sent it. \u00b9 one round only: in the first it was")
	line("more than %d times slower than the best.", hopeless)
	line("")
	line("## How it was measured")
	line("")
	line("- %s, with `%s`, on %s. Sender, pod and the shaped link share the cores.", p.began.UTC().Format(time.DateOnly), p.command, p.machine)
	line("- Payloads of %s, made beforehand in memory by `internal/bench`: text is lines of words, csv a table of measurements, random does", p.size.String())
	line("  not compress. Each is sent as an ephemeral job to the function `hello`, which ignores it, by a new client over a new connection.")
	line("- Levels take turns: raw, fastest, default, better, adaptive, and again. Before the first round, 1 MiB is sent at each level and")
	line("  not counted.")
	line("- Two network namespaces joined by a veth pair; TCP's congestion control is %s, the MTU 1500. The link adds no delay but", p.congestion)
	line("  that of its queue. The sender's end has a `tbf` queueing discipline:")
	line("")
	line("| link | bucket | queue | rounds |")
	line("|---|--:|--:|--:|")
	for i, r := range p.rows {
		if i > 0 && p.rows[i-1].link == r.link {
			continue
		}
		if r.link.mbit == 0 {
			line("| %s | – | – | %d |", r.link, r.rounds())
			continue
		}
		line("| %s | %d KiB | %d KiB | %d |", r.link, r.link.burst>>10, r.link.queue>>10, r.rounds())
	}
	return b.String()
}

func verdict(rows []row) string {
	worst, broken := 0.0, 0
	var where string
	for _, r := range rows {
		if r.ratio() > worst {
			worst, where = r.ratio(), fmt.Sprintf("%s, %s", r.kind, r.link)
		}
		if r.ratio() > promise {
			broken++
		}
	}
	if broken > 0 {
		return fmt.Sprintf("**It is broken in %d of %d rows; at worst the ratio is %.3f (%s).**", broken, len(rows), worst, where)
	}
	return fmt.Sprintf("It holds in all %d rows; at worst the ratio is %.2f (%s).", len(rows), worst, where)
}
