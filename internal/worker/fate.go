package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// maxStarts is how often a version is started before the calls that wait for it
	// fail, if each time it dies over that.
	maxStarts = 3
	// downAfter is after how many deaths, without a call that ended in between, a
	// version counts as down.
	downAfter = 3
	// The pause before the next start of a version that has died doubles from the
	// first to the last.
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// reprieve is how long an instance of a version that is down has to live
	// for it to be up again, if no call shows that it works.
	reprieve = 10 * time.Second
)

// A fate is what is known of a version whose instances have died.
type fate struct {
	deaths int       // since the last call that ended
	next   time.Time // not to be started before
	up     bool      // as OnVersion was told
}

// backoff is the pause after so many deaths, jittered by half.
func backoff(deaths int) time.Duration {
	pause := firstPause
	for range deaths - 1 {
		pause = min(2*pause, lastPause)
	}
	return pause/2 + rand.N(pause/2)
}

// diesLocked notes the death of an instance that nobody wanted. p.mu is held.
func (p *Pool) diesLocked(version string, cause error) {
	if p.closed {
		return
	}
	f := p.fates[version]
	if f == nil {
		f = &fate{up: true}
		p.fates[version] = f
	}
	f.deaths++
	pause := backoff(f.deaths)
	f.next = time.Now().Add(pause)
	p.log.Warn("instance died", "version", version, "deaths", f.deaths, "pause", pause.Round(time.Millisecond).String(), "err", cause)
	if f.deaths < downAfter {
		return
	}
	if f.up {
		f.up = false
		p.log.Error("version is down", "version", version, "deaths", f.deaths)
		p.cfg.OnVersion(version, false)
	}
	p.wg.Go(func() { p.revive(version, f, f.deaths) })
}

// livesLocked notes that a version works. p.mu is held.
func (p *Pool) livesLocked(version string) {
	f := p.fates[version]
	if f == nil {
		return
	}
	delete(p.fates, version)
	if !f.up {
		p.log.Info("version is up again", "version", version)
		p.cfg.OnVersion(version, true)
	}
}

// revive has a version that is down show that it lives, even if no balancer sends
// calls to it any more: it is started, and has to last.
func (p *Pool) revive(version string, f *fate, deaths int) {
	if p.pause(version) != nil {
		return
	}
	p.mu.Lock()
	if !p.closed && p.fates[version] == f && f.deaths == deaths && !p.has(version) && len(p.instances) < p.cfg.Instances {
		p.load(version)
	}
	p.mu.Unlock()
	// Loading takes no part of the time it has to last, or slow ones would never.
	for {
		if sleep(p.ctx, reprieve) != nil {
			return
		}
		p.mu.Lock()
		loaded, same := false, p.fates[version] == f && f.deaths == deaths
		for _, inst := range p.instances {
			loaded = loaded || inst.version == version && inst.loaded != nil && !inst.retired
		}
		if same && loaded {
			p.livesLocked(version)
		}
		waits := same && !loaded && p.has(version)
		p.mu.Unlock()
		if !waits {
			return
		}
	}
}

// has says whether a version is loaded or being loaded. p.mu is held.
func (p *Pool) has(version string) bool {
	for _, inst := range p.instances {
		if inst.version == version && !inst.retired {
			return true
		}
	}
	return false
}

// pause waits until a version may be started. The error is ErrClosed.
func (p *Pool) pause(version string) error {
	p.mu.Lock()
	var wait time.Duration
	if f := p.fates[version]; f != nil {
		wait = time.Until(f.next)
	}
	p.mu.Unlock()
	if wait > 0 && sleep(p.ctx, wait) != nil || p.ctx.Err() != nil {
		return ErrClosed
	}
	return nil
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
