package tabular

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/worker"
)

func TestIris(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(string(Iris())), "\n")
	if len(lines) != 151 || lines[0] != "sepal_length,sepal_width,petal_length,petal_width,species" {
		t.Fatalf("%d lines after %q", len(lines), lines[0])
	}
	// Where the copy of the UCI repository differs from Fisher's paper.
	if lines[35] != "4.9,3.1,1.5,0.2,setosa" || lines[38] != "4.9,3.6,1.4,0.1,setosa" {
		t.Errorf("rows 35 and 38 are %q and %q", lines[35], lines[38])
	}
	Iris()[0] = 'x'
	if Iris()[0] != 's' {
		t.Error("callers share the slice")
	}
}

func TestTrainResult(t *testing.T) {
	m := openModel(t, t.TempDir())
	var r run
	data, err := r.do(t.Context(), t, m, "train", `{"target":"species"}`, Iris())
	if err != nil {
		t.Fatal(err)
	}
	var got trainResult
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Accuracy == nil || *got.Accuracy < 0.93 || got.TrainAccuracy < 0.95 || got.Loss <= 0 || got.Loss > 0.15 || got.Iterations < 5 {
		t.Errorf("result is %s", data)
	}
	want := got
	want.Version, want.Target = "default", "species"
	want.Classes = []string{"setosa", "versicolor", "virginica"}
	want.Features = []string{"sepal_length", "sepal_width", "petal_length", "petal_width"}
	want.Rows, want.TrainRows, want.TestRows, want.Converged = 150, 120, 30, true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(r.progress) < got.Iterations || r.progress[0] != "3858/3858 bytes" ||
		r.progress[len(r.progress)-1] != fmt.Sprintf("%d/%[1]d iterations", got.Iterations) {
		t.Errorf("progress is %q", r.progress)
	}
	log := must[logResult](t, m, "log", "", nil)
	var kept []string
	for i, l := range log.Lines {
		kept = append(kept, l.Line)
		if l.Time.IsZero() || i > 0 && l.Time.Before(log.Lines[i-1].Time) {
			t.Errorf("line %d is of %v", i, l.Time)
		}
	}
	if diff := cmp.Diff(r.lines, kept); diff != "" || len(kept) < 10 || !strings.HasPrefix(kept[1], "iteration 1: loss 0.") {
		t.Errorf("log %q: %s", kept, diff)
	}
}

// Of 30 flowers held out, 3 misses make 0.90: single splits do fall below 0.93,
// so what is asked of all seeds together is the mean, and that few do.
func TestIrisHeldOut(t *testing.T) {
	const seeds = 50
	blob := newBlob(t, Iris())
	sum, low := 0.0, 0
	for seed := range uint64(seeds) {
		tab, err := readTable(t.Context(), &worker.Call{Input: blob}, tableSpec{target: "species", maxValues: maxValues})
		if err != nil {
			t.Fatal(err)
		}
		train, test := split(tab, 0.2, seed+1)
		tab.standardise(train)
		got, err := fit(t.Context(), &objective{table: tab, rows: train, l2: 0.1}, 1000, func(int, float64) {})
		if err != nil || !got.converged {
			t.Fatalf("seed %d: converged %v, error %v", seed+1, got.converged, err)
		}
		a := got.accuracy(tab, test)
		sum += a
		if a < 0.93 {
			low++
		}
	}
	t.Logf("held-out accuracy over %d seeds: mean %.4f, %d below 0.93", seeds, sum/seeds, low)
	if sum/seeds < 0.96 || low > seeds/10 {
		t.Errorf("mean %.4f, %d of %d below 0.93", sum/seeds, low, seeds)
	}
}

// Categories, numbers that are categories, numeric classes, no held-out rows.
func TestTrainMixed(t *testing.T) {
	var b strings.Builder
	b.WriteString("zip,colour,noise,grade\n")
	for i := range 60 {
		// The grade follows from zip and colour; zip's order says nothing.
		zip, colour := []int{10, 20, 30}[i%3], []string{"red", "blue"}[i/3%2]
		grade := map[string]int{"10red": 9, "10blue": 10, "20red": 10, "20blue": 10, "30red": 9, "30blue": 11}[fmt.Sprint(zip, colour)]
		fmt.Fprintf(&b, "%d,%s,%d,%d\n", zip, colour, i*i%7, grade)
	}
	m := openModel(t, t.TempDir())
	got := must[trainResult](t, m, "train", `{"target":"grade","version":3,"test_fraction":0,"categorical":["zip"]}`, []byte(b.String()))
	if got.Version != "3" || got.Accuracy != nil || got.TestRows != 0 || got.TrainRows != 60 || got.TrainAccuracy != 1 {
		t.Errorf("result is %+v", got)
	}
	if diff := cmp.Diff([]string{"9", "10", "11"}, got.Classes); diff != "" {
		t.Error(diff)
	}
	p := must[prediction](t, m, "predict", `{"version":"3"}`, []byte("colour,noise,zip\nblue,0,30\nred,1,10\n"))
	if diff := cmp.Diff([]string{"11", "9"}, p.Labels); diff != "" {
		t.Error(diff)
	}
	_, err := do(t, m, "predict", `{"version":"3"}`, []byte("zip,colour,noise\n10,red,1\n40,red,1\n"))
	wantInputError(t, err, `line 3, column 1 "zip": "40" is not one of the categories`, `"10", "20", "30"`)
}

func TestTrainCanceled(t *testing.T) {
	for _, when := range []string{"before", "bytes", "iterations"} {
		t.Run(when, func(t *testing.T) {
			dir := t.TempDir()
			m := openModel(t, dir)
			why := errors.New("the caller left")
			ctx, cancel := context.WithCancelCause(t.Context())
			r := &run{}
			r.onReport = func() {
				if strings.HasSuffix(r.progress[len(r.progress)-1], when) {
					cancel(why)
				}
			}
			if when == "before" {
				cancel(why)
			}
			_, err := r.do(ctx, t, m, "train", `{"target":"species"}`, Iris())
			if !errors.Is(err, why) {
				t.Errorf("error is %v", err)
			}
			files, err := os.ReadDir(dir)
			if err != nil || len(files) > 0 || len(m.Describe().Versions) > 0 {
				t.Errorf("left %v and versions %q, error %v", files, m.Describe().Versions, err)
			}
		})
	}
}

func TestTrainStopsAtMaxIterations(t *testing.T) {
	m := openModel(t, t.TempDir())
	got := must[trainResult](t, m, "train", `{"target":"species","max_iterations":3}`, Iris())
	if got.Iterations != 3 || got.Converged {
		t.Errorf("%d iterations, converged %v", got.Iterations, got.Converged)
	}
}

// Predictions beside trainings of the same version see one of its states, and
// at the end memory and disk agree.
func TestTrainAndPredictAtOnce(t *testing.T) {
	dir := t.TempDir()
	m := openModel(t, dir)
	kwargs := func(version string, l2 int) string {
		return fmt.Sprintf(`{"target":"species","version":%q,"l2":%d}`, version, l2)
	}
	const states = 3
	want := make(map[string]bool)
	for l2 := 1; l2 <= states; l2++ {
		for _, v := range []string{"a", "b"} {
			must[trainResult](t, m, "train", kwargs(v, l2), Iris())
			result, err := do(t, m, "predict", `{"version":"`+v+`"}`, Iris())
			if err != nil {
				t.Fatal(err)
			}
			want[string(result)] = true
		}
	}
	if len(want) != 2*states {
		t.Fatalf("%d different predictions", len(want))
	}
	blob := newBlob(t, Iris())
	var wg sync.WaitGroup
	for g := range 4 {
		version := []string{"a", "b"}[g%2]
		wg.Go(func() {
			for i := range 6 {
				c := &worker.Call{Func: "train", Kwargs: json.RawMessage(kwargs(version, 1+(i+g)%states)), Input: blob}
				if _, err := new(run).on(context.Background(), m, c); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 12 {
				c := &worker.Call{Func: "predict", Version: version, Input: blob}
				got, err := new(run).on(context.Background(), m, c)
				if err != nil || !want[string(got)] {
					t.Errorf("prediction is of no state, error %v", err)
				}
				if v := m.Describe().Versions; len(v) != 2 {
					t.Errorf("versions are %q", v)
				}
			}
		})
	}
	wg.Wait()
	again := openModel(t, dir)
	for _, v := range []string{"a", "b"} {
		before, err1 := do(t, m, "predict", `{"version":"`+v+`"}`, Iris())
		after, err2 := do(t, again, "predict", `{"version":"`+v+`"}`, Iris())
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if string(before) != string(after) {
			t.Errorf("version %s: memory and disk differ", v)
		}
	}
}
