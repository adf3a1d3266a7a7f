package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/transport"
)

// A trial is one protocol over one HTTP version.
type trial struct {
	protocol transport.Protocol
	list     *aipodv1.ListFunctionsResponse
	err      error // of JobService
	health   error // of grpc.health.v1
}

// protocolNames are for people.
var protocolNames = map[transport.Protocol]string{
	transport.GRPC: "gRPC", transport.GRPCWeb: "gRPC-Web", transport.Connect: "Connect",
}

// protocolLimit is for one small call, which has to connect before.
const protocolLimit = 8 * time.Second

// probeProtocols finds out what works at all and returns the ways that do. The
// error is a *NoPodError.
func (d *doctor) probeProtocols(ctx context.Context) ([]*way, error) {
	defer d.during("protocols")()
	// gRPC needs HTTP/2. The order is that in which the other probes like them.
	ways := []*way{{cfg: d.cfg, over: overHTTP2}, {cfg: d.cfg, over: overHTTP1}}
	trials := [][]*trial{
		{{protocol: transport.GRPC}, {protocol: transport.Connect}, {protocol: transport.GRPCWeb}},
		{{protocol: transport.Connect}, {protocol: transport.GRPCWeb}},
	}
	var wg sync.WaitGroup
	for i, w := range ways {
		for _, t := range trials[i] {
			wg.Go(func() { w.try(ctx, t) })
		}
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	why := map[string]error{}
	var working []*way
	for i, w := range ways {
		why[w.over] = trials[i][0].err
		for _, t := range trials[i] {
			if t.err != nil {
				continue
			}
			w.works = append(w.works, t.protocol)
			if fs := t.list.GetFunctions(); w.fn == "" && len(fs) > 0 {
				w.fn = fs[0].GetName()
			}
		}
		if len(w.works) > 0 {
			w.protocol = w.works[0]
			working = append(working, w)
		}
	}
	if len(working) == 0 {
		return nil, &NoPodError{Why: why}
	}
	for i, w := range ways {
		d.tellProtocols(w, trials[i])
	}
	if !slices.ContainsFunc(working, func(w *way) bool { return w.fn != "" }) {
		d.found.add(Finding{Level: OK, Kind: Unprobed, Text: "the pod's model has no functions, so that nothing can be tried with jobs"}, "")
	}
	return working, nil
}

// try makes two small calls on a connection of their own.
func (w *way) try(ctx context.Context, t *trial) {
	ctx, cancel := context.WithTimeout(ctx, protocolLimit)
	defer cancel()
	l, err := w.open(t.protocol)
	if err != nil {
		t.err = err
		return
	}
	defer l.close()
	res, err := l.jobs.ListFunctions(ctx, connect.NewRequest(&aipodv1.ListFunctionsRequest{}))
	if err != nil {
		t.err = err
		return
	}
	t.list = res.Msg
	_, t.health = l.health.Check(ctx, &grpchealth.CheckRequest{})
}

// tellProtocols says what works over one HTTP version.
func (d *doctor) tellProtocols(w *way, trials []*trial) {
	f := Finding{Level: OK, Kind: Protocols, Over: w.over}
	how := "HTTP/1.1"
	switch {
	case w.over == overHTTP2 && d.url.Scheme == "https":
		how = "HTTP/2 over TLS"
	case w.over == overHTTP2:
		how = "HTTP/2 without TLS"
	case d.url.Scheme == "https":
		how = "HTTP/1.1 over TLS"
	}
	var yes, no []string
	var health error
	for _, t := range trials {
		name := protocolNames[t.protocol]
		switch {
		case t.err != nil:
			no = append(no, fmt.Sprintf("%s: %s", name, why(t.err)))
		default:
			yes = append(yes, name)
			health = errors.Join(health, t.health)
		}
	}
	slices.Sort(yes)
	switch {
	case len(yes) == 0:
		f.Level = Note
		f.Text = fmt.Sprintf("%s doesn't work on this port (%s)", how, why(trials[0].err))
	case len(no) > 0:
		f.Level = Note
		f.Text = fmt.Sprintf("%s: %s works, but not %s", how, list(yes), list(no))
	default:
		f.Text = fmt.Sprintf("%s: %s work", how, list(yes))
	}
	d.found.add(f, "")
	if len(yes) > 0 && health != nil {
		d.found.add(Finding{
			Level: Note, Kind: Health, Over: w.over, Text: "grpc.health.v1 doesn't pass: " + why(health),
		}, "")
	}
}

// why is an error in a few words.
func why(err error) string {
	s := strings.Join(strings.Fields(text(err)), " ")
	// net/http says what it wanted to do, then what happened.
	if i := strings.Index(s, `": `); i >= 0 {
		s = s[i+3:]
	}
	switch {
	case strings.Contains(s, "looked like an HTTP/1.1 header"):
		return "it answers in HTTP/1.1"
	case strings.Contains(s, `malformed HTTP response "\x00\x00`):
		return "it answers in HTTP/2"
	case strings.Contains(s, `malformed HTTP response "\x15\x03`):
		return "it wants TLS: try https"
	}
	const most = 120
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// list is a, b and c.
func list(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
