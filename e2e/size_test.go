//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/aipod/aipod/gen/ai"
	"github.com/aipod/aipod/gen/ai/aiconnect"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

const mib = 1 << 20

// clientBinary builds the client once.
var clientBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(workDir, "client")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/client").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the client: %w: %s", err, out)
	}
	return path, nil
})

// needDisk fails the test when the disk has no room for it.
func needDisk(t *testing.T, dir string, size uint64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < size {
		t.Fatalf("this test needs %d GiB of disk in %s, but there are only %d: set TMPDIR to a larger one", size>>30, dir, free>>30)
	}
}

// outputAndPeak runs a program and tells the most memory that it had, in bytes.
// The rusage of a child would not do: it has the parent's memory in it.
func outputAndPeak(cmd *exec.Cmd) (output string, peak int64, err error) {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if now, err := peakRSS(cmd.Process.Pid); err == nil {
			peak = now
		}
		select {
		case err := <-ended:
			if err != nil {
				err = fmt.Errorf("%w: %s", err, errs.String())
			}
			return out.String(), peak, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A payload of 5 GiB, generated as it is sent, passes in constant memory on both
// sides, plain and as the seed's zstd stream.
func TestFiveGiBInConstantMemory(t *testing.T) {
	const size, limit = 5 << 30, 96 * mib
	client, err := clientBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := startPod(t)
	needDisk(t, p.dir, size+1<<30)

	hash := sha256.New()
	made, err := bench.NewPayload(bench.Random, size, 7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(hash, made); err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString(hash.Sum(nil))

	for name, args := range map[string][]string{
		"plain": nil,
		"zstd":  {"--legacy", "--compression", "identity"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		cmd := exec.CommandContext(ctx, client, append([]string{
			"call", "sha256", "--addr", p.addr, "--generate", "5GiB", "--generate-seed", "7",
		}, args...)...)
		begun := time.Now()
		out, used, err := outputAndPeak(cmd)
		cancel()
		var got struct {
			SHA256 string
			Size   int64
		}
		if err != nil || json.Unmarshal([]byte(out), &got) != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if got.SHA256 != want || got.Size != size {
			t.Errorf("%s: digest %s of %d bytes, want %s of %d", name, got.SHA256, got.Size, want, int64(size))
		}
		t.Logf("%s: %v, peak RSS: pod %d MiB, client %d MiB", name, time.Since(begun).Round(time.Second), p.peakRSS(t)/mib, used/mib)
		if rss := p.peakRSS(t); rss > limit {
			t.Errorf("%s: the pod took %d MiB, want at most %d", name, rss/mib, limit/mib)
		}
		if used > limit {
			t.Errorf("%s: the client took %d MiB, want at most %d", name, used/mib, limit/mib)
		}
	}
	p.expectNoPayloads(t)
}

// Calls that are in the middle of their uploads and send nothing any more take
// little memory, whatever the size of their messages.
func TestMemoryOfStalledUploads(t *testing.T) {
	const calls, size, limit = 200, 4 * mib, 2 * mib
	payload := randomBytes(size)
	var packed bytes.Buffer
	// The window of 2 MiB is what level 3 of zstd, the seed's, uses.
	enc, err := zstd.NewWriter(&packed, zstd.WithWindowSize(2*mib))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(textBytes(size)); err != nil {
		t.Fatal(err)
	}
	if err := enc.Flush(); err != nil {
		t.Fatal(err)
	}
	compressedKwargs, err := codec.EncodeKwargs(nil, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		kwargs []byte
		wire   []byte
		chunk  int
		limit  int64
	}{
		{"plain, chunks of 32 KiB", []byte("{}"), payload, 32 << 10, limit},
		{"plain, chunks of 1 MiB - 1 KiB", []byte("{}"), payload, mib - 1<<10, limit},
		// connect keeps a buffer of the size of the last message, rounded up to
		// twice that: who sends larger messages costs more.
		{"plain, one chunk", []byte("{}"), payload, size, 3 * size},
		// The decoder has to remember the sender's window, 2 MiB.
		{"zstd, chunks of 32 KiB", compressedKwargs, packed.Bytes(), 32 << 10, 4 * mib},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startPod(t)
			before := p.peakRSS(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var streams []*connect.BidiStreamForClient[ai.Raw, ai.Raw]
			for i := range calls {
				if i%25 == 0 {
					client := transport.NewHTTPClient(transport.ClientConfig{})
					defer client.CloseIdleConnections()
					opts, err := transport.ClientOptions(transport.GRPC)
					if err != nil {
						t.Fatal(err)
					}
					service := aiconnect.NewAIClient(client, "http://"+p.addr, opts...)
					for range 25 {
						stream := service.Chaos(ctx)
						stream.RequestHeader().Set("x-func-name", "sha256")
						streams = append(streams, stream)
					}
				}
				for _, data := range append([][]byte{test.kwargs}, slices.Collect(slices.Chunk(test.wire, test.chunk))...) {
					if err := streams[i].Send(&ai.Raw{Data: data}); err != nil {
						t.Fatal(err)
					}
				}
			}
			eventually(t, 20*time.Second, "all uploads to arrive", func() error {
				var stored int64
				for _, name := range p.payloads(t) {
					if info, err := os.Stat(name); err == nil {
						stored += info.Size()
					}
				}
				if stored < calls*size*9/10 {
					return fmt.Errorf("%d MiB of %d are there", stored/mib, calls*size/mib)
				}
				return nil
			})
			time.Sleep(time.Second) // whatever happens in a stall
			grown := p.peakRSS(t) - before
			t.Logf("%d KiB a call at the peak", grown/calls>>10)
			if grown/calls > test.limit {
				t.Errorf("%d KiB a call, want at most %d", grown/calls>>10, test.limit>>10)
			}
			cancel()
			for _, stream := range streams {
				_ = stream.CloseResponse()
			}
			p.expectNoPayloads(t)
		})
	}
}

// 128 KiB that decompress to 4 GiB are stopped by the limit, not by memory.
func TestBombStopsAtTheLimit(t *testing.T) {
	p := startPod(t, "--max-payload", "1GiB")
	needDisk(t, p.dir, 2<<30)
	// RFC 8878: magic, no flags, a window of 2 MiB; then blocks of 128 KiB that
	// are one byte, repeated.
	bomb := bytes.NewBufferString("\x28\xb5\x2f\xfd\x00\x58")
	const block = 128 << 10
	for left := 4<<30/block - 1; left >= 0; left-- {
		header := block<<3 | 1<<1
		if left == 0 {
			header |= 1
		}
		bomb.Write([]byte{byte(header), byte(header >> 8), byte(header >> 16), 0})
	}
	t.Logf("%d KiB for 4 GiB", bomb.Len()>>10)
	kwargs, err := codec.EncodeKwargs(nil, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	res := do(t.Context(), p.addr, request{fn: "sha256", kwargs: string(kwargs), payload: bomb})
	if res.code() != connect.CodeResourceExhausted || !strings.Contains(res.err.Error(), "limit of 1.0 GiB") {
		t.Errorf("got %v", res.err)
	}
	if rss := p.peakRSS(t); rss > 96*mib {
		t.Errorf("the pod took %d MiB", rss/mib)
	}
	p.expectNoPayloads(t)
}

// asRoot is a command that needs root.
func asRoot(args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// smallDisk is a file system with little room.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	options := fmt.Sprintf("size=%s,uid=%d", size, os.Getuid())
	if out, err := asRoot("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount a small file system, which needs root or sudo: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := asRoot("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return dir
}

// A disk that is full ends the call, with a reason, and no other call.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "16m")
	p, err := tryPod(t, "127.0.0.1:0", dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // nothing is lost of the room either
		res := do(t.Context(), p.addr, request{fn: "sha256", payload: bytes.NewReader(make([]byte, 40*mib))})
		if res.code() != connect.CodeResourceExhausted || !strings.Contains(res.err.Error(), "disk of the spool is full") {
			t.Errorf("upload: %v", res.err)
		}
		// The input fits; input and output together don't.
		res = do(t.Context(), p.addr, request{fn: "chaos", payload: bytes.NewReader(make([]byte, 10*mib))})
		if res.code() != connect.CodeResourceExhausted || !strings.Contains(res.err.Error(), "disk of the spool is full") {
			t.Errorf("output: %v", res.err)
		}
	}
	if res := do(t.Context(), p.addr, request{fn: "sha256", payload: bytes.NewReader(make([]byte, 10*mib))}); res.err != nil {
		t.Errorf("a call that fits: %v", res.err)
	}
	p.expectNoPayloads(t)
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "spool")); errors.Is(err, os.ErrNotExist) {
		t.Error("the spool's directory is gone")
	}
}
