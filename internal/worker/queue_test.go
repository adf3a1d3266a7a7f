package worker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// What serve does without looking at all tickets is what looking at all would do.
func TestQueueServesLikeAFullScan(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		var q queue
		for range random.IntN(12) {
			q.push(&ticket{call: &Call{}, version: fmt.Sprint(random.IntN(3))})
		}
		for range 4 { // rounds
			free, hope := map[string]int{}, map[string]int{}
			for v := range 3 {
				free[fmt.Sprint(v)], hope[fmt.Sprint(v)] = random.IntN(4), random.IntN(3)
			}
			rule := func(free, hope map[string]int) func(*ticket) chance {
				return func(t *ticket) chance {
					switch {
					case free[t.version] > 0:
						free[t.version]--
						return served
					case hope[t.version] > 0:
						hope[t.version]--
						return waits
					}
					return stuck
				}
			}
			var want []*ticket
			scan := rule(maps.Clone(free), maps.Clone(hope))
			for _, t := range q.tickets {
				if scan(t) != served {
					want = append(want, t)
				}
			}
			q.serve(rule(free, hope))
			if !slices.Equal(q.tickets, want) {
				t.Fatalf("seed %d: %d tickets are left, want %d", seed, len(q.tickets), len(want))
			}
			checkQueue(t, &q)
			if len(q.tickets) > 0 && random.IntN(2) == 0 {
				gone := q.tickets[random.IntN(len(q.tickets))]
				if !q.remove(gone) || q.remove(gone) {
					t.Fatalf("seed %d: a ticket can be removed once", seed)
				}
			}
			for range random.IntN(3) {
				q.push(&ticket{call: &Call{}, version: fmt.Sprint(random.IntN(3))})
			}
			if random.IntN(8) == 0 {
				q.removeIf(func(t *ticket) bool { return t.version == "1" })
			}
			checkQueue(t, &q)
		}
	}
}

func checkQueue(t *testing.T, q *queue) {
	t.Helper()
	versions := map[string]int{}
	for i, ticket := range q.tickets {
		versions[ticket.version]++
		if at := q.find(ticket.call.ticket); at != i {
			t.Fatalf("ticket %d of %d is found at %d", i, len(q.tickets), at)
		}
	}
	if !maps.Equal(versions, q.versions) {
		t.Fatalf("counted %v, there are %v", q.versions, versions)
	}
}

// A call's turn must not cost more because thousands wait behind it.
func TestLongQueueCostsNoMore(t *testing.T) {
	shown := func(waiting int) (n int) {
		var q queue
		for range waiting {
			q.push(&ticket{call: &Call{}})
		}
		for range 100 {
			free := 1
			q.serve(func(*ticket) chance {
				n++
				if free == 0 {
					return stuck
				}
				free--
				return served
			})
		}
		return n
	}
	if few, many := shown(1000), shown(50_000); many != few {
		t.Errorf("100 turns look at %d tickets with 1,000 that wait, and at %d with 50,000", few, many)
	}
}
