package worker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the worker of the tests. How it behaves is up to its
// configuration and to the functions that are called.

const envWorker = "TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(envWorker) != "" {
		os.Exit(testWorkerMain())
	}
	if dir := os.Getenv(envTestPod); dir != "" {
		os.Exit(testPodMain(dir))
	}
	os.Exit(m.Run())
}

// workerSettings are the "config" of initialize.
type workerSettings struct {
	// Start is what initialize does: "" answers; "hang", "exit", "refuse",
	// "no version", "wrong" (an answer of another form), "nonsense" (no JSON).
	Start string `json:"start"`
	// ByVersion overrides Start for a version.
	ByVersion map[string]string `json:"by_version"`
}

type testWorker struct {
	conn *os.File
	mu   sync.Mutex // held while a line is written

	callMu  sync.Mutex
	cancels map[string]chan struct{}
	version string
	workDir string
}

type testRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

func testWorkerMain() int {
	w := &testWorker{conn: os.NewFile(3, "pod"), cancels: map[string]chan struct{}{}}
	r := bufio.NewReader(w.conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return 0
		}
		var req testRequest
		if err := json.Unmarshal(line, &req); err != nil {
			fmt.Fprintln(os.Stderr, "test worker:", err)
			return 1
		}
		switch req.Method {
		case "initialize":
			w.initialize(req)
		case "call":
			var call callParams
			if err := json.Unmarshal(req.Params, &call); err != nil {
				fmt.Fprintln(os.Stderr, "test worker:", err)
				return 1
			}
			canceled := make(chan struct{})
			w.callMu.Lock()
			w.cancels[call.JobID] = canceled
			w.callMu.Unlock()
			go w.call(req.ID, call, canceled)
		case "cancel":
			var p cancelParams
			_ = json.Unmarshal(req.Params, &p)
			w.callMu.Lock()
			if c := w.cancels[p.JobID]; c != nil {
				close(c)
				delete(w.cancels, p.JobID)
			}
			w.callMu.Unlock()
		case "shutdown":
			return 0
		}
	}
}

func (w *testWorker) write(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = io.WriteString(w.conn, line+"\n")
}

func (w *testWorker) send(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.write(string(line))
}

func (w *testWorker) answer(id json.RawMessage, result any) {
	w.send(map[string]any{"jsonrpc": "2.0", "id": id, "result": result})
}

func (w *testWorker) refuse(id json.RawMessage, code int, message string, data any) {
	w.send(map[string]any{"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": code, "message": message, "data": data}})
}

func (w *testWorker) tell(method string, params any) {
	w.send(map[string]any{"jsonrpc": "2.0", "method": method, "params": params})
}

func (w *testWorker) initialize(req testRequest) {
	var p initializeParams
	var s workerSettings
	if err := errors.Join(json.Unmarshal(req.Params, &p), json.Unmarshal(p.Config, &s)); err != nil {
		panic(err)
	}
	w.version, w.workDir = p.Version, p.WorkDir
	start := s.Start
	if by, ok := s.ByVersion[p.Version]; ok {
		start = by
	}
	switch start {
	case "hang":
		return
	case "exit":
		fmt.Fprintln(os.Stderr, "no module named torch")
		os.Exit(3)
	case "refuse":
		w.refuse(req.ID, -32000, "the weights are not there", map[string]string{"traceback": "line 1\nline 2"})
		return
	case "no version":
		w.refuse(req.ID, codeNoVersion, "no such version", map[string]any{"versions": []string{"a", "b"}})
		return
	case "wrong":
		w.answer(req.ID, []int{1})
		return
	case "nonsense":
		w.write("loading...")
		return
	}
	var functions []map[string]any
	for _, name := range []string{"do", "make"} {
		functions = append(functions, map[string]any{"name": name, "doc": "Does it\nthis way", "makes_version": name == "make"})
	}
	w.answer(req.ID, map[string]any{"model": "test", "functions": functions, "versions": []string{"b", "a", "b"}})
}

// testKwargs say what a function does.
type testKwargs struct {
	What   string `json:"what"`
	Code   int    `json:"code"`
	Size   int    `json:"size"`
	Text   string `json:"text"`
	Millis int    `json:"millis"`
	Ignore int    `json:"ignore"` // how many steps of a cancellation
}

func (w *testWorker) call(id json.RawMessage, call callParams, canceled <-chan struct{}) {
	var k testKwargs
	if err := json.Unmarshal(call.Kwargs, &k); err != nil {
		panic(err)
	}
	switch k.What {
	case "call":
		w.answer(id, map[string]any{"value": call})
	case "version":
		w.answer(id, map[string]any{"value": fmt.Sprintf("%s %d", w.version, os.Getpid())})
	case "environment":
		var fds []string
		if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
			for _, e := range entries {
				if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
					fds = append(fds, e.Name()+" "+target)
				}
			}
		}
		w.answer(id, map[string]any{"value": map[string]any{"env": os.Environ(), "fds": fds}})
	case "input":
		data, err := os.ReadFile(call.Input.Path)
		if err != nil {
			panic(err)
		}
		w.answer(id, map[string]any{"value": map[string]any{"size": call.Input.Size, "data": string(data)}})
	case "refuse":
		w.refuse(id, k.Code, "refused", map[string]any{"traceback": "a\nb", "versions": []string{"x"}})
	case "output":
		w.output(id, call, k)
	case "litter":
		_ = os.WriteFile(filepath.Join(call.WorkDir, "litter"), []byte("x"), 0o600)
		_ = os.MkdirAll(filepath.Join(call.WorkDir, "deep", "er"), 0o700)
		entries, _ := os.ReadDir(call.WorkDir)
		w.answer(id, map[string]any{"value": len(entries)})
	case "exit":
		fmt.Fprintln(os.Stderr, "Traceback: it went wrong")
		os.Exit(k.Code)
	case "signal":
		_ = syscall.Kill(os.Getpid(), syscall.Signal(k.Code))
	case "raw":
		w.write(k.Text)
		time.Sleep(time.Duration(k.Millis) * time.Millisecond)
		w.answer(id, map[string]any{"value": "after all"})
	case "long line":
		w.write(`{"jsonrpc":"2.0","method":"log","params":{"line":"` + strings.Repeat("x", k.Size) + `"}}`)
		w.answer(id, map[string]any{"value": nil})
	case "print":
		chunk := bytes.Repeat([]byte{'x', 0xff, 0x1b, 'y'}, 1<<18)
		for n := 0; n < k.Size; n += len(chunk) {
			_, _ = os.Stdout.Write(chunk)
		}
		fmt.Fprint(os.Stdout, "\nout\n")
		fmt.Fprint(os.Stderr, "err\n")
		time.Sleep(200 * time.Millisecond)
		w.answer(id, map[string]any{"value": nil})
	case "tell":
		for n := 1; n <= 3; n++ {
			w.tell("progress", map[string]any{"job_id": call.JobID, "done": n, "total": 3, "unit": "steps", "note": "so far"})
			w.tell("log", map[string]any{"job_id": call.JobID, "level": "warn", "line": fmt.Sprintf("line %d\x1b[31m", n)})
		}
		w.tell("beat", map[string]any{})
		w.tell("versions", map[string]any{"versions": []string{"new"}})
		w.tell("progress", map[string]any{"job_id": "nobody", "done": 1})
		w.tell("unknown", map[string]any{"x": 1})
		w.tell("progress", []string{"not", "an", "object"})
		w.send(map[string]any{"jsonrpc": "2.0", "id": 77, "method": "please", "params": map[string]any{}})
		w.answer(id, map[string]any{"value": "told"})
	case "orphan":
		// A child of its own that outlives it.
		attr := &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}}
		p, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, attr)
		if err != nil {
			panic(err)
		}
		w.answer(id, map[string]any{"value": p.Pid})
	case "sleep":
		if k.Ignore > 1 {
			signal.Ignore(syscall.SIGINT)
		}
		if k.Ignore > 2 {
			signal.Ignore(syscall.SIGTERM)
		}
		if k.Ignore > 0 {
			canceled = nil
		}
		w.tell("log", map[string]any{"job_id": call.JobID, "line": "sleeping"})
		select {
		case <-canceled:
			w.refuse(id, codeCanceled, "canceled", nil)
		case <-time.After(time.Duration(k.Millis) * time.Millisecond):
			w.answer(id, map[string]any{"value": "slept"})
		}
	default:
		w.answer(id, map[string]any{"value": k.What})
	}
}

// output writes an output in parts, and waits for a file between them.
func (w *testWorker) output(id json.RawMessage, call callParams, k testKwargs) {
	f, err := os.Create(call.OutputPath)
	if err != nil {
		panic(err)
	}
	defer func() { _ = f.Close() }()
	if k.Text != "" { // a JSON result
		n, _ := f.WriteString(k.Text)
		w.answer(id, map[string]any{"output_size": n, "output_json": true})
		return
	}
	size := 0
	for part := range 4 {
		n, _ := f.Write(bytes.Repeat([]byte{byte('a' + part)}, k.Size))
		size += n
		w.tell("output", map[string]any{"job_id": call.JobID, "size": size})
		// The test answers to a part by progress of its own: a file.
		for range 500 {
			if _, err := os.Stat(filepath.Join(call.WorkDir, fmt.Sprint("go", part))); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	w.answer(id, map[string]any{"output_size": size})
}
