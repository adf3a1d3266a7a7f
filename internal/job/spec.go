package job

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A Spec is what a job is to do.
type Spec struct {
	Func    string          `json:"func"`
	Version string          `json:"version,omitempty"`
	Kwargs  json.RawMessage `json:"kwargs,omitempty"` // a JSON object without reserved keys
	// Size of the input in bytes, -1 if it isn't known. It is checked at the end.
	Size int64 `json:"size"`
	// SHA256 of the input, checked at the end, or nil.
	SHA256 []byte `json:"sha256,omitempty"`
	// Metadata has keys in lower case. It is not part of a job's identity.
	Metadata map[string]string `json:"metadata,omitempty"`
	// Deadline is when the caller gives up, for the function to know; zero if it
	// doesn't say. Not part of a job's identity, and not recorded.
	Deadline time.Time `json:"-"`
	// MaxAttempts is how often the function may be begun, 0 for the table's own.
	MaxAttempts int `json:"max_attempts,omitempty"`
}

// An ExistsError refuses a job whose id belongs to one with another spec.
type ExistsError struct {
	ID   string
	Diff string // what differs, and how
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("job %s is already there with another spec: %s; choose another id", e.ID, e.Diff)
}

// differs says in what a job's spec and a new call's differ, or "".
func (s Spec) differs(call Spec) string {
	var diff []string
	add := func(name, has, wants string) {
		diff = append(diff, fmt.Sprintf("%s is %.200s there and %.200s here", name, has, wants))
	}
	if s.Func != call.Func {
		add("func", strconv.Quote(s.Func), strconv.Quote(call.Func))
	}
	if s.Version != call.Version {
		add("version", strconv.Quote(s.Version), strconv.Quote(call.Version))
	}
	if !sameJSON(s.Kwargs, call.Kwargs) {
		add("kwargs", string(s.Kwargs), string(call.Kwargs))
	}
	if s.Size >= 0 && call.Size >= 0 && s.Size != call.Size {
		add("size", strconv.FormatInt(s.Size, 10), strconv.FormatInt(call.Size, 10))
	}
	if len(s.SHA256) > 0 && len(call.SHA256) > 0 && !bytes.Equal(s.SHA256, call.SHA256) {
		add("sha256", hex.EncodeToString(s.SHA256), hex.EncodeToString(call.SHA256))
	}
	return strings.Join(diff, ", ")
}

// sameJSON says whether a and b are the same value; what isn't JSON is compared
// as it is.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	return reflect.DeepEqual(decodeJSON(a), decodeJSON(b))
}

func decodeJSON(data json.RawMessage) any {
	if len(data) == 0 {
		return map[string]any{}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return string(data)
	}
	return v
}
