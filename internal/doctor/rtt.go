package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// samples is how often a round trip is measured.
const samples = 7

// sample measures something several times, and returns the least and the median.
func sample(ctx context.Context, once func(context.Context) error) (least, median time.Duration, err error) {
	var all []time.Duration
	for range samples {
		begun := time.Now()
		if err := once(ctx); err != nil {
			return 0, 0, err
		}
		all = append(all, time.Since(begun))
	}
	slices.Sort(all)
	return all[0], all[len(all)/2], nil
}

// probeRTT measures round trips: TCP alone, and small calls to the pod and back.
// It returns the least time of a call.
func (d *doctor) probeRTT(ctx context.Context, ways []*way, proxied bool) (rtt time.Duration) {
	defer d.during("round trips")()
	if !proxied {
		least, median, err := sample(ctx, func(ctx context.Context) error {
			conn, err := d.dialTCP(ctx)
			if err != nil {
				return err
			}
			return ignoreClosed(conn.Close())
		})
		if err == nil {
			d.tcp = least
			d.tellRTT("", "TCP connects", "tcp", least, median)
		}
	}
	for _, w := range ways {
		least, median, err := w.callRTT(ctx)
		if err != nil {
			d.unprobed(ctx, w, "the round trip of calls", err)
			continue
		}
		d.tellRTT(w.over, "a small call to the pod is answered", "call", least, median)
		if rtt == 0 || least < rtt {
			rtt = least
		}
	}
	if d.tcp > 0 && rtt > 5*d.tcp && rtt-d.tcp > 20*time.Millisecond {
		d.found.add(Finding{
			Level: Note, Kind: RTT, Value: ms(rtt - d.tcp), Unit: "ms",
			Text: fmt.Sprintf("TCP connects in %s, but calls take %s: the pod, or a hop that is far away, is behind what ends the connection",
				millis(d.tcp), millis(rtt)),
		}, "")
	}
	return rtt
}

// callRTT measures calls on a connection that is there.
func (w *way) callRTT(ctx context.Context) (least, median time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*unaryLimit)
	defer cancel()
	l, err := w.open(w.protocol)
	if err != nil {
		return 0, 0, err
	}
	defer l.close()
	call := func(ctx context.Context) error {
		_, err := l.jobs.ListFunctions(ctx, connect.NewRequest(&aipodv1.ListFunctionsRequest{}))
		return err
	}
	if err := call(ctx); err != nil {
		return 0, 0, err
	}
	return sample(ctx, call)
}

func (d *doctor) tellRTT(over, text, name string, least, median time.Duration) {
	d.found.add(Finding{
		Level: OK, Kind: RTT, Over: over, Value: ms(median), Unit: "ms",
		Text:  fmt.Sprintf("%s in %s (least %s)", text, millis(median), millis(least)),
		Facts: map[string]float64{name + "_median_ms": ms(median), name + "_least_ms": ms(least)},
	}, "")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
