package tabular

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/aipod/aipod/internal/worker"
)

const (
	// maxRecord bounds one row, so that a quote that is never closed can't pull
	// the whole payload into memory.
	maxRecord = 1 << 20
	// maxColumns bounds what is kept for each column while it is scanned.
	maxColumns = 4096
	readBuffer = 64 << 10
)

// A csvReader reads a table row by row, in constant memory. What is wrong with
// the text is a *worker.InputError that names the line, counted from 1 as
// editors do, and the column by its number, counted from 1, and its name.
type csvReader struct {
	csv    *csv.Reader
	limit  *recordLimit
	header []string
	record []string // the current row; valid until the next call of next
	line   int      // where the current row starts
}

// newCSVReader reads the header row.
func newCSVReader(src io.Reader) (*csvReader, error) {
	limit := &recordLimit{src: src, left: maxRecord}
	buf := bufio.NewReaderSize(limit, readBuffer)
	if bom, err := buf.Peek(3); err == nil && string(bom) == "\ufeff" {
		// Can't fail: these bytes are in the buffer.
		_, _ = buf.Discard(len(bom))
	}
	r := &csvReader{csv: csv.NewReader(buf), limit: limit}
	r.csv.ReuseRecord = true
	r.csv.TrimLeadingSpace = true
	header, err := r.next()
	if errors.Is(err, io.EOF) {
		return nil, worker.Invalidf("the payload is empty: send a CSV whose first row names the columns")
	}
	if err != nil {
		return nil, err
	}
	if len(header) > maxColumns {
		return nil, worker.Invalidf("line %d: %d columns, and the limit is %d", r.line, len(header), maxColumns)
	}
	first := make(map[string]int, len(header))
	for i, name := range header {
		if name == "" {
			return nil, worker.Invalidf("line %d, column %d: the column has no name", r.line, i+1)
		}
		if j, ok := first[name]; ok {
			return nil, worker.Invalidf("line %d, column %d: the name %s is taken by column %d",
				r.line, i+1, quote(name), j+1)
		}
		first[name] = i
		r.header = append(r.header, strings.Clone(name))
	}
	return r, nil
}

// next reads a row; io.EOF is the end. The cells, without the blanks around
// them, are valid until the next call. Empty lines are skipped.
func (r *csvReader) next() ([]string, error) {
	r.limit.left = maxRecord
	record, err := r.csv.Read()
	r.record = record
	if err != nil {
		return nil, r.explain(err)
	}
	r.line, _ = r.csv.FieldPos(0)
	for i, cell := range record {
		if !utf8.ValidString(cell) {
			return nil, worker.Invalidf("%s: not UTF-8: save the file with that encoding", r.at(i))
		}
		record[i] = strings.TrimSpace(cell)
	}
	return record, nil
}

func (r *csvReader) explain(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	// The source's error goes first: csv may call what it cut a broken quote.
	if r.limit.err != nil {
		if errors.Is(r.limit.err, errRecordTooLong) {
			return worker.Invalidf("line %d or after: a row is longer than %d KiB: is there a quote that is never closed?",
				r.line+1, maxRecord>>10)
		}
		return r.limit.err
	}
	var parse *csv.ParseError
	if !errors.As(err, &parse) {
		return fmt.Errorf("read csv: %w", err)
	}
	// The record holds the fields before the one that is broken.
	bad := place(parse.Line, len(r.record), r.header)
	switch {
	case errors.Is(err, csv.ErrFieldCount):
		return r.explainCount(parse.StartLine)
	case errors.Is(err, csv.ErrBareQuote):
		return worker.Invalidf(`%s: a quote inside a value: put the value in quotes and write "" for each quote in it`, bad)
	}
	// Where the quote was opened is of more use than where it was missed.
	bad = place(parse.StartLine, len(r.record), r.header)
	if parse.Line == parse.StartLine {
		return worker.Invalidf("%s: the closing quote is missing, or more text follows it", bad)
	}
	return worker.Invalidf("%s: the value starts with a quote that is not closed well up to line %d", bad, parse.Line)
}

func (r *csvReader) explainCount(line int) error {
	have, want := len(r.record), len(r.header)
	if have < want {
		return worker.Invalidf("%s: the value is missing: the row has %d of %d values", place(line, have, r.header), have, want)
	}
	return worker.Invalidf("line %d, column %d: the row has %d values, but the header names %d columns",
		line, want+1, have, want)
}

// at names the place of cell i of the current row.
func (r *csvReader) at(i int) string {
	line, _ := r.csv.FieldPos(i)
	return place(line, i, r.header)
}

func place(line, i int, header []string) string {
	if i >= len(header) {
		return fmt.Sprintf("line %d, column %d", line, i+1)
	}
	return fmt.Sprintf("line %d, column %d %s", line, i+1, quote(header[i]))
}

// quote shows a piece of the payload in a message, cut when it is long.
func quote(s string) string {
	const limit = 40
	if utf8.RuneCountInString(s) > limit {
		s = string([]rune(s)[:limit]) + "…"
	}
	return `"` + strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s) + `"`
}

var errRecordTooLong = errors.New("csv row too long")

// A recordLimit fails once more than left bytes are read from src. What
// csvReader buffers ahead makes the limit somewhat larger, never smaller.
type recordLimit struct {
	src  io.Reader
	left int   // set before each record
	err  error // what src failed with, or errRecordTooLong; sticky, never io.EOF
}

func (l *recordLimit) Read(p []byte) (int, error) {
	switch {
	case l.err != nil:
		return 0, l.err
	case l.left <= 0:
		l.err = errRecordTooLong
		return 0, l.err
	}
	n, err := l.src.Read(p[:min(len(p), l.left)])
	l.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return n, err
}
