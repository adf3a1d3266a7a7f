package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/grpchealth"

	"github.com/aipod/aipod/internal/transport"
)

func TestFunctions(t *testing.T) {
	for _, protocol := range transport.Protocols {
		text := ok(t, "functions", "--protocol", string(protocol))
		for _, want := range []string{"\nhello ", "\nsha256 ", "\nmodel: tabular\n", "\nversions: "} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is missing:\n%s", protocol, want, text)
			}
		}
	}
	var list struct {
		Model     string
		Functions []struct{ Name, Doc string }
		Versions  []string
	}
	text := ok(t, "functions", "--json")
	if err := json.Unmarshal([]byte(text), &list); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("%q is not a line of JSON: %v", text, err)
	}
	if list.Model != "tabular" || len(list.Functions) < 5 || list.Functions[0].Doc == "" {
		t.Errorf("%+v", list)
	}
	got := (&session{addr: "127.0.0.1:1"}).run(t, "functions")
	if got.code != exitUnreachable || !strings.HasPrefix(got.stderr, "client: no pod answers at http://127.0.0.1:1: start one") {
		t.Errorf("without a pod: %+v", got)
	}
}

func TestHealth(t *testing.T) {
	checker := grpchealth.NewStaticChecker("ai.AI")
	checker.SetStatus("", grpchealth.StatusNotServing)
	mux := http.NewServeMux()
	mux.Handle(grpchealth.NewHandler(checker, transport.HandlerOptions()...))
	draining := serve(t, transport.Middleware(mux))
	for _, test := range []struct {
		addr string
		args []string
		want outcome
	}{
		{"", nil, outcome{stdout: "SERVING\n"}},
		{"", []string{"ai.AI", "--protocol", "connect"}, outcome{stdout: "SERVING\n"}},
		{"", []string{"aipod.v1.JobService", "--protocol", "grpcweb"}, outcome{stdout: "SERVING\n"}},
		{"", []string{"x.Y"}, outcome{code: exitFailed, stderr: "client: not_found: the pod has no service \"x.Y\"; leave it out to ask for the pod\n"}},
		{draining, nil, outcome{code: exitFailed, stdout: "NOT_SERVING\n"}},
		{draining, []string{"ai.AI"}, outcome{stdout: "SERVING\n"}},
		{"http://127.0.0.1:1", nil, outcome{code: exitUnreachable, stderr: "client: no pod answers at http://127.0.0.1:1: start one with: go run ./cmd/server\n"}},
	} {
		got := (&session{addr: test.addr}).run(t, append([]string{"health"}, test.args...)...)
		if got != test.want {
			t.Errorf("%s %q: %+v, want %+v", test.addr, test.args, got, test.want)
		}
	}
}

func TestWrap(t *testing.T) {
	const text = "Echo: copies the payload… of any size"
	for width, want := range map[int][]string{
		0: {text}, -5: {text}, narrowest - 1: {text},
		20: {"Echo: copies the", "payload… of any size"},
		21: {"Echo: copies the", "payload… of any size"},
		25: {"Echo: copies the payload…", "of any size"},
		80: {text},
	} {
		if got := wrap(text, width); !slices.Equal(got, want) {
			t.Errorf("in %d columns: %q, want %q", width, got, want)
		}
	}
	if got := wrap("", 80); !slices.Equal(got, []string{""}) {
		t.Errorf("nothing becomes %q", got)
	}
}
