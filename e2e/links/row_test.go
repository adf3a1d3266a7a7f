package main

import (
	"strings"
	"testing"

	"github.com/aipod/aipod/client"
)

// rounds makes a row of the seconds that each level took, round by round.
func rounds(seconds map[client.Level][]float64) row {
	r := row{link: shapeOf(0)}
	for _, l := range levels {
		for _, s := range seconds[l] {
			r.add(l, call{Seconds: s, Sent: 4, Wire: 1})
		}
	}
	return r
}

func TestRow(t *testing.T) {
	r := rounds(map[client.Level][]float64{
		client.LevelRaw:      {1, 9, 1.2},
		client.LevelFastest:  {2, 2, 2},
		client.LevelDefault:  {4},
		client.LevelBetter:   {4},
		client.LevelAdaptive: {1.3, 9, 1.2},
	})
	if r.best() != client.LevelRaw || r.seconds(client.LevelRaw) != 1.2 || r.ratio() != 1 || r.wire() != 0.25 {
		t.Errorf("best %s of %g s, ratio %g, wire %g", r.best(), r.seconds(client.LevelRaw), r.ratio(), r.wire())
	}
	for l, want := range map[client.Level]bool{client.LevelFastest: false, client.LevelDefault: true, client.LevelAdaptive: false} {
		if r.skips(l) != want {
			t.Errorf("skips %s: %t", l, !want)
		}
	}
	if line := r.String(); strings.Contains(line, "**") || strings.Count(line, "\u00b9") != 2 {
		t.Errorf("a promise that is kept: %s", line)
	}
	r = rounds(map[client.Level][]float64{
		client.LevelRaw: {2, 2}, client.LevelFastest: {1, 1}, client.LevelDefault: {2, 2}, client.LevelBetter: {2, 2},
		client.LevelAdaptive: {1.1, 1.2},
	})
	if line := r.String(); !strings.Contains(line, "**1.150**") {
		t.Errorf("a promise that is broken: %s", line)
	}
	if page := (&page{rows: []row{r}, missing: 2}).String(); !strings.Contains(page, "broken in 1 of 1") || !strings.Contains(page, "2 rows are missing") {
		t.Error(page)
	}
}
