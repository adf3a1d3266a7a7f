package worker

import (
	"cmp"
	"slices"
)

// A queue holds the calls that wait, in order of arrival. Nothing that happens to
// each call looks at all of them: there may be many thousands. The pool's lock guards
// it.
type queue struct {
	tickets  []*ticket
	pushed   uint64         // tickets so far
	loading  int            // of those that wait, how many have loading set
	versions map[string]int // how many wait for each version
}

// A ticket is a call that waits for a slot.
type ticket struct {
	call    *Call
	version string
	observe func(Stage)
	grant   chan grant // capacity 1, gets exactly one
	number  uint64     // ascending in a queue
	loading bool       // an instance is being loaded for it
}

type grant struct {
	instance *instance
	err      error
}

func (q *queue) push(t *ticket) {
	if q.versions == nil {
		q.versions = map[string]int{}
	}
	q.pushed++
	t.number, t.call.ticket = q.pushed, q.pushed
	q.tickets = append(q.tickets, t)
	q.versions[t.version]++
}

// gone takes a ticket that leaves out of the counts.
func (q *queue) gone(t *ticket) {
	if t.loading {
		q.loading--
	}
	if q.versions[t.version]--; q.versions[t.version] == 0 {
		delete(q.versions, t.version)
	}
}

// load notes that an instance is being loaded for a ticket.
func (q *queue) load(t *ticket) {
	t.loading = true
	q.loading++
}

// find is the index of the ticket with a number, or -1.
func (q *queue) find(number uint64) int {
	i, ok := slices.BinarySearchFunc(q.tickets, number, func(t *ticket, n uint64) int { return cmp.Compare(t.number, n) })
	if !ok {
		return -1
	}
	return i
}

// remove takes a ticket out, and says whether it was there.
func (q *queue) remove(t *ticket) bool {
	i := q.find(t.number)
	if i < 0 {
		return false
	}
	q.tickets = slices.Delete(q.tickets, i, i+1)
	q.gone(t)
	return true
}

// removeIf takes out the tickets that match.
func (q *queue) removeIf(match func(*ticket) bool) {
	q.tickets = slices.DeleteFunc(q.tickets, func(t *ticket) bool {
		if !match(t) {
			return false
		}
		q.gone(t)
		return true
	})
}

// A chance is what serve made of a ticket.
type chance int

const (
	served chance = iota // it leaves the queue
	waits                // it stays; the next one for its version may fare better
	stuck                // it stays, and so do all for its version
)

// serve shows the tickets to one who may have something for them, in order, until
// all versions are stuck.
func (q *queue) serve(do func(*ticket) chance) {
	var hopeless map[string]bool // versions that are stuck
	seen, kept := 0, 0
	for more := true; more && seen < len(q.tickets); {
		t := q.tickets[seen]
		seen++
		if !hopeless[t.version] {
			switch do(t) {
			case served:
				q.gone(t)
				continue
			case stuck:
				if more = len(hopeless)+1 < len(q.versions); more {
					if hopeless == nil {
						hopeless = map[string]bool{}
					}
					hopeless[t.version] = true
				}
			case waits:
			}
		}
		q.tickets[kept] = t
		kept++
	}
	// Who has seen the front only moves what it has seen.
	left := seen - kept
	copy(q.tickets[left:seen], q.tickets[:kept])
	clear(q.tickets[:left])
	q.tickets = q.tickets[left:]
}
