package job

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// An id belongs to one spec. What may differ between two calls for the same job
// attaches; of all else the error says what it is, and how it differs.
func TestCreateAgain(t *testing.T) {
	full := Spec{
		Func: "echo", Version: "v1", Kwargs: json.RawMessage(`{"a":1,"b":[true,null,"\u0041"]}`), Size: 5,
		SHA256: []byte{0xab, 0xcd}, Metadata: map[string]string{"k": "v"}, MaxAttempts: 3,
	}
	bare := Spec{Func: "echo", Size: -1}
	change := func(s Spec, f func(*Spec)) Spec {
		f(&s)
		return s
	}
	kwargs := func(s Spec, text string) Spec {
		return change(s, func(s *Spec) { s.Kwargs = json.RawMessage(text) })
	}
	for _, tt := range []struct {
		name       string
		there, now Spec
		want       string // how the two differ; empty if they don't
	}{
		{"same", full, full, ""},
		{"same without anything", bare, bare, ""},
		{"kwargs in another order", full, kwargs(full, ` { "b": [true, null, "A"], "a": 1 } `), ""},
		{"no kwargs", bare, kwargs(bare, `{}`), ""},
		{"no kwargs any more", kwargs(bare, ` {} `), bare, ""},
		{"large numbers", kwargs(bare, `{"n":12345678901234567890}`), kwargs(bare, `{"n": 12345678901234567890}`), ""},
		{"size is known", change(full, func(s *Spec) { s.Size = -1 }), full, ""},
		{"size isn't known any more", full, change(full, func(s *Spec) { s.Size = -1 }), ""},
		{"digest is known", change(full, func(s *Spec) { s.SHA256 = nil }), full, ""},
		{"digest isn't known any more", full, change(full, func(s *Spec) { s.SHA256 = []byte{} }), ""},
		{"metadata", full, change(full, func(s *Spec) { s.Metadata = map[string]string{"other": "v"} }), ""},
		{"attempts", full, change(full, func(s *Spec) { s.MaxAttempts = 0 }), ""},

		{"func", full, change(full, func(s *Spec) { s.Func = "copy" }), `func is "echo" there and "copy" here`},
		{"version", full, change(full, func(s *Spec) { s.Version = "" }), `version is "v1" there and "" here`},
		{"kwargs", kwargs(bare, `{"a":1}`), kwargs(bare, `{"a":2}`), `kwargs is {"a":1} there and {"a":2} here`},
		{"array order", kwargs(bare, `{"a":[1,2]}`), kwargs(bare, `{"a":[2,1]}`), `kwargs is {"a":[1,2]} there and {"a":[2,1]} here`},
		{"numbers that floats can't tell", kwargs(bare, `{"n":9007199254740993}`), kwargs(bare, `{"n":9007199254740992}`),
			`kwargs is {"n":9007199254740993} there and {"n":9007199254740992} here`},
		{"null is a value", kwargs(bare, `{"a":null}`), kwargs(bare, `{}`), `kwargs is {"a":null} there and {} here`},
		{"long kwargs", kwargs(bare, `"`+strings.Repeat("x", 1000)+`"`), bare, `kwargs is "` + strings.Repeat("x", 199) + ` there and  here`},
		{"size", full, change(full, func(s *Spec) { s.Size = 0 }), "size is 5 there and 0 here"},
		{"digest", full, change(full, func(s *Spec) { s.SHA256 = []byte{1} }), "sha256 is abcd there and 01 here"},
		{"several", full, Spec{Func: "copy", Version: "v2", Kwargs: full.Kwargs, Size: 6, SHA256: full.SHA256},
			`func is "echo" there and "copy" here, version is "v1" there and "v2" here, size is 5 there and 6 here`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
				p := startPod(t, t.TempDir(), podConfig{})
				j, attached, err := p.Create("j", tt.there)
				if err != nil || attached {
					t.Fatalf("attached %v, %v", attached, err)
				}
				for range 2 { // before and after a restart
					again, attached, err := p.Create("j", tt.now)
					if tt.want == "" {
						if err != nil || !attached || again != j {
							t.Errorf("attached %v to the same %v, %v", attached, again == j, err)
						}
					} else {
						var exists *ExistsError
						if !errors.As(err, &exists) {
							t.Fatalf("created: %v", err)
						}
						want := &ExistsError{ID: "j", Diff: tt.want}
						if diff := cmp.Diff(want, exists); diff != "" {
							t.Errorf("(-want +got):\n%s", diff)
						}
						if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "job j ") {
							t.Errorf("the error's text is %q", err)
						}
					}
					if diff := cmp.Diff(tt.there, p.get(t, "j").Spec(), jsonValues); diff != "" {
						t.Errorf("the spec has changed (-want +got):\n%s", diff)
					}
					p = next(p, t)
					j = p.get(t, "j")
				}
			})
		})
	}
}

var jsonValues = cmp.Comparer(sameJSON)

// Of calls for the same id at the same time one makes the job and the others
// find it; all return when it is recorded.
func TestCreateAtOnce(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	for round := range 20 {
		const callers = 8
		id := "j" + string(rune('a'+round))
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		jobs := map[*Job]bool{}
		for range callers {
			wg.Go(func() {
				j, attached, err := p.Create(id, Spec{Func: "echo", Size: -1})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				jobs[j] = true
				if !attached {
					made++
				}
			})
		}
		wg.Wait()
		if made != 1 || len(jobs) != 1 {
			t.Errorf("%d were made, %d found", made, len(jobs))
		}
	}
	p.stop()
	if n := len(startPod(t, p.dir, p.cfg).List()); n != 20 {
		t.Errorf("%d jobs are recorded", n)
	}
}

// An id that is deleted can be used at once, while it is being deleted, too: the
// new job keeps its record and its files.
func TestCreateWhileDeleted(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	data := pattern(recordedInput + 100)
	for round := range 30 {
		j := p.create(t, "j", Spec{Func: "echo"})
		put(t, j, 0, data[:10])
		if round%2 == 0 {
			put(t, j, 10, data[10:])
			closeInput(t, j, data)
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := p.Delete("j"); err != nil {
					t.Error(err)
				}
			})
		}
		attached := true
		for attached {
			var err error
			if j, attached, err = p.Create("j", Spec{Func: "echo", Size: -1}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		if _, err := p.Get("j"); err != nil { // deleted for the second time
			continue
		}
		put(t, j, 0, data)
		closeInput(t, j, data)
		wantResult(t, j, echoed(data))
		q := p.crash(t)
		wantResult(t, q.get(t, "j"), echoed(data))
		q.stop()
		if err := p.Delete("j"); err != nil {
			t.Error(err)
		}
	}
}

// A job that can't be recorded is not there, for nobody, and leaves nothing.
func TestCreateUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPod(t, t.TempDir(), podConfig{})
		if err := p.store.close(); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if j, _, err := p.Create("j", Spec{Func: "echo"}); j != nil || !errors.Is(err, errStoreClosed) {
					t.Errorf("created %v, %v", j, err)
				}
			})
		}
		wg.Wait()
		if _, err := p.Get("j"); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is there: %v", err)
		}
		p = p.restart(t)
		if _, err := p.Get("j"); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is there after a restart: %v", err)
		}
		p.create(t, "j", Spec{Func: "echo"})
	})
}

func TestCreateWhileDraining(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	p.create(t, "j", Spec{Func: "echo"})
	p.Refuse()
	if _, _, err := p.Create("other", Spec{Func: "echo"}); !errors.Is(err, ErrDraining) {
		t.Errorf("another job: %v", err)
	}
	if _, attached, err := p.Create("j", Spec{Func: "echo", Size: -1}); err != nil || !attached {
		t.Errorf("the job that is there: attached %v, %v", attached, err)
	}
}
