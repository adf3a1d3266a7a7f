package tabular

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/aipod/aipod/internal/worker"
)

func TestSoftmax(t *testing.T) {
	for _, tt := range []struct {
		scores, want []float64
		logSum       float64
	}{
		{[]float64{0, 0}, []float64{0.5, 0.5}, math.Ln2},
		{[]float64{0, math.Log(3)}, []float64{0.25, 0.75}, math.Log(4)},
		{[]float64{1e300, -1e300}, []float64{1, 0}, 1e300},
		{[]float64{-1e300, -1e300, -1e300, -1e300}, []float64{.25, .25, .25, .25}, -1e300},
		{[]float64{1000, 1000, -1000}, []float64{0.5, 0.5, 0}, 1000 + math.Ln2},
		{[]float64{-800, -801}, []float64{1 / (1 + math.Exp(-1)), 1 / (1 + math.E)}, -800 + math.Log1p(math.Exp(-1))},
	} {
		p := append([]float64(nil), tt.scores...)
		logSum := softmax(p)
		if math.Abs(logSum-tt.logSum) > 1e-12*max(1, math.Abs(tt.logSum)) {
			t.Errorf("softmax(%v): log sum is %v, not %v", tt.scores, logSum, tt.logSum)
		}
		wantClose(t, "softmax", p, tt.want, 1e-15)
	}
}

func wantClose(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, not %d", what, len(got), len(want))
	}
	for i := range got {
		if !(math.Abs(got[i]-want[i]) <= tolerance) {
			t.Errorf("%s[%d] = %v, not %v (± %g)", what, i, got[i], want[i], tolerance)
		}
	}
}

// irisTable is the iris data, standardised over all rows.
func irisTable(t *testing.T) (*table, []int32) {
	t.Helper()
	return loadTable(t, Iris(), "species")
}

func loadTable(t *testing.T, payload []byte, target string) (*table, []int32) {
	t.Helper()
	tab, err := readTable(t.Context(), &worker.Call{Input: newBlob(t, payload)}, tableSpec{target: target, maxValues: maxValues})
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := split(tab, 0, 1)
	if len(rows) != tab.rows {
		t.Fatalf("%d of %d rows", len(rows), tab.rows)
	}
	tab.standardise(rows)
	return tab, rows
}

// The analytic gradient is that of central differences, with numbers and with
// categories.
func TestGradient(t *testing.T) {
	const mixed = "size,color,kind,weight\n1,red,a,3\n2,blue,a,1\n3,red,b,7\n4,green,b,5\n9,blue,c,2\n7,red,c,2\n"
	for name, payload := range map[string]struct{ csv, target string }{
		"iris":  {string(Iris()), "species"},
		"mixed": {mixed, "kind"},
	} {
		t.Run(name, func(t *testing.T) {
			tab, rows := loadTable(t, []byte(payload.csv), payload.target)
			width := 1
			for _, f := range tab.features {
				width += f.width()
			}
			o := &objective{table: tab, rows: rows, l2: 0.7}
			rng := rand.New(rand.NewPCG(1, 2))
			w := make([]float64, width*len(tab.classes))
			for i := range w {
				w[i] = rng.NormFloat64()
			}
			o.evaluate(w)
			analytic := append([]float64(nil), o.grad...)
			numeric := make([]float64, len(w))
			const h = 1e-5
			for i := range w {
				at := w[i]
				w[i] = at + h
				o.evaluate(w)
				up := o.value
				w[i] = at - h
				o.evaluate(w)
				w[i] = at
				numeric[i] = (up - o.value) / (2 * h)
			}
			wantClose(t, "gradient", analytic, numeric, 1e-8)
		})
	}
}

// The fixtures are those of scikit-learn 1.2.1 on the 150 rows of iris, its
// features standardised by StandardScaler over all rows:
//
//	LogisticRegression(C=1/l2, multi_class="multinomial", solver="newton-cg",
//	                   tol=1e-14, max_iter=100000)
//
// whose gradient at the end was below 1e-10; crossEntropy is the mean of
// −ln(predict_proba) of each row's own class.
func TestFitMatchesScikitLearn(t *testing.T) {
	for _, tt := range []struct {
		name               string
		l2                 float64
		coef               [3][4]float64
		intercept          []float64
		crossEntropy, loss float64
		rows               []int
		probabilities      [][]float64
	}{
		{
			name: "l2 1", l2: 1,
			coef: [3][4]float64{
				{-1.0740661547581825, 1.1601151168541264, -1.9306918596942395, -1.8115561243436007},
				{0.5878102406053964, -0.36184062701238534, -0.3634310240929652, -0.8262695757259547},
				{0.48625591415278757, -0.7982744898417395, 2.294122883787208, 2.637825700069555},
			},
			intercept:    []float64{-0.20524113269971975, 2.074839783355821, -1.8695986506560882},
			crossEntropy: 0.12954226813100303, loss: 0.2091917884053098,
			rows: []int{0, 70, 106, 133},
			probabilities: [][]float64{
				{0.9846955587246259, 0.01530437925874298, 6.201663095628863e-08},
				{0.012012143463070293, 0.4403262240077147, 0.547661632529215},
				{0.012050271299895082, 0.46060327967944603, 0.5273464490206589},
				{0.001980418995868085, 0.584010188628787, 0.414009392375345},
			},
		},
		{
			name: "l2 0.1", l2: 0.1,
			coef: [3][4]float64{
				{-1.644971302397446, 1.8613346221692249, -3.6106023341684517, -3.3968621913462713},
				{1.2600767826331047, -0.33968511996494355, -1.492250186186691, -1.4315247384219127},
				{0.38489451976433214, -1.5216495022042766, 5.102852520355146, 4.828386929768182},
			},
			intercept:    []float64{0.1050035656716357, 4.050298785629917, -4.155302351301535},
			crossEntropy: 0.05959143837075936, loss: 0.0891050575322915,
			rows: []int{0, 70, 106, 133},
			probabilities: [][]float64{
				{0.9982360589940421, 0.0017639410059456348, 1.222284991435082e-14},
				{0.0008846387399689753, 0.44937579869017324, 0.5497395625698578},
				{0.0008126387207947895, 0.22809188503272776, 0.7710954762464776},
				{5.93964977473113e-05, 0.6181183542970295, 0.3818222492052231},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab, rows := irisTable(t)
			o := &objective{table: tab, rows: rows, l2: tt.l2}
			got, err := fit(t.Context(), o, 1000, func(int, float64) {})
			if err != nil || !got.converged {
				t.Fatalf("converged %v, error %v", got.converged, err)
			}
			t.Logf("%d iterations", got.iterations)
			// The gradient's tolerance, over the least curvature that l2 gives
			// (l2/150), is how far weights can be off; less in practice.
			const tolerance = 2e-5
			want := make([]float64, 0, len(got.w))
			for i := range 4 {
				for c := range 3 {
					want = append(want, tt.coef[c][i])
				}
			}
			wantClose(t, "weight", got.w, append(want, tt.intercept...), tolerance)
			wantClose(t, "loss", []float64{got.loss}, []float64{tt.loss}, 1e-9)
			entropy := 0.0
			p := make([]float64, 3)
			for i := range tab.rows {
				numbers, codes := tab.row(i)
				got.score(p, numbers, codes)
				softmax(p)
				entropy -= math.Log(p[tab.labels[i]]) / float64(tab.rows)
			}
			wantClose(t, "cross entropy", []float64{entropy}, []float64{tt.crossEntropy}, 1e-6)
			for j, i := range tt.rows {
				numbers, codes := tab.row(i)
				got.score(p, numbers, codes)
				softmax(p)
				wantClose(t, "probability", p, tt.probabilities[j], 1e-6)
			}
		})
	}
}

// Without a penalty, data that a plane divides has no minimum: the fit ends all
// the same, with finite weights.
func TestFitSeparable(t *testing.T) {
	tab, rows := loadTable(t, []byte(good), "kind")
	got, err := fit(t.Context(), &objective{table: tab, rows: rows}, 200, func(int, float64) {})
	if err != nil {
		t.Fatal(err)
	}
	if a := got.accuracy(tab, rows); a != 1 {
		t.Errorf("accuracy is %v", a)
	}
	for _, w := range got.w {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			t.Fatalf("weights are %v", got.w)
		}
	}
}

func TestFitCanceled(t *testing.T) {
	tab, rows := irisTable(t)
	why := errors.New("the caller left")
	ctx, cancel := context.WithCancelCause(t.Context())
	last := 0
	_, err := fit(ctx, &objective{table: tab, rows: rows, l2: 0.01}, 1000, func(iteration int, _ float64) {
		last = iteration
		if iteration == 3 {
			cancel(why)
		}
	})
	if !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
	if last > 4 {
		t.Errorf("went on to iteration %d", last)
	}
}

func TestStandardise(t *testing.T) {
	tab := &table{
		features: []feature{{Name: "plain"}, {Name: "constant"}, {Name: "huge"}, {Name: "zero"}, {Name: "nearly"}},
		rows:     4, numeric: 5,
		numbers: []float64{
			1, 0.1, 1e308, 0, 1e9,
			2, 0.1, -1e308, 0, 1e9 + 1,
			3, 0.1, 1e308, 0, 1e9,
			100, 7, 0, 5, 1e9, // not among the rows to learn from
		},
	}
	tab.standardise([]int32{0, 1, 2})
	a := math.Sqrt(1.5)
	third := math.Sqrt(2) / 2
	want := []float64{
		-a, 0, third, 0, -third,
		0, 0, -2 * third, 0, 2 * third,
		a, 0, third, 0, -third,
		98 * a, 6.9, -math.Sqrt(2) / 4, 5, -third,
	}
	wantClose(t, "standardised", tab.numbers, want, 1e-6)
	if f := tab.features[1]; math.Abs(f.Mean-0.1) > 1e-15 || f.Scale != 1 {
		t.Errorf("constant feature: %+v", f)
	}
	if z := tab.features[1].standardise(math.MaxFloat64); z != extreme {
		t.Errorf("an extreme value becomes %v", z)
	}
}

// Each class is divided in the same proportion, the same way each time, and no
// row is in both parts or in none.
func TestSplit(t *testing.T) {
	tab := &table{classes: []string{"a", "b", "c"}}
	for i := range 100 {
		label := uint16(0)
		switch {
		case i%10 == 0:
			label = 1
		case i%50 == 1:
			label = 2 // 2 rows
		}
		tab.labels = append(tab.labels, label)
	}
	for _, tt := range []struct {
		fraction float64
		held     [3]int
	}{{0, [3]int{0, 0, 0}}, {0.2, [3]int{18, 2, 1}}, {0.01, [3]int{1, 1, 1}}, {0.9, [3]int{79, 9, 1}}} {
		train, test := split(tab, tt.fraction, 1)
		seen := make(map[int32]bool)
		for _, i := range append(append([]int32(nil), train...), test...) {
			if seen[i] {
				t.Errorf("row %d is there twice", i)
			}
			seen[i] = true
		}
		var held [3]int
		for _, i := range test {
			held[tab.labels[i]]++
		}
		if len(seen) != 100 || held != tt.held {
			t.Errorf("fraction %v: %d rows, held out %v, not %v", tt.fraction, len(seen), held, tt.held)
		}
	}
	_, one := split(tab, 0.2, 1)
	_, again := split(tab, 0.2, 1)
	_, other := split(tab, 0.2, 2)
	if !equal(one, again) || equal(one, other) {
		t.Errorf("splits are %v, %v and, of another seed, %v", one, again, other)
	}
}

func equal(a, b []int32) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}
