package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/aipod/aipod/internal/tabular"
)

// emptyTemp makes the demo's temporary directory and checks at the end that
// nothing is left in it.
func emptyTemp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("the demo leaves %v behind (%v)", entries, err)
		}
	})
}

func TestDemo(t *testing.T) {
	emptyTemp(t)
	text := ok(t, "demo", "--size", "64MiB")
	for _, want := range []string{
		"pod      http://127.0.0.1:", "train    120 flowers of 3 species; accuracy 0.9", "predict  30 flowers",
		"petal_width  species     predicted\n", "virginica", "move     64 MiB of random bytes", "heartbeats",
		digest(generate(t, "random", 64<<20))[11:75], "the same digest", "all of it worked",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if lines := strings.Count(text, "\n"); lines > 30 {
		t.Errorf("%d lines, want a screen", lines)
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestDemoInterrupted(t *testing.T) {
	emptyTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{ctx: ctx, out: func(line string) {
		if strings.Contains(line, "move ") {
			cancel()
		}
	}}
	if got := s.run(t, "demo"); got.code != exitInterrupted || !strings.HasPrefix(got.stderr, "client: interrupted") {
		t.Errorf("%+v, want 130", got)
	}
}

func TestDemoWithoutRoom(t *testing.T) {
	emptyTemp(t)
	got := run(t, "demo", "--size", "1EiB")
	if got.code != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "of room and the demo needs 1.0 EiB; choose a smaller --size") {
		t.Errorf("%+v", got)
	}
}

func TestHoldOut(t *testing.T) {
	known, held := holdOut(tabular.Iris())
	if len(known.rows) != 120 || len(held.rows) != 30 {
		t.Fatalf("%d and %d rows, want 120 and 30", len(known.rows), len(held.rows))
	}
	species := map[string]int{}
	for _, row := range held.rows {
		species[row[4]]++
	}
	for name, n := range species {
		if n != 10 {
			t.Errorf("%d of %s are held out, want 10", n, name)
		}
	}
	if got := string(held.csv(held.header[:2])); !strings.HasPrefix(got, "sepal_length,sepal_width\n5.0,3.6\n") {
		t.Errorf("%.60q", got)
	}
}
