//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A block is one piece of shell in a README: ```sh, and what follows the word.
type block struct{ info, code string }

func readmeBlocks(t *testing.T, file string) []block {
	t.Helper()
	text, err := os.ReadFile(repoFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, m := range regexp.MustCompile("(?ms)^```sh *([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// The commands of the README work as they stand there, in a checkout of the
// repository. Only the port and the data directory are the test's own.
func TestReadmeCommands(t *testing.T) {
	blocks := readmeBlocks(t, "README.md")
	if zh := readmeBlocks(t, "README.zh.md"); !slices.Equal(blocks, zh) {
		t.Errorf("the two READMEs have different commands:\n%q\n%q", blocks, zh)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	env := append(os.Environ(), "AIPOD_LISTEN="+addr, "AIPOD_ADDR="+addr, "AIPOD_DATA_DIR="+t.TempDir())
	shell := func(ctx context.Context, code string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(code, "127.0.0.1:50051", addr))
		cmd.Dir, cmd.Env = repoFile(t, "."), env
		return cmd
	}
	ran := 0
	for _, b := range blocks {
		switch {
		case strings.TrimSpace(b.code) == "make test":
			// That is what runs this test; here it only has to be there.
			if out, err := shell(t.Context(), "make -n test").CombinedOutput(); err != nil {
				t.Errorf("make test: %v: %s", err, out)
			}
		case b.info == "server":
			server := start(t, "the README's pod", shell(context.WithoutCancel(t.Context()), b.code))
			eventually(t, time.Minute, "the README's pod to listen", func() error {
				if !server.running() {
					t.Fatalf("%s has ended", server.name)
				}
				conn, err := net.Dial("tcp", addr)
				if err == nil {
					_ = conn.Close()
				}
				return err
			})
		case b.info == "pod":
			for line := range strings.Lines(b.code) {
				cmd := shell(context.WithoutCancel(t.Context()), line)
				cmd.Env = append(slices.Clone(env), "AIPOD_LISTEN=127.0.0.1:0", "AIPOD_DATA_DIR="+t.TempDir())
				p := &pod{process: start(t, strings.TrimSpace(line), cmd)}
				if _, err := p.waitRecord(time.Minute, "listening", nil); err != nil {
					t.Error(err)
				}
				p.kill()
			}
		default:
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			cmd := shell(ctx, b.code)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out, err := cmd.CombinedOutput()
			cancel()
			if err != nil {
				t.Errorf("%s: %v:\n%s", b.code, err, out)
			}
			ran++
			if strings.Contains(b.code, "demo") && !strings.Contains(string(out), "1.0 GiB of random bytes") {
				t.Errorf("the demo did not move 1 GiB:\n%s", out)
			}
		}
	}
	if ran < 3 {
		t.Errorf("only %d blocks of commands were found and run", ran)
	}
}
