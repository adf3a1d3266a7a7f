package client

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/aipod/aipod/internal/codec"
)

// A Call is a job to be done. Func is required.
type Call struct {
	// Func is the function, one of those that Functions lists.
	Func string
	// Version is that of the model, default the pod's.
	Version string
	// Kwargs are the function's arguments, a JSON object, default {}.
	Kwargs json.RawMessage
	// Payload is the input, default none.
	Payload Payload
	// SHA256 is that of the payload, 32 bytes, for the pod to check; default is a
	// CRC-32C only.
	SHA256 []byte
	// Metadata is passed to the function; keys in lower case.
	Metadata map[string]string
	// MaxAttempts is how often the function may be begun if the pod or the model
	// dies under it, default the pod's.
	MaxAttempts int

	// JobID names the job, 1 to 64 of A-Z, a-z, 0-9, _ and -. A job that the caller
	// named is kept when Run returns, for whatever reason: Run with the same call,
	// or Attach, goes on with it, also in another process. Without a name the client
	// makes one up, and removes the job when Run returns.
	JobID string
	// Ephemeral jobs live on one stream and the pod writes nothing down for them.
	// They are quick to start and are lost when the stream is. Without full duplex
	// they are jobs like others.
	Ephemeral bool

	// Heartbeat is the longest silence of the pod, 200ms to 30s, default 1s. After
	// some three of them the client reconnects.
	Heartbeat time.Duration
	// GiveUp is after how long without any sign of the pod Run gives up, default
	// 15m. A job that was never accepted is given up after five attempts.
	GiveUp time.Duration
	// Level is how hard the payload is compressed, default LevelAdaptive.
	Level Level

	// Output takes what the function writes; default is Result.Output, which holds
	// up to MaxMemory bytes. If the function is begun again, the output starts from
	// its first byte: an Output that can Seek and Truncate, as *os.File can, is then
	// cut back to where it was at first, and with others Run fails.
	Output io.Writer
	// Watch is told what happens, by one goroutine at a time and not after Run has
	// returned. It must not block.
	Watch func(Event)
}

const (
	defaultHeartbeat = time.Second
	defaultGiveUp    = 15 * time.Minute
	// The limits of a heartbeat.
	minHeartbeat, maxHeartbeat = 200 * time.Millisecond, 30 * time.Second
)

func (c Call) check() (Call, codec.Level, error) {
	var level codec.Level
	err := checkHeartbeat(&c.Heartbeat)
	if err != nil {
		return c, level, err
	}
	if c.GiveUp == 0 {
		c.GiveUp = defaultGiveUp
	}
	if c.Level != "" {
		if level, err = codec.ParseLevel(string(c.Level)); err != nil {
			return c, level, err
		}
	}
	switch {
	case c.Func == "":
		err = fmt.Errorf("the call names no function: Functions lists them")
	case len(c.Kwargs) > 0 && !json.Valid(c.Kwargs):
		err = fmt.Errorf("the kwargs are not JSON: give an object like {\"rows\": 3}")
	case c.Ephemeral && c.JobID != "":
		err = fmt.Errorf("the job %s is ephemeral and has a name: choose one", c.JobID)
	case c.SHA256 != nil && len(c.SHA256) != 32:
		err = fmt.Errorf("the SHA-256 has %d bytes: give all 32", len(c.SHA256))
	case c.GiveUp < 0:
		err = fmt.Errorf("can't give up after %v: choose a positive time", c.GiveUp)
	}
	return c, level, err
}

func checkHeartbeat(d *time.Duration) error {
	if *d == 0 {
		*d = defaultHeartbeat
	}
	if *d < minHeartbeat || *d > maxHeartbeat {
		return fmt.Errorf("the heartbeat is %v: give %v to %v", *d, minHeartbeat, maxHeartbeat)
	}
	return nil
}

// A Level is how hard a payload is compressed on its way.
type Level string

// The levels, each smaller and slower than the one before.
const (
	LevelAdaptive Level = "adaptive" // whichever of the others arrives soonest
	LevelRaw      Level = "raw"      // not compressed
	LevelFastest  Level = "fastest"
	LevelDefault  Level = "default"
	LevelBetter   Level = "better"
)

// A Result is what a job gave: JSON or an output.
type Result struct {
	JobID      string
	JSON       json.RawMessage // empty if there is an output
	HasOutput  bool            // the function wrote an output, possibly an empty one
	Output     []byte          // if it wasn't written to Call.Output
	OutputSize int64           // bytes
	Attempt    int             // how often the function was begun
	Stats      Stats
}

// Stats count what a job took.
type Stats struct {
	Streams  int   // streams, and requests other than for chunks
	Sent     int64 // bytes of the payload put on streams, those sent again included
	Wire     int64 // the same, as compressed
	Received int64 // bytes of the output that came
}
