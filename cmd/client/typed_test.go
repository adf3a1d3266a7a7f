package main

import (
	"testing"
)

// What reaches the same pod again is what was typed, as a shell takes it. What the
// environment has, it has next time, too, and secrets are not repeated.
func TestArguments(t *testing.T) {
	typed := func(names ...string) typedFlags {
		all := typedFlags{}
		for _, name := range names {
			all[name] = true
		}
		return all
	}
	for _, tc := range []struct {
		dial  dialFlags
		typed typedFlags
		want  string
	}{
		{dialFlags{addr: defaultAddr, protocol: "grpc"}, nil, ""},
		{dialFlags{addr: "https://pod.example:8443/a", protocol: "grpc"}, nil, " --addr https://pod.example:8443/a"},
		{dialFlags{addr: "http://[::1]:50051", protocol: "grpc"}, nil, " --addr 'http://[::1]:50051'"},
		{dialFlags{addr: defaultAddr, protocol: "connect", ca: "ca.pem", insecure: true, header: []string{"a: b"}}, nil, ""},
		{
			dialFlags{addr: defaultAddr, protocol: "connect", ca: "my ca.pem", insecure: true, header: []string{"a: it's", "Authorization: Bearer x", "cookie:y"}},
			typed("protocol", "ca", "insecure", "header"),
			` --protocol connect --ca 'my ca.pem' --insecure -H 'a: it'\''s' -H 'Authorization: …' -H 'cookie: …'`,
		},
		{dialFlags{addr: defaultAddr, insecure: false}, typed("insecure"), ""},
	} {
		if got := tc.dial.arguments(tc.typed); got != tc.want {
			t.Errorf("%+v typed %v: %q, want %q", tc.dial, tc.typed, got, tc.want)
		}
	}
}

// The environment's flags are not among those that were typed.
func TestTypedFlags(t *testing.T) {
	s := &session{env: map[string]string{"AIPOD_PROTOCOL": "connect"}}
	got := s.run(t, "call", "sleep", "-k", "seconds=60", "--timeout", "100ms", "--job-id", "typed", "-H", "a: b")
	t.Cleanup(func() { run(t, "jobs", "rm", "typed") })
	want := "client: deadline_exceeded: no result within 100ms (job typed); it goes on: client jobs attach typed --addr " + podAddr + " -H 'a: b'\n"
	if got.stderr != want {
		t.Errorf("%q, want %q", got.stderr, want)
	}
}
