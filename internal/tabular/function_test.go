package tabular

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

func TestDescribe(t *testing.T) {
	d := openModel(t, t.TempDir()).Describe()
	var names, making []string
	for _, f := range d.Functions {
		names = append(names, f.Name)
		if f.MakesVersion {
			making = append(making, f.Name)
		}
		if f.Doc == "" || strings.Contains(f.Doc, "\n") {
			t.Errorf("%s: doc is %q", f.Name, f.Doc)
		}
	}
	if d.Model != "tabular" || !slices.IsSorted(names) || len(names) != 7 || !slices.Equal(making, []string{"train"}) {
		t.Errorf("model %q, functions %q, making versions %q", d.Model, names, making)
	}
	// Each of them can be called.
	for _, name := range names {
		if f, err := d.Function(name); err != nil || f.Name != name {
			t.Error(f, err)
		}
	}
}

func TestUnknownFunction(t *testing.T) {
	_, err := do(t, openModel(t, t.TempDir()), "fit", "", nil)
	var unknown *worker.FunctionError
	if !errors.As(err, &unknown) || err.Error() != `"tabular.fit" not implemented yet` {
		t.Errorf("error is %v", err)
	}
}

func TestHello(t *testing.T) {
	m := openModel(t, t.TempDir())
	for kwargs, want := range map[string]helloResult{
		"":                 {Hello: "world", Name: "world", Model: "tabular"},
		`{}`:               {Hello: "world", Name: "world", Model: "tabular"},
		`{"name":"aipod"}`: {Hello: "aipod", Name: "aipod", Model: "tabular"},
		`{"name":7,"version":"x","a":[1,{"b":null}],"_":true}`: {Hello: "7", Name: "7", Model: "tabular", Version: "x"},
	} {
		if diff := cmp.Diff(want, must[helloResult](t, m, "hello", kwargs, []byte("any payload"))); diff != "" {
			t.Errorf("kwargs %s: %s", kwargs, diff)
		}
	}
	_, err := do(t, m, "hello", `{"name":["x"]}`, nil)
	wantInputError(t, err, `kwargs of "hello": name`)
}

// sizes are those at which the copy's buffer is used differently.
var sizes = []int{0, 1, copyBuffer - 1, copyBuffer, copyBuffer + 1, 3*copyBuffer + 17}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 31 >> 3)
	}
	return p
}

func TestSHA256(t *testing.T) {
	m := openModel(t, t.TempDir())
	for _, n := range sizes {
		payload := pattern(n)
		sum := sha256.Sum256(payload)
		want := sha256Result{SHA256: hex.EncodeToString(sum[:]), Size: int64(n)}
		if diff := cmp.Diff(want, must[sha256Result](t, m, "sha256", `{"version":"any"}`, payload)); diff != "" {
			t.Error(diff)
		}
	}
	// FIPS 180-2, appendix B.1.
	if got := must[sha256Result](t, m, "sha256", "", []byte("abc")); got.SHA256 != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("sha256 of abc is %s", got.SHA256)
	}
}

// A digest that is known is not computed again.
func TestSHA256Known(t *testing.T) {
	m := openModel(t, t.TempDir())
	if f, err := m.Describe().Function("sha256"); err != nil || !f.Digest {
		t.Errorf("%+v, %v", f, err)
	}
	var r run
	got, err := r.on(t.Context(), m, &worker.Call{Func: "sha256", Input: newBlob(t, []byte("abc")), SHA256: []byte{1, 0xab}})
	if err != nil || string(got) != `{"sha256":"01ab","size":3}` {
		t.Errorf("result %s, error %v", got, err)
	}
	if diff := cmp.Diff([]string{"3/3 bytes"}, r.progress); diff != "" {
		t.Errorf("progress: %s", diff)
	}
}

func TestEcho(t *testing.T) {
	m := openModel(t, t.TempDir())
	for _, n := range sizes {
		payload := pattern(n)
		var r run
		got, err := r.do(t.Context(), t, m, "chaos", `{"any":["kwargs"]}`, payload)
		if err != nil || got != nil || r.output == nil || !bytes.Equal(r.output.Bytes(), payload) {
			t.Errorf("%d bytes: result %s, error %v", n, got, err)
		}
		if len(r.progress) == 0 {
			t.Errorf("%d bytes: no progress", n)
		}
	}
}

// What a payload in a file costs is the buffer, whatever its size.
func TestMemoryIsFlat(t *testing.T) {
	m := openModel(t, t.TempDir())
	s, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(0)
	piece := pattern(1 << 20)
	for range 16 {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Remove(); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"sha256", "chaos"} {
		c := &worker.Call{Func: name, Input: b, OpenOutput: func() (io.Writer, error) { return io.Discard, nil }}
		i, err := m.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := i.Call(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 2*copyBuffer {
			t.Errorf("%s allocated %d bytes", name, n)
		}
	}
}

func TestCopyCanceled(t *testing.T) {
	m := openModel(t, t.TempDir())
	why := errors.New("the caller left")
	for _, name := range []string{"sha256", "chaos"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			r := &run{onReport: func() { t.Error("went on") }}
			cancel(why)
			if _, err := r.do(ctx, t, m, name, "", pattern(3*copyBuffer)); !errors.Is(err, why) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// The copy stops between two reads: after the first piece, not at the end.
func TestEchoCanceledOnTheWay(t *testing.T) {
	m := openModel(t, t.TempDir())
	i, err := m.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("the caller left")
	ctx, cancel := context.WithCancelCause(t.Context())
	written := 0
	out := writerFunc(func(p []byte) (int, error) {
		written += len(p)
		cancel(why)
		return len(p), nil
	})
	c := &worker.Call{Func: "chaos", Input: newBlob(t, pattern(3*copyBuffer)), OpenOutput: func() (io.Writer, error) { return out, nil }}
	if _, err := i.Call(ctx, c); !errors.Is(err, why) || written != copyBuffer {
		t.Errorf("wrote %d bytes, error %v", written, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSleep(t *testing.T) {
	m := openModel(t, t.TempDir())
	for _, tt := range []struct {
		seconds  string
		slept    time.Duration
		progress []string
	}{
		{"0", 0, []string{"0/0 seconds"}},
		{"0.25", time.Second / 4, []string{"1/1 seconds"}},
		{"2.5", 5 * time.Second / 2, []string{"1/3 seconds", "2/3 seconds", "3/3 seconds"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var r run
			start := time.Now()
			got, err := r.do(t.Context(), t, m, "sleep", `{"seconds":`+tt.seconds+`}`, nil)
			if err != nil || string(got) != `{"slept":`+tt.seconds+`}` || time.Since(start) != tt.slept {
				t.Errorf("result %s after %v, error %v", got, time.Since(start), err)
			}
			if diff := cmp.Diff(tt.progress, r.progress); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, kwargs := range []string{"", `{}`, `{"seconds":-1}`, `{"seconds":86401}`, `{"seconds":"1"}`, `{"seconds":1,"milliseconds":1}`} {
		_, err := do(t, m, "sleep", kwargs, nil)
		wantInputError(t, err, "seconds")
	}
}

func TestSleepCanceled(t *testing.T) {
	m := openModel(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the caller left")
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		time.AfterFunc(90*time.Minute+time.Millisecond, func() { cancel(why) })
		got, err := new(run).do(ctx, t, m, "sleep", `{"seconds":86400,"version":"any"}`, nil)
		if !errors.Is(err, why) || got != nil || time.Since(start) != 90*time.Minute+time.Millisecond {
			t.Errorf("result %s after %v, error %v", got, time.Since(start), err)
		}
	})
}

// Results are what callers parse: the names of their fields are fixed.
func TestResultFields(t *testing.T) {
	m := openModel(t, t.TempDir())
	for _, tt := range []struct{ name, kwargs, fields string }{
		{"train", `{"target":"species"}`, "accuracy classes converged features iterations loss rows target test_rows train_accuracy train_rows version"},
		{"predict", "", "accuracy classes labels probabilities rows target version"},
		{"log", "", "lines version"},
		{"hello", "", "hello model name version"},
		{"sha256", "", "sha256 size"},
		{"sleep", `{"seconds":0}`, "slept"},
	} {
		var fields []string
		for f := range must[map[string]json.RawMessage](t, m, tt.name, tt.kwargs, Iris()) {
			fields = append(fields, f)
		}
		slices.Sort(fields)
		if got := strings.Join(fields, " "); got != tt.fields {
			t.Errorf("%s: fields are %s", tt.name, got)
		}
	}
}
