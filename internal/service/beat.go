package service

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// beats are the heartbeats of one connection. All its streams with the same
// interval beat together, because net/http's HTTP/2 write loop then sends many
// frames in one syscall: with 10,000 waiting streams that halves the CPU time
// against a ticker for each.
type beats struct {
	mu     sync.Mutex
	pulses map[time.Duration]*pulse
}

// A pulse is one interval's beat. It lives for as long as it has users.
type pulse struct {
	interval time.Duration
	users    int
	due      time.Time
	timer    *time.Timer
	next     atomic.Pointer[chan struct{}] // closed at the next beat
}

type beatsKey struct{}

// withBeats gives a connection its beats; it is a http.Server.ConnContext.
func withBeats(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, beatsKey{}, &beats{pulses: map[time.Duration]*pulse{}})
}

// beatsOf are those of the connection that ctx belongs to, or new ones.
func beatsOf(ctx context.Context) *beats {
	if b, ok := ctx.Value(beatsKey{}).(*beats); ok {
		return b
	}
	return &beats{pulses: map[time.Duration]*pulse{}}
}

// join begins to listen to the beat of an interval. The first beat comes within
// one interval. What it returns must be left.
func (b *beats) join(interval time.Duration) *listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pulses[interval]
	if p == nil {
		p = &pulse{interval: interval, due: time.Now().Add(interval)}
		p.renew()
		p.timer = time.AfterFunc(interval, func() { b.beat(p) })
		b.pulses[interval] = p
	}
	p.users++
	return &listener{beats: b, pulse: p, due: *p.next.Load()}
}

// renew makes the channel of the next beat.
func (p *pulse) renew() {
	next := make(chan struct{})
	p.next.Store(&next)
}

func (b *beats) beat(p *pulse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.users == 0 {
		return
	}
	// The next channel is there before those who wait for this one look for it.
	due := *p.next.Load()
	p.renew()
	close(due)
	// An absolute schedule: a late beat doesn't make the next one late. A
	// machine that slept doesn't catch up.
	now := time.Now()
	if p.due = p.due.Add(p.interval); p.due.Before(now) {
		p.due = now.Add(p.interval)
	}
	p.timer.Reset(p.due.Sub(now))
}

// A listener is one stream's share in a pulse. It belongs to one goroutine.
type listener struct {
	beats *beats
	pulse *pulse
	due   <-chan struct{}
}

// next is closed at the next beat. Who has waited for it calls heard before it sends:
// if that takes long, the beat that comes meanwhile is late, and not left out.
func (l *listener) next() <-chan struct{} { return l.due }

func (l *listener) heard() { l.due = *l.pulse.next.Load() }

func (l *listener) leave() {
	l.beats.mu.Lock()
	defer l.beats.mu.Unlock()
	if l.pulse.users--; l.pulse.users == 0 {
		l.pulse.timer.Stop()
		delete(l.beats.pulses, l.pulse.interval)
	}
}
