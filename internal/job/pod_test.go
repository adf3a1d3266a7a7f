package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// A testPod is a table with a pool over a data directory, as a pod has them.
type testPod struct {
	*Table
	dir  string
	cfg  podConfig
	pool *worker.Pool
	logs *syncBuffer
	stop func() // as a pod does that may not wait
}

type function func(ctx context.Context, c *worker.Call) (json.RawMessage, error)

// A podConfig has nothing that a test must set.
type podConfig struct {
	Config
	budget    int64
	slots     int
	functions map[string]function // besides those of testFunctions
}

// testFunctions are what every testPod has.
var testFunctions = map[string]function{
	"echo": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		data, err := readBlob(c.Input)
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"size": len(data), "crc": checksumOf(data)})
	},
	"copy": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		r, err := c.Input.Open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		w, err := c.OpenOutput()
		if err != nil {
			return nil, err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 10_000))
		return nil, err
	},
	"long": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		return longResult, nil
	},
	"fail": func(context.Context, *worker.Call) (json.RawMessage, error) {
		return nil, errors.New("it went wrong")
	},
	"wait":  waitForEnd,
	"train": waitForEnd,
}

func waitForEnd(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
	c.Progress(1, 2, "steps", "")
	<-ctx.Done()
	return nil, ctx.Err()
}

var longResult = json.RawMessage(`"` + strings.Repeat("<long> ", recordedResult/6) + `"`)

// echoed is what echo gives.
func echoed(data []byte) string {
	return fmt.Sprintf(`{"crc":%d,"size":%d}`, checksumOf(data), len(data))
}

func checksumOf(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// Describe, Load, Call and Close make a podConfig a model.
func (c podConfig) Describe() worker.Description {
	d := worker.Description{Model: "test"}
	for _, name := range slices.Sorted(maps.Keys(c.functions)) {
		d.Functions = append(d.Functions, worker.Function{Name: name})
	}
	return d
}

func (c podConfig) Load(context.Context, string) (worker.Instance, error) { return c, nil }

func (c podConfig) Call(ctx context.Context, call *worker.Call) (json.RawMessage, error) {
	return c.functions[call.Func](ctx, call)
}

func (c podConfig) Close() error          { return nil }
func (c podConfig) Done() <-chan struct{} { return nil }
func (c podConfig) Err() error            { return nil }

// explainTest gives errors the code of their kind.
func explainTest(err error) *ExplainedError {
	var input *worker.InputError
	if errors.As(err, &input) {
		return &ExplainedError{Code: 3, Message: err.Error()}
	}
	return &ExplainedError{Code: 2, Message: err.Error()}
}

// startPod starts a pod on a directory. When the test ends, its spool must hold
// the files of its jobs and nothing else.
func startPod(t testing.TB, dir string, cfg podConfig) *testPod {
	t.Helper()
	functions := maps.Clone(testFunctions)
	maps.Copy(functions, cfg.functions)
	cfg.functions = functions
	p := &testPod{dir: dir, cfg: cfg, logs: new(syncBuffer)}
	log := slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.pool = worker.NewPool(cfg, worker.Config{Instances: 1, Slots: cfg.slots, Logger: slog.New(slog.DiscardHandler)})
	s, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Budget: cfg.budget})
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Config
	c.Spool, c.Runner, c.Store, c.Explain, c.Logger = s, p.pool, filepath.Join(dir, "jobs.db"), explainTest, log
	if p.Table, err = NewTable(c); err != nil {
		t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Drain(ctx) // which says what there was
		if err := p.pool.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		<-p.empty
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		p.checkFiles(t)
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", dir, p.logs)
		}
	})
	p.Resume()
	return p
}

// checkFiles checks that the spool has the files that the jobs need, and nothing
// else. Nothing is under way any more.
func (p *testPod) checkFiles(t testing.TB) {
	t.Helper()
	var want []string
	total := int64(0)
	for _, j := range p.List() {
		switch s := j.Snapshot(); {
		case s.State == Receiving && s.Committed > 0, !s.State.Final() && s.Committed > recordedInput:
			want = append(want, j.inputName())
			total += s.Committed
		case s.State.Final() && j.Output() != nil:
			want = append(want, j.outputName())
			total += j.Output().Size()
		}
	}
	slices.Sort(want)
	var got []string
	for _, f := range p.Table.cfg.Spool.Files() {
		if j := p.jobs[strings.TrimSuffix(f.Name, ".out")]; j != nil && !j.State().Final() {
			total += f.Size // of the attempt that was cut off; the next process removes it
			continue
		}
		got = append(got, f.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files in the spool (-want +got):\n%s", diff)
	}
	if u := p.Table.cfg.Spool.Usage(); u.Bytes != total || u.Inline != 0 {
		t.Errorf("the spool holds %+v, want %d bytes", u, total)
	}
	entries, err := filepath.Glob(filepath.Join(p.dir, "spool", "payload-*"))
	if err != nil || len(entries) > 0 {
		t.Errorf("payloads without a name: %v, %v", entries, err)
	}
}

// restart stops the pod and starts the next one.
func (p *testPod) restart(t testing.TB) *testPod {
	t.Helper()
	p.stop()
	return startPod(t, p.dir, p.cfg)
}

// crash starts the next pod on what a crash would leave now. The pod itself goes
// on, which nobody notices.
func (p *testPod) crash(t testing.TB) *testPod {
	t.Helper()
	return startPod(t, p.copy(t), p.cfg)
}

// copy is the data directory as it is now.
func (p *testPod) copy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(p.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// with makes another function that of a name, for the next pod.
func (p *testPod) with(name string, f function) *testPod {
	p.cfg.functions = maps.Clone(p.cfg.functions)
	p.cfg.functions[name] = f
	return p
}

func (p *testPod) create(t testing.TB, id string, spec Spec) *Job {
	t.Helper()
	if spec.Size == 0 {
		spec.Size = -1
	}
	j, attached, err := p.Create(id, spec)
	if err != nil || attached {
		t.Fatalf("create %s: attached %v, %v", id, attached, err)
	}
	return j
}

// queue creates a job with an input and closes it.
func (p *testPod) queue(t testing.TB, id string, spec Spec, input []byte) *Job {
	t.Helper()
	j := p.create(t, id, spec)
	put(t, j, 0, input)
	closeInput(t, j, input)
	return j
}

func (p *testPod) get(t testing.TB, id string) *Job {
	t.Helper()
	j, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func put(t testing.TB, j *Job, off int, p []byte) {
	t.Helper()
	if n, err := j.Writer().Put(int64(off), p); err != nil || n < int64(off+len(p)) {
		t.Fatalf("put %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func closeInput(t testing.TB, j *Job, input []byte) {
	t.Helper()
	crc := checksumOf(input)
	if err := j.Writer().Close(t.Context(), int64(len(input)), &crc); err != nil {
		t.Fatalf("close with %d bytes: %v", len(input), err)
	}
}

// await waits for a state, and fails when the job ends otherwise.
func await(t testing.TB, j *Job, want State) {
	t.Helper()
	for {
		changed := j.Changed()
		switch s := j.State(); {
		case s == want:
			return
		case s.Final():
			_, err := j.Result()
			t.Fatalf("job %s is %v, want %v: %v", j.ID, s, want, err)
		}
		<-changed
	}
}

func wantResult(t testing.TB, j *Job, want string) {
	t.Helper()
	await(t, j, Succeeded)
	<-j.Done()
	if r, err := j.Result(); err != nil || string(r.JSON) != want {
		t.Errorf("job %s gave %.100s, %v, want %.100s", j.ID, r.JSON, err, want)
	}
}

func wantOutput(t testing.TB, j *Job, want []byte) {
	t.Helper()
	await(t, j, Succeeded)
	<-j.Done()
	r, err := j.Result()
	if err != nil || r.Output == nil {
		t.Fatalf("job %s gave %+v, %v", j.ID, r, err)
	}
	got, err := io.ReadAll(io.NewSectionReader(r.Output, 0, r.Output.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("job %s wrote %d bytes, %v, want %d others", j.ID, len(got), err, len(want))
	}
	if crc, err := r.Output.CRC32C(); err != nil || crc != checksumOf(want) {
		t.Errorf("job %s: checksum %08x, %v", j.ID, crc, err)
	}
}

// pattern is n bytes that tell where they were.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func sumOf(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}
