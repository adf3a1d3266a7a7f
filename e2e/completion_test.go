//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A real bash completes what is typed into it, by asking the pod for what the pod
// alone knows. It has no package bash-completion, which the script can do without.
func TestBashCompletion(t *testing.T) {
	t.Parallel()
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := startPod(t)
	mustRun(t, 10*time.Second, client, "call", "hello", "--job-id", "the-job", "--addr", p.addr)
	bash := exec.Command("bash", "--norc", "--noprofile", "-i")
	bash.Dir = repoFile(t, ".")
	x := open(t, "bash", 200, []string{"AIPOD_ADDR=" + p.addr, "PS1=$ ", "HISTFILE=", "INPUTRC=/dev/null"}, bash)
	x.press(t, "source <(client completion bash); echo rea''dy\n")
	x.await(t, `ready\r\n`)
	marks := 0
	for name, tc := range map[string]struct{ typed, completed string }{
		"command":          {"client cal", "client call "},
		"function":         {"client call pre", "client call predict "},
		"after an address": {"client call --addr " + p.addr + " pre", "client call --addr " + p.addr + " predict "},
		"flag":             {"client call hello --proto", "client call hello --protocol "},
		"value":            {"client call hello --protocol grpcw", "client call hello --protocol grpcweb "},
		"value after =":    {"client call hello --protocol=conn", "client call hello --protocol=connect "},
		"kwarg":            {"client call train -k tar", "client call train -k target="},
		"service":          {"client health aipod.v1", "client health aipod.v1.JobService "},
		"job":              {"client jobs attach the-", "client jobs attach the-job "},
		"file":             {"client call sha256 -f LICEN", "client call sha256 -f LICENSE "},
	} {
		t.Run(name, func(t *testing.T) {
			// What is completed is echoed as it comes. The mark ends it; it is an
			// argument that most commands refuse.
			marks++
			mark := fmt.Sprintf("@%d@", marks)
			x.press(t, tc.typed+"\t"+mark+"\n")
			x.await(t, mark+`\r\n(?s:.*)\$ $`)
			m := regexp.MustCompile(`(?m)^\$ (.*)` + mark + `$`).FindStringSubmatch(x.shows(t))
			got := ""
			if m != nil {
				got = m[1]
			}
			if got != tc.completed {
				t.Errorf("%q is completed to %q, want %q", tc.typed, got, tc.completed)
			}
		})
	}
	x.press(t, "exit 0\n")
	x.expectExit(t, 0)
}

// What is printed for each shell is a script that the shell can read; of a shell
// that isn't here, that there is one has to do.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{client, serverBinary} {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			script := mustRun(t, 10*time.Second, program, "completion", shell)
			if !strings.Contains(script, "__complete") {
				t.Errorf("%s completion %s prints %.200q", program, shell, script)
			}
			if path, err := exec.LookPath(shell); err == nil {
				mustRun(t, 10*time.Second, path, "-n", writeFile(t, "script", []byte(script)))
			}
		}
	}
}
