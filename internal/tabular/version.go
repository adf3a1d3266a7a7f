package tabular

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/aipod/aipod/internal/worker"
)

// DefaultVersion is the version that train makes and that predict and log use
// when the caller names none.
const DefaultVersion = "default"

// A version is one trained classifier. It never changes once made.
type version struct {
	Name    string      `json:"version"`
	Created time.Time   `json:"created"`
	Target  string      `json:"target"`
	Classes []string    `json:"classes"`
	Inputs  []feature   `json:"features"` // numeric ones first
	Weights []float64   `json:"weights"`  // as in linear
	Result  trainResult `json:"result"`
	Log     []logLine   `json:"log"`
}

// A logLine is one line of a version's training log.
type logLine struct {
	Time time.Time `json:"time"` // UTC
	Line string    `json:"line"`
}

var versionName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

func checkName(name string) error {
	if !versionName.MatchString(name) {
		return worker.Invalidf("version %s: use 1 to 64 of the characters A-Z a-z 0-9 . _ -, and no dot in front", quote(name))
	}
	return nil
}

func (v *version) linear() linear { return linear{classes: len(v.Classes), w: v.Weights} }

// check finds what would make a prediction fail or lie.
func (v *version) check() error {
	switch {
	case !versionName.MatchString(v.Name):
		return fmt.Errorf("version name %q", v.Name)
	case v.Target == "":
		return errors.New("no target")
	case len(v.Classes) < 2:
		return fmt.Errorf("%d classes", len(v.Classes))
	case len(v.Inputs) == 0:
		return errors.New("no features")
	}
	width := 1
	for i := range v.Inputs {
		f := &v.Inputs[i]
		switch {
		case f.Name == "":
			return fmt.Errorf("feature %d has no name", i)
		case f.Levels == nil && !(f.Scale > 0):
			return fmt.Errorf("feature %q: scale %v", f.Name, f.Scale)
		case i > 0 && f.Levels == nil && v.Inputs[i-1].Levels != nil:
			return errors.New("features out of order")
		}
		width += f.width()
	}
	if want := width * len(v.Classes); len(v.Weights) != want {
		return fmt.Errorf("%d weights, not %d", len(v.Weights), want)
	}
	if slices.ContainsFunc(v.Weights, func(w float64) bool { return math.IsNaN(w) || math.IsInf(w, 0) }) {
		return errors.New("a weight is not finite")
	}
	return nil
}
