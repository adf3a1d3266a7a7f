package main

import (
	"bytes"
	"strings"
	"testing"
)

// All programs of some rows do their job in small: the wrong answer of one fails
// its row. Targets are missed, which says nothing.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all programs")
	}
	var page, log bytes.Buffer
	args := []string{"-quick", "-pairs", "1", "-o", "-", "-results", t.TempDir(), "upload", "far", "python", "small", "start"}
	if code := run(t.Context(), args, &page, &log); code != exitOK && code != exitMissed {
		t.Fatalf("exit code %d:\n%s", code, log.String())
	}
	for _, name := range []string{"aipod", "connect-go", "grpc-go", "tusd", "net/http POST", "TCP"} {
		if !strings.Contains(page.String(), "| "+name) {
			t.Errorf("the page has no line of %s", name)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-pairs", "0"}, {"nothing"}, {"-what"}} {
		var page, log bytes.Buffer
		if code := run(t.Context(), args, &page, &log); code == exitOK || page.Len() > 0 {
			t.Errorf("%v: exit code %d, %q", args, code, page.String())
		}
	}
}
