package job

import "fmt"

// A State is where a job is in its life.
type State int

// The states of a job. The last three are final.
const (
	Receiving State = iota // its input is arriving
	Queued                 // waits for a slot
	Loading                // waits for its version to be loaded
	Running
	Succeeded
	Failed
	Canceled
)

var stateNames = [...]string{"RECEIVING", "QUEUED", "LOADING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"}

func (s State) String() string { return stateNames[s] }

// Final says whether the state is the last.
func (s State) Final() bool { return s >= Succeeded }

// MarshalText is the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("unknown state %.40q", text)
}
