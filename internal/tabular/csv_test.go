package tabular

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/worker"
)

// good is the start of a table that could be trained on.
const good = "size,color,kind\n1,red,a\n2,blue,a\n3,red,b\n4,blue,b\n"

func TestTrainRefuses(t *testing.T) {
	const kwargs = `{"target":"kind"}`
	many := func(row func(i int) string, n int) string {
		var b strings.Builder
		b.WriteString("size,color,kind\n")
		for i := range n {
			b.WriteString(row(i) + "\n")
		}
		return b.String()
	}
	class := func(i int) string { return string(rune('a' + i%2)) }
	tests := []struct {
		name, csv, kwargs string
		want              []string
	}{
		{"empty", "", kwargs, []string{"payload is empty"}},
		{"only BOM", "\ufeff", kwargs, []string{"payload is empty"}},
		{"only line ends", "\n\r\n\n", kwargs, []string{"payload is empty"}},
		{"header only", "size,kind\n", kwargs, []string{"line 1", "no row follows"}},
		{"header after empty lines", "\n\nsize,kind", kwargs, []string{"line 3", "no row follows"}},
		{"duplicate name", "size,kind, size\n1,a,2\n", kwargs, []string{`line 1, column 3: the name "size"`, "column 1"}},
		{"empty name", "size,,kind\n1,2,a\n", kwargs, []string{"line 1, column 2: the column has no name"}},
		{"too few values", good + "5,red\n", kwargs, []string{`line 6, column 3 "kind": the value is missing`, "2 of 3"}},
		{"too many values", good + "\n5,red,a,9,9\n", kwargs, []string{"line 7, column 4: the row has 5 values", "3 columns"}},
		{"bare quote", good + "5,re\"d,a\n", kwargs, []string{`line 6, column 2 "color": a quote inside`}},
		{"text after quote", good + "5,\"red\"x,a\n", kwargs, []string{`line 6, column 2 "color": the closing quote`}},
		{"open quote", good + "5,\"red,a\n6,blue,b\n", kwargs, []string{`line 6, column 2 "color"`, "not closed well up to line 7"}},
		{"endless quote", good + "5,\"" + strings.Repeat("red\n", maxRecord), kwargs, []string{"line 6 or after", "never closed"}},
		{"after a value of two lines", "size,color,kind\n1,\"re\nd\",a\n2,re\"d,b\n", kwargs, []string{`line 4, column 2 "color"`}},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n") + "x,red\r\n", kwargs, []string{`line 6, column 3 "kind"`}},
		{"missing value", good + "5,,a\n", kwargs, []string{`line 6, column 2 "color": the value is missing`}},
		{"missing value NA", good + "NA,red,a\n", kwargs, []string{`line 6, column 1 "size": the value is missing`}},
		{"missing target", good + "5,red, \n", kwargs, []string{`line 6, column 3 "kind": the value is missing`}},
		{"NaN", good + "nan,red,a\n", kwargs, []string{`line 6, column 1 "size": the value is missing`}},
		{"infinite", good + "-Inf,red,a\n", kwargs, []string{`line 6, column 1 "size": "-Inf" is not a finite number`}},
		{"too large", good + "1e999,red,a\n", kwargs, []string{`line 6, column 1 "size": "1e999" is not a finite number`}},
		{"text among numbers", good + "5,red,a\n6.1.2,red,a\n", kwargs, []string{`line 7, column 1 "size": "6.1.2" is not a number`, "5 of 6", "categorical"}},
		{"hexadecimal", good + "0x1p-2,red,a\n", kwargs, []string{`line 6, column 1 "size": "0x1p-2" is not a number`}},
		{"not UTF-8", good + "5,r\xe9d,a\n", kwargs, []string{`line 6, column 2 "color": not UTF-8`}},
		{"UTF-16", "\xff\xfes\x00", kwargs, []string{"line 1, column 1: not UTF-8"}},
		{"no target named", good, `{}`, []string{`"target"`, `the columns are "size", "color", "kind"`}},
		{"unknown target", good, `{"target":"Kinds"}`, []string{"line 1", `no target column "Kinds"`, `did you mean "kind"?`, `"size", "color"`}},
		{"unknown target, later header", "\n\n" + good, `{"target":"x"}`, []string{"line 3: there is no target"}},
		{"unknown target, far", good, `{"target":"species"}`, []string{`no target column "species": the columns are`}},
		{"unknown categorical", good, `{"target":"kind","categorical":["colour"]}`, []string{`"colour"`, `did you mean "color"?`}},
		{"one column", "kind;size\na;1\n", `{"target":"kind;size"}`, []string{"line 1: there is only one column", "other than commas"}},
		{"one class", "size,kind\n1,a\n2,a\n3,a\n4,a\n", kwargs, []string{`column 2 "kind": all rows have the same value "a"`}},
		{"class of one row", good + "5,red,c\n", kwargs, []string{`line 6, column 3 "kind": the only row of the class "c"`}},
		{"too few rows", "size,kind\n1,a\n2,a\n3,b\n", kwargs, []string{"3 rows are too few", "at least 4"}},
		{
			"too many categories", many(func(i int) string { return fmt.Sprintf("1,c%d,%s", i, class(i)) }, maxLevels+1), kwargs,
			[]string{`line 102, column 2 "color": "c100" is one more than 100 different values`},
		},
		{
			"too many classes", many(func(i int) string { return fmt.Sprintf("1,red,%d", i) }, maxLevels+1), kwargs,
			[]string{`line 102, column 3 "kind": "100" is one more than 100 different values`},
		},
		{
			"long category", good + "5," + strings.Repeat("é", 200) + ",a\n", kwargs,
			[]string{`line 6, column 2 "color"`, `é…" is longer than 256 bytes`},
		},
		{"unknown kwarg", good, `{"target":"kind","rate":1}`, []string{"rate"}},
		{"wrong kwarg", good, `{"target":["kind"]}`, []string{"expected a string"}},
		{"fraction", good, `{"target":"kind","test_fraction":1}`, []string{"test_fraction", "0 to 0.9"}},
		{"l2", good, `{"target":"kind","l2":-1}`, []string{"l2", "0 to 1e6"}},
		{"iterations", good, `{"target":"kind","max_iterations":0}`, []string{"max_iterations", "1 to 10000"}},
		{"version with a slash", good, `{"target":"kind","version":"../x"}`, []string{`version "../x"`}},
		{"version with a dot", good, `{"target":"kind","version":".x"}`, []string{`version ".x"`}},
		{"long version", good, `{"target":"kind","version":"` + strings.Repeat("x", 65) + `"}`, []string{"1 to 64"}},
	}
	m := openModel(t, t.TempDir())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := do(t, m, "train", tt.kwargs, []byte(tt.csv))
			wantInputError(t, err, tt.want...)
		})
	}
	if have := m.Describe().Versions; have != nil {
		t.Errorf("versions after failures are %q", have)
	}
}

func TestTrainRefusesTooMuch(t *testing.T) {
	m := openModel(t, t.TempDir())
	m.maxValues = 7
	_, err := do(t, m, "train", `{"target":"kind"}`, []byte(good))
	wantInputError(t, err, "line 5", "more than 7 values")
	m.maxValues = 8
	must[trainResult](t, m, "train", `{"target":"kind"}`, []byte(good))

	var wide strings.Builder
	for i := range maxColumns + 1 {
		fmt.Fprintf(&wide, "c%d,", i)
	}
	_, err = do(t, m, "train", `{"target":"c1"}`, []byte(strings.TrimSuffix(wide.String(), ",")+"\n"))
	wantInputError(t, err, "line 1: 4097 columns", "4096")
}

func TestCSVReader(t *testing.T) {
	want := [][]string{{"a", "b c", "d"}, {"1", "x, \"y\"\nz", "ü"}, {"2", "", "3"}}
	text := "a, b c ,d\n1,\"x, \"\"y\"\"\nz\",ü\n\n 2,, 3 \n"
	crlf := strings.ReplaceAll(text, "\n", "\r\n")
	for name, src := range map[string]io.Reader{
		"LF":        strings.NewReader(text),
		"no end":    strings.NewReader(strings.TrimSuffix(text, "\n")),
		"CRLF":      strings.NewReader(crlf),
		"BOM":       strings.NewReader("\ufeff" + text),
		"quoted":    strings.NewReader("\ufeff" + `"a"` + text[1:]),
		"one byte":  iotest.OneByteReader(strings.NewReader("\ufeff" + text)),
		"half":      iotest.HalfReader(strings.NewReader(crlf)),
		"with data": iotest.DataErrReader(strings.NewReader(text)),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAll(src)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An error of the source is not taken for one of the caller's, not even where
// it cuts a quoted value.
func TestCSVReaderSourceFails(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, text := range []string{"", "a,b", "a,b\n1", "a,b\n1,\"x", "a,b\n1,\"x\"", "a,b\n1,2\n"} {
		_, err := readAll(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("after %q the error is %v", text, err)
		}
	}
}

func readAll(src io.Reader) ([][]string, error) {
	r, err := newCSVReader(src)
	if err != nil {
		return nil, err
	}
	rows := [][]string{r.header}
	for {
		row, err := r.next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, append([]string(nil), row...))
	}
}

func FuzzCSVReader(f *testing.F) {
	for _, s := range []string{good, "\ufeffa,b\r\n\"1\",2", "a,\"b\n", "a,a", "a\n\xff", "a,b\n1,\"\"\"\"\n", "a,b\n1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := readAll(bytes.NewReader(data))
		var input *worker.InputError
		if err != nil && !errors.As(err, &input) {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		for i, row := range rows {
			if len(row) != len(rows[0]) {
				t.Fatalf("row %d has %d values, not %d", i, len(row), len(rows[0]))
			}
		}
		// What the writer can't express: a row of one empty value; a line end
		// of its own making; a name that starts with what is taken for a BOM.
		if len(rows[0]) == 1 || bytes.ContainsRune(data, '\r') || strings.HasPrefix(rows[0][0], "\ufeff") {
			return
		}
		var text bytes.Buffer
		if err := csv.NewWriter(&text).WriteAll(rows); err != nil {
			t.Fatal(err)
		}
		again, err := readAll(&text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rows, again); diff != "" {
			t.Error(diff)
		}
	})
}

func TestParseNumber(t *testing.T) {
	for s, want := range map[string]numberKind{
		"0": finite, "-1.5": finite, "+2": finite, "1e-3": finite, ".5": finite, "1E5": finite, "1e-999": finite,
		"inf": infinite, "+Infinity": infinite, "-INF": infinite, "1e309": infinite, "-1e309": infinite,
		"": text, "x": text, "1x": text, "1_000": text, "0x10": text, "--inf": text, "nan": text, "1,5": text, "e": text, "1 2": text,
	} {
		if _, got := parseNumber(s); got != want {
			t.Errorf("parseNumber(%q) is of kind %d, not %d", s, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "", 2}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, not %d", tt.a, tt.b, got, tt.want)
		}
	}
}
