//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A screen is what a terminal shows: as much of one as a progress bar needs. It
// has a width and no end.
type screen struct {
	width    int
	rows     [][]rune
	row, col int
}

// sequence is what moves the cursor, erases, hides and colours.
var sequence = regexp.MustCompile(`^\x1b\[([?0-9;]*)([A-Za-z])`)

// write takes what a program has written. It knows no sequence that it is not
// told about here.
func (s *screen) write(text string) error {
	for text != "" {
		if m := sequence.FindStringSubmatch(text); m != nil {
			if err := s.control(m[1], m[2]); err != nil {
				return err
			}
			text = text[len(m[0]):]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\r':
			s.col = 0
		case r == '\n':
			s.row++
		case r < ' ':
			return fmt.Errorf("the control character %q", r)
		default:
			if s.col == s.width {
				s.row, s.col = s.row+1, 0
			}
			line := s.line()
			for len(*line) <= s.col {
				*line = append(*line, ' ')
			}
			(*line)[s.col] = r
			s.col++
		}
	}
	return nil
}

func (s *screen) line() *[]rune {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
	return &s.rows[s.row]
}

func (s *screen) control(numbers, what string) error {
	n, _ := strconv.Atoi(numbers)
	switch what {
	case "A":
		s.row = max(s.row-max(n, 1), 0)
	case "J": // to the end
		line := s.line()
		*line = (*line)[:min(s.col, len(*line))]
		s.rows = s.rows[:s.row+1]
	case "K":
		line := s.line()
		*line = (*line)[:min(s.col, len(*line))]
	case "m", "h", "l":
	default:
		return fmt.Errorf("the sequence %q", "\x1b["+numbers+what)
	}
	return nil
}

// String is what is to be seen.
func (s *screen) String() string {
	var b strings.Builder
	for _, row := range s.rows {
		b.WriteString(strings.TrimRight(string(row), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

func TestScreen(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"a\r\nb":                             "a\nb",
		"abc\rx":                             "xbc",
		"abcdefghij":                         "abcdefghij",
		"abcdefghijk\r\nl":                   "abcdefghij\nk\nl",
		"one\r\ntwo\r\n\x1b[2A\x1b[Jthree":   "three",
		"one\r\ntwo\r\n\x1b[1Aanother":       "one\nanother",
		"\x1b[33mred\x1b[0m\x1b[?25h":        "red",
		"one\r\n\x1b[A\x1b[Jone\r\ntwo\r\n…": "one\ntwo\n…",
	} {
		s := &screen{width: 10}
		if err := s.write(text); err != nil || s.String() != want {
			t.Errorf("%q shows %q (%v), want %q", text, s, err, want)
		}
	}
	if err := new(screen).write("\x1b[5X"); err == nil {
		t.Error("an unknown sequence is fine")
	}
}
