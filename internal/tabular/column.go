package tabular

import (
	"slices"
	"strconv"
	"strings"

	"github.com/aipod/aipod/internal/worker"
)

const (
	// maxLevels bounds how many different values a column of categories has,
	// and so how many features it becomes.
	maxLevels = 100
	// maxLevelSize is in bytes: what is longer is text, not a category.
	maxLevelSize = 256
)

// A column is what a scan learns of one column of the training data.
type column struct {
	name    string
	index   int  // in the row
	forced  bool // categories even if all values are numbers
	numbers int  // rows with a finite number
	texts   int  // rows with anything else

	firstText  cell // the first value that is no number
	firstInf   cell // the first value that is an infinite one; it counts as a number
	overLevels cell // the first value past maxLevels or maxLevelSize; levels is nil then
	levels     map[string]*level
}

// A level is one value of a column of categories.
type level struct {
	rows int
	at   string // place of the first
}

// A cell is a value with its place, for messages.
type cell struct{ at, value string }

func (c cell) String() string { return c.at + ": " + quote(c.value) }

// add takes the value of the reader's current row.
func (c *column) add(r *csvReader, value string) error {
	if missing(value) {
		return worker.Invalidf("%s: the value is missing: fill it in or leave the row out", r.at(c.index))
	}
	switch _, kind := parseNumber(value); kind {
	case finite:
		c.numbers++
	case infinite:
		c.numbers++
		if c.firstInf.at == "" {
			c.firstInf = cell{r.at(c.index), strings.Clone(value)}
		}
	default:
		c.texts++
		if c.firstText.at == "" {
			c.firstText = cell{r.at(c.index), strings.Clone(value)}
		}
	}
	if c.levels == nil {
		return nil
	}
	if l, ok := c.levels[value]; ok {
		l.rows++
		return nil
	}
	if len(c.levels) == maxLevels || len(value) > maxLevelSize {
		c.overLevels = cell{r.at(c.index), strings.Clone(value)}
		c.levels = nil
		return nil
	}
	c.levels[strings.Clone(value)] = &level{rows: 1, at: r.at(c.index)}
	return nil
}

// numeric decides what the column is. All numbers: numeric. At most half
// numbers: categories. Between the two, the few texts are taken for slips of
// the pen, unless the caller has said that these are categories.
func (c *column) numeric() (bool, error) {
	switch {
	case c.forced || c.numbers <= c.texts:
		return false, c.checkLevels()
	case c.texts > 0:
		return false, worker.Invalidf(
			"%s is not a number, and %d of %d values of the column are: correct it, or name the column in the kwarg \"categorical\"",
			c.firstText, c.numbers, c.numbers+c.texts)
	case c.firstInf.at != "":
		return false, worker.Invalidf("%s is not a finite number", c.firstInf)
	}
	return true, nil
}

func (c *column) checkLevels() error {
	switch {
	case len(c.overLevels.value) > maxLevelSize:
		return worker.Invalidf("%s is longer than %d bytes, which is too long for a category: leave the column out",
			c.overLevels, maxLevelSize)
	case c.levels == nil:
		return worker.Invalidf("%s is one more than %d different values: a column with so many categories has to be left out",
			c.overLevels, maxLevels)
	}
	return nil
}

// sortedLevels is ascending: by value if all are numbers, else as text.
func (c *column) sortedLevels() []string {
	levels := make([]string, 0, len(c.levels))
	for l := range c.levels {
		levels = append(levels, l)
	}
	slices.Sort(levels)
	if c.texts == 0 {
		slices.SortStableFunc(levels, func(a, b string) int {
			x, _ := parseNumber(a)
			y, _ := parseNumber(b)
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
	}
	return levels
}

// missing says whether a cell stands for "no value".
func missing(s string) bool {
	return s == "" || s == "NA" || strings.EqualFold(s, "nan")
}

type numberKind int

const (
	text numberKind = iota
	finite
	infinite // written so, or too large for 64 bits
)

// parseNumber reads a decimal number; NaN and what only Go knows as a number,
// such as 0x1p-2 or 1_000, are text.
func parseNumber(s string) (float64, numberKind) {
	word := strings.TrimLeft(s, "+-")
	if len(s)-len(word) <= 1 && (strings.EqualFold(word, "inf") || strings.EqualFold(word, "infinity")) {
		return 0, infinite
	}
	if strings.Trim(s, "0123456789+-.eE") != "" {
		return 0, text
	}
	v, err := strconv.ParseFloat(s, 64)
	switch {
	case err == nil:
		return v, finite
	case v != 0:
		return 0, infinite // out of range
	}
	return 0, text
}

// suggest ends a message about a name that is not among have: with the one
// that was likely meant, and the others.
func suggest(name string, have []string) string {
	const show = 20
	var b strings.Builder
	for _, h := range have {
		if strings.EqualFold(h, name) || distance(h, name) <= 2 && distance(h, name) < len(name) {
			b.WriteString("did you mean " + quote(h) + "? ")
			break
		}
	}
	b.WriteString("the columns are ")
	for i, h := range have {
		switch {
		case i == show:
			b.WriteString(" and " + strconv.Itoa(len(have)-show) + " more")
			return b.String()
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(quote(h))
	}
	return b.String()
}

// distance is how many bytes have to be put in, taken out or changed to make b
// of a (Levenshtein 1966); names of over 100 bytes are as far apart as can be.
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
