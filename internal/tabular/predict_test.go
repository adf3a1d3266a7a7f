package tabular

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPredict(t *testing.T) {
	m := openModel(t, t.TempDir())
	must[trainResult](t, m, "train", `{"target":"species"}`, Iris())
	all := must[prediction](t, m, "predict", "", Iris())
	if all.Version != "default" || all.Target != "species" || all.Rows != 150 || len(all.Labels) != 150 || len(all.Probabilities) != 150 {
		t.Fatalf("version %q, target %q, %d rows, %d labels, %d probabilities",
			all.Version, all.Target, all.Rows, len(all.Labels), len(all.Probabilities))
	}
	if all.Accuracy == nil || *all.Accuracy < 0.95 {
		t.Errorf("accuracy is %v", all.Accuracy)
	}
	for i, p := range all.Probabilities {
		sum := 0.0
		for _, v := range p {
			sum += v
		}
		if math.Abs(sum-1) > 1e-12 || all.Labels[i] != all.Classes[best(p)] {
			t.Errorf("row %d: %q of %v, which sum to %v", i, all.Labels[i], p, sum)
		}
	}

	// Other columns, another order, no target.
	other := must[prediction](t, m, "predict", "", []byte("petal_width,id,sepal_length,petal_length,sepal_width\r\n0.2,x,5.1,1.4,3.5\r\n"))
	want := prediction{
		Version: "default", Target: "species", Classes: all.Classes,
		Labels: []string{"setosa"}, Probabilities: all.Probabilities[:1], Rows: 1,
	}
	if diff := cmp.Diff(want, other); diff != "" {
		t.Error(diff)
	}

	// Only rows whose class is known count.
	part := must[prediction](t, m, "predict", "", []byte(
		"sepal_length,sepal_width,petal_length,petal_width,species\n5.1,3.5,1.4,0.2,setosa\n5.1,3.5,1.4,0.2,\n5.1,3.5,1.4,0.2,rose\n"))
	if part.Accuracy == nil || *part.Accuracy != 0.5 {
		t.Errorf("accuracy is %v", part.Accuracy)
	}

	// Values far from all that was trained.
	far := must[prediction](t, m, "predict", "", []byte("sepal_length,sepal_width,petal_length,petal_width\n1e308,-1e308,1e308,-1.7e308\n"))
	for _, p := range far.Probabilities[0] {
		if !(p >= 0 && p <= 1) {
			t.Errorf("probabilities are %v", far.Probabilities)
		}
	}
}

func TestPredictRefuses(t *testing.T) {
	m := openModel(t, t.TempDir())
	must[trainResult](t, m, "train", `{"target":"species"}`, Iris())
	const head = "sepal_length,sepal_width,petal_length,petal_width\n5.1,3.5,1.4,0.2\n"
	for _, tt := range []struct {
		name, csv string
		want      []string
	}{
		{"empty", "", []string{"payload is empty"}},
		{"header only", strings.SplitAfter(head, "\n")[0], []string{"line 1", "no row follows"}},
		{"missing columns", "sepal_length,petal_length\n1,2\n", []string{`line 1: 2 of the 4 feature columns are missing: "sepal_width", "petal_width"`}},
		{"not a number", head + "5.1,wide,1.4,0.2\n", []string{`line 3, column 2 "sepal_width": "wide" is not a number`}},
		{"infinite", head + "5.1,3.5,inf,0.2\n", []string{`line 3, column 3 "petal_length": "inf" is not a finite number`}},
		{"missing value", head + "5.1,3.5,1.4,\n", []string{`line 3, column 4 "petal_width": the value is missing`}},
		{"wrong count", head + "5.1,3.5,1.4,0.2,setosa\n", []string{"line 3, column 5"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := do(t, m, "predict", "", []byte(tt.csv))
			wantInputError(t, err, tt.want...)
		})
	}
}

// Past the bound the output is, byte for byte, what the result would be.
func TestPredictLarge(t *testing.T) {
	m := openModel(t, t.TempDir())
	must[trainResult](t, m, "train", `{"target":"species"}`, Iris())
	want, err := do(t, m, "predict", "", Iris())
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{0, 1, 449, 450, 451} {
		m.maxInline = limit
		var r run
		got, err := r.do(t.Context(), t, m, "predict", "", Iris())
		if err != nil {
			t.Fatal(err)
		}
		if large := limit < 450; large != (r.output != nil) || large != (got == nil) {
			t.Fatalf("limit %d: output opened %v, result %v", limit, r.output != nil, got != nil)
		}
		if r.output != nil {
			got = r.output.Bytes()
		}
		if !json.Valid(got) || string(got) != string(want) {
			t.Errorf("limit %d: %.300s\nnot %.300s", limit, got, want)
		}
	}
}
