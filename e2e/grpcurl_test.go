//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// grpcurl runs it against a pod; all it knows comes from reflection.
func grpcurl(t *testing.T, addr string, args ...string) (string, error) {
	t.Helper()
	all := []string{"-plaintext", "-max-time", "10"}
	// Flags, the address, then the rest, as grpcurl wants it.
	n := 0
	for n < len(args) && strings.HasPrefix(args[n], "-") {
		n += 2
	}
	all = append(append(append(all, args[:n]...), addr), args[n:]...)
	return run(t, 15*time.Second, tool(t, "grpcurl"), all...)
}

func mustGrpcurl(t *testing.T, addr string, args ...string) string {
	t.Helper()
	out, err := grpcurl(t, addr, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func expectGrpcurlError(t *testing.T, err error, code, message string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "Code: "+code+"\n") || !strings.Contains(err.Error(), "Message: "+message+"\n") {
		t.Errorf("got %v, want %s %s", err, code, message)
	}
}

var allServices = []string{
	"ai.AI", "aipod.v1.JobService", "grpc.health.v1.Health",
	"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
}

func TestGrpcurlReflection(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	if got := strings.Fields(mustGrpcurl(t, p.addr, "list")); strings.Join(got, " ") != strings.Join(allServices, " ") {
		t.Errorf("list: %v, want %v", got, allServices)
	}
	// The program takes the newest version of the protocol that there is; here
	// it is told which one.
	for _, version := range []string{"v1", "v1alpha"} {
		out := mustGrpcurl(t, p.addr, "-d", `{"list_services":""}`, "grpc.reflection."+version+".ServerReflection/ServerReflectionInfo")
		for _, service := range allServices {
			if !strings.Contains(out, `"name": "`+service+`"`) {
				t.Errorf("reflection %s does not list %s: %s", version, service, out)
			}
		}
	}
	out := mustGrpcurl(t, p.addr, "describe", "ai.AI")
	for _, line := range []string{
		"rpc chaos ( stream .ai.Raw ) returns ( stream .ai.Raw );",
		"rpc train ( stream .ai.StreamInput ) returns ( stream .ai.Raw );",
		"rpc predict ( stream .ai.StreamInput ) returns ( stream .ai.Raw );",
		"rpc log ( stream .ai.StreamInput ) returns ( stream .ai.Raw );",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("describe ai.AI lacks %q:\n%s", line, out)
		}
	}
}

func TestGrpcurlHealth(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	for _, service := range []string{"", "ai.AI", "aipod.v1.JobService"} {
		// As in the seed, with a dot before the method.
		out := mustGrpcurl(t, p.addr, "-d", `{"service":"`+service+`"}`, "grpc.health.v1.Health.Check")
		if !strings.Contains(out, `"status": "SERVING"`) {
			t.Errorf("health of %q: %s", service, out)
		}
	}
	_, err := grpcurl(t, p.addr, "-d", `{"service":"nope"}`, "grpc.health.v1.Health/Check")
	expectGrpcurlError(t, err, "NotFound", "unknown service nope")
}

func TestGrpcurlChaosWithPlainKwargs(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	kwargs := base64.StdEncoding.EncodeToString([]byte(`{"name":"grpcurl"}`))
	begun := time.Now()
	out := mustGrpcurl(t, p.addr, "-H", "x-func-name: hello", "-d", `{"data":"`+kwargs+`"}`, "ai.AI/chaos")
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("hello took %v", took)
	}
	var messages []string
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct{ Data []byte }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		messages = append(messages, string(m.Data))
	}
	if len(messages) != 2 || messages[0] != "PONG" || !strings.Contains(messages[1], `"hello":"grpcurl"`) {
		t.Errorf("got %q, want PONG and hello's result", messages)
	}
	_, err := grpcurl(t, p.addr, "-H", "x-func-name: nope", "-d", `{"data":"e30="}`, "ai.AI/chaos")
	expectGrpcurlError(t, err, "Unimplemented", `"tabular.nope" not implemented yet`)
}

func TestGrpcurlListFunctions(t *testing.T) {
	t.Parallel()
	p := startPod(t)
	var list struct {
		Model     string
		Functions []struct{ Name, Doc string }
	}
	out := mustGrpcurl(t, p.addr, "aipod.v1.JobService/ListFunctions")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	have := map[string]bool{}
	for _, f := range list.Functions {
		have[f.Name] = true
		if f.Doc == "" {
			t.Errorf("%s has no doc", f.Name)
		}
	}
	for _, name := range []string{"chaos", "hello", "log", "predict", "sha256", "sleep", "train"} {
		if !have[name] {
			t.Errorf("%s is not listed: %s", name, out)
		}
	}
	if list.Model != "tabular" {
		t.Errorf("the model is %q", list.Model)
	}
}
