package worker

import (
	"maps"
	"slices"
	"strings"
)

// A Status is how a Pool is now.
type Status struct {
	Instances    []InstanceStatus // ascending by version
	MaxInstances int
	Queued       int      // calls that wait for a slot
	MaxQueue     int      // how many may
	Down         []string // versions whose instances die again and again, ascending
}

// An InstanceStatus is how an instance is now.
type InstanceStatus struct {
	Version string // empty is the model's default
	State   InstanceState
	Busy    int // slots taken
	Slots   int // of which there are so many
}

// An InstanceState is where an instance is in its life.
type InstanceState int

// The states of an instance, in order.
const (
	InstanceLoading InstanceState = iota
	InstanceReady                 // takes calls
	InstanceRetired               // is closed when its last call has ended
)

// Status tells how the pool is. It never waits for the model.
func (p *Pool) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{MaxInstances: p.cfg.Instances, Queued: len(p.queue.tickets), MaxQueue: max(p.cfg.Queue, 0)}
	for _, inst := range p.instances {
		state := InstanceReady
		switch {
		case inst.loaded == nil:
			state = InstanceLoading
		case inst.retired:
			state = InstanceRetired
		}
		s.Instances = append(s.Instances, InstanceStatus{Version: inst.version, State: state, Busy: inst.busy, Slots: p.cfg.Slots})
	}
	slices.SortStableFunc(s.Instances, func(a, b InstanceStatus) int { return strings.Compare(a.Version, b.Version) })
	for _, version := range slices.Sorted(maps.Keys(p.fates)) {
		if !p.fates[version].up {
			s.Down = append(s.Down, version)
		}
	}
	return s
}
