package flagenv

import (
	"errors"
	"math"
	"strconv"

	"github.com/dustin/go-humanize"
)

// Size is a flag value of a number of bytes. It reads "64MiB", "1.5GB" and
// plain numbers, and prints "64MiB": the largest unit that keeps it exact.
//
//	limit := flagenv.Size(64 << 20)
//	cmd.Flags().Var(&limit, "max-message", "largest message")
type Size int64

var errSize = errors.New("not a size: write it like 64MiB, 1.5GiB or 1000000")

// Set is for pflag.Value.
func (s *Size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return errSize
	}
	*s = Size(n)
	return nil
}

// Type is for pflag.Value: how the help names the value.
func (s *Size) Type() string { return "size" }

// String is for pflag.Value; Set reads the same number back.
func (s *Size) String() string { return s.text() }

func (s Size) text() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	n, unit := int64(s), 0
	for n != 0 && n%1024 == 0 && unit < len(units)-1 {
		n /= 1024
		unit++
	}
	if unit == 0 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatInt(n, 10) + units[unit]
}
