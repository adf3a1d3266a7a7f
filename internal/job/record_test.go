package job

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A decoded record is what was encoded.
func TestRecordRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	spec := Spec{
		Func: "f", Version: "v", Kwargs: json.RawMessage(`{"a":[1,null]}`), Size: -1, SHA256: []byte{1, 2},
		Metadata: map[string]string{"a": "b"}, MaxAttempts: 3,
	}
	events := []Event{
		{Seq: 1, Time: at, State: Receiving},
		{Seq: 2, Time: at, Progress: &Progress{Done: 1, Total: 2, Unit: "u", Note: "n"}},
		{Seq: 3, Time: at, Log: &Line{Level: 8, Text: "t"}},
	}
	for _, r := range []record{
		{Spec: Spec{Func: "f"}, InputSize: -1, Created: at},
		{Spec: spec, State: Queued, Created: at, InputSize: 3, Input: []byte{0, 255, 7}, Seq: 9},
		{Spec: spec, State: Running, Attempt: 2, Created: at, Started: at, InputSize: 1 << 40, Events: events, Seq: 3, Lost: 1},
		{Spec: spec, State: Succeeded, Created: at, Started: at, Ended: at, Result: []byte(`{"a": "<"}`), Progress: events[1].Progress},
		{Spec: spec, State: Succeeded, Created: at, Ended: at, HasOutput: true, OutputJSON: true, OutputSize: 5, OutputCRC: 1 << 31},
		{Spec: spec, State: Failed, Created: at, Ended: at, Failure: &ExplainedError{Code: 3, Message: "m"}},
		{Spec: spec, State: Canceled, Created: at, Ended: at, InputSize: -1, Failure: &ExplainedError{Code: 1, Message: "m"}},
	} {
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(value)
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if diff := cmp.Diff(&r, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// Whatever happened to a record or a file, the other jobs go on, and the log says
// what was lost.
func TestDamagedRecords(t *testing.T) {
	set := func(id, value string) func(*testing.T, *testPod) {
		return func(t *testing.T, p *testPod) { p.damage(t, id, func([]byte) []byte { return []byte(value) }) }
	}
	replace := func(id, old, with string) func(*testing.T, *testPod) {
		return func(t *testing.T, p *testPod) {
			p.damage(t, id, func(value []byte) []byte {
				s := strings.Replace(string(value), old, with, 1)
				if s == string(value) {
					t.Errorf("the record of %s has no %s: %s", id, old, s)
				}
				return []byte(s)
			})
		}
	}
	remove := func(name string) func(*testing.T, *testPod) {
		return func(t *testing.T, p *testPod) {
			if err := os.Remove(filepath.Join(p.dir, "spool", "named", name)); err != nil {
				t.Error(err)
			}
		}
	}
	size := func(name string, size int64) func(*testing.T, *testPod) {
		return func(t *testing.T, p *testPod) {
			if err := os.Truncate(filepath.Join(p.dir, "spool", "named", name), size); err != nil {
				t.Error(err)
			}
		}
	}
	file := func(name string) func(*testing.T, *testPod) {
		return func(t *testing.T, p *testPod) {
			if err := os.WriteFile(filepath.Join(p.dir, "spool", "named", name), pattern(10), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	const aside = "job record set aside"
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, *testPod)
		id     string // of the job that is concerned
		fails  string // with this error; empty when its record is set aside
		log    string
	}{
		{"empty", set("copied", ""), "copied", "", aside},
		{"no JSON", set("copied", "\x00\xff{"), "copied", "", aside},
		{"cut", set("copied", `{"spec":{"func":"copy"`), "copied", "", aside},
		{"no object", set("copied", "[]"), "copied", "", aside},
		{"nothing in it", set("copied", "{}"), "copied", "", aside},
		{"null", set("copied", "null"), "copied", "", aside},
		{"unknown state", replace("copied", "SUCCEEDED", "PERFECT"), "copied", "", aside},
		{"number for a state", replace("queued", `"QUEUED"`, "1"), "queued", "", aside},
		{"state out of range", replace("queued", `"QUEUED"`, "99"), "queued", "", aside},
		{"failed without a reason", replace("failed", `"failure"`, `"f"`), "failed", "", aside},
		{"queued without an input", replace("queued", `"input_size":100`, `"input_size":-1`), "queued", "", aside},
		{"wrong output size", replace("copied", `"output_size":100000`, `"output_size":100001`), "copied", "", aside},
		{"output missing", remove("copied.out"), "copied", "", aside},
		{"output cut", size("copied.out", 99_999), "copied", "", aside},
		{"output too long", size("copied.out", 100_001), "copied", "", aside},
		{"input missing", remove("large.in"), "large", "the input is lost", "the input is lost"},
		{"input cut", size("large.in", 10), "large", "the input is lost", "the input is lost"},
		{"input too long", size("large.in", 1<<20), "large", "the input is lost", "the input is lost"},
		{"small input missing", replace("queued", `"input"`, `"i"`), "queued", "the input is lost", "the input is lost"},
		{"small input cut", replace("queued", `"input_size":100`, `"input_size":101`), "queued", "the input is lost", "the input is lost"},
		{"files of no job", func(t *testing.T, p *testPod) {
			for _, name := range []string{"ghost.in", "ghost.out", "queued", "queued.in", "queued.out", "copied.in", "half.out", "a.b.in", "x"} {
				file(name)(t, p)
			}
		}, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPod(t, t.TempDir(), podConfig{})
				wantOutput(t, p.queue(t, "copied", Spec{Func: "copy"}, pattern(100_000)), pattern(100_000))
				await(t, p.queue(t, "failed", Spec{Func: "fail"}, nil), Failed)
				put(t, p.create(t, "half", Spec{Func: "echo"}), 0, pattern(50))
				p.Refuse() // so that they stay queued
				p.leaveQueued(t, "queued", pattern(100))
				p.leaveQueued(t, "large", pattern(100_000))
				p.stop()
				tt.damage(t, p)
				p = startPod(t, p.dir, p.cfg)
				wants := map[string]State{
					"copied": Succeeded, "failed": Failed, "half": Receiving, "queued": Succeeded, "large": Succeeded,
				}
				for id, want := range wants {
					j, err := p.Get(id)
					switch {
					case id != tt.id:
						await(t, p.get(t, id), want)
					case tt.fails == "":
						if !errors.Is(err, ErrNotFound) {
							t.Errorf("%s is still there: %v", id, err)
						}
					default:
						await(t, j, Failed)
						if _, err := j.Result(); !strings.Contains(err.Error(), tt.fails) {
							t.Errorf("%s failed with %v", id, err)
						}
					}
				}
				if !strings.Contains(p.logs.String(), tt.log) {
					t.Errorf("the log doesn't say %q", tt.log)
				}
				synctest.Wait()
				p = p.crash(t) // it is dealt with
				if log := p.logs.String(); strings.Contains(log, aside) || strings.Contains(log, "lost") {
					t.Error("the next start finds something, too")
				}
				if tt.id != "" && tt.fails == "" { // its id can be used again
					wantOutput(t, p.queue(t, tt.id, Spec{Func: "copy"}, pattern(10)), pattern(10))
				}
			})
		})
	}
}

// leaveQueued makes a job that is queued as the pod ends, which the caller has
// begun to let happen.
func (p *testPod) leaveQueued(t *testing.T, id string, input []byte) {
	t.Helper()
	p.mu.Lock()
	p.refuses = false
	p.mu.Unlock()
	j := p.create(t, id, Spec{Func: "echo"})
	p.mu.Lock()
	p.refuses = true
	p.mu.Unlock()
	put(t, j, 0, input)
	closeInput(t, j, input)
	await(t, j, Queued)
}

// damage changes what a stopped pod has for a record.
func (p *testPod) damage(t *testing.T, id string, change func([]byte) []byte) {
	t.Helper()
	s, entries, _, err := openStore(filepath.Join(p.dir, "jobs.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.id == id {
			err = s.put(id, change(e.value))
		}
	}
	if err := errors.Join(err, s.close()); err != nil {
		t.Fatal(err)
	}
}
