package load

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/transport"
)

// A Scenario is what the calls do.
type Scenario string

// The scenarios.
const (
	Call     Scenario = "call"     // small calls
	Upload   Scenario = "upload"   // a payload there, a digest back
	Download Scenario = "download" // an output back
	Chaos    Scenario = "chaos"    // a payload there, a wait, a result back
	Idle     Scenario = "idle"     // calls that wait, and their heartbeats
	Cuts     Scenario = "cuts"     // one of the others through cut connections
)

// A Service is a way to call.
type Service string

// The services.
const (
	Job Service = "job" // aipod.v1.JobService
	AI  Service = "ai"  // ai.AI
)

// The kinds of payload besides those of package bench.
const (
	JSON bench.Kind = "json" // an array of records
	File bench.Kind = "file" // the content of Config.File
)

// Kinds lists all kinds of payload.
var Kinds = []bench.Kind{bench.Zero, bench.Random, JSON, bench.CSV, bench.Text, File}

// A Config says what load to make. Scenario and Addr are required.
type Config struct {
	Scenario Scenario
	// Of is what Cuts cuts: Upload, Download or Chaos; default Upload.
	Of   Scenario
	Addr string // URL of the pod
	// Header is sent with each call, default none.
	Header http.Header
	// TLS is for https, default the system's roots.
	TLS *tls.Config
	// Protocol is how the pod is spoken to, default transport.GRPC.
	Protocol transport.Protocol
	// Service is default Job.
	Service Service

	// Func is the function, default what the scenario is for: chaos (an echo),
	// sha256 or sleep, whose answers are checked.
	Func    string
	Version string          // of the model, default its own
	Kwargs  json.RawMessage // an object, default what the function needs
	// Kind is what the payload consists of, default Text for Call and Random else.
	Kind bench.Kind
	File string // of the kind File
	// Size of the payload in bytes, default 1 KiB for Call, 1 MiB for Chaos and 64
	// MiB for others; Idle has none. A negative one is none, too.
	Size int64
	// Chunk is how much of it goes into a message, in bytes; default
	// codec.DefaultChunk.
	Chunk int
	// Level is how hard it is compressed. The zero value is LevelAdaptive, which
	// alone is coded while it is sent: the others are made before the load begins.
	Level codec.Level
	// Hold is how long Chaos waits between payload and result, default 1s.
	Hold time.Duration
	// Heartbeat is the longest silence that is asked for, default 1s.
	Heartbeat time.Duration

	// Conns are connections, and Streams what each has at a time; default 1.
	Conns, Streams int
	// Rate is the calls that start each second, whatever became of those before (an
	// open loop). 0 is a closed loop: each stream begins a call when its last has
	// ended.
	Rate float64
	// Ramp is how long it takes to get to Rate, default not at all.
	Ramp time.Duration
	// Count ends the load after so many calls, Duration after that time; default
	// 10s, unless there is a Count.
	Count    int64
	Duration time.Duration
	// Warmup is how long the same load is made before anything is recorded.
	Warmup time.Duration
	// Timeout ends a call, default never.
	Timeout time.Duration
	// Drain is how long calls that are going on at the end may take, default 10s.
	Drain time.Duration

	// CutEvery cuts each connection at that age, CutBytes after that many bytes in
	// both directions. Cuts needs one of them.
	CutEvery time.Duration
	CutBytes int64

	// PID is the pod's process, to measure it; 0 looks for who listens at Addr.
	PID int
	// Progress is told each second how it goes; nil is nobody. Calls don't overlap.
	Progress func(Progress)
}

// A ConfigError says what is wrong with a Config.
type ConfigError struct{ What string }

func (e *ConfigError) Error() string { return e.What }

func configf(format string, args ...any) error {
	return &ConfigError{What: fmt.Sprintf(format, args...)}
}

// shape is what the calls look like: the scenario, or what Cuts cuts.
func (c *Config) shape() Scenario {
	if c.Scenario == Cuts {
		return c.Of
	}
	return c.Scenario
}

// Check returns the Config with all defaults in it.
func (c Config) Check() (Config, error) {
	setDefault(&c.Of, Upload)
	setDefault(&c.Protocol, transport.GRPC)
	setDefault(&c.Service, Job)
	setDefault(&c.Heartbeat, time.Second)
	setDefault(&c.Hold, time.Second)
	setDefault(&c.Chunk, codec.DefaultChunk)
	setDefault(&c.Conns, 1)
	setDefault(&c.Streams, 1)
	setDefault(&c.Drain, 10*time.Second)
	if c.Count == 0 {
		setDefault(&c.Duration, 10*time.Second)
	}
	fn, size, kind := "chaos", int64(64<<20), bench.Random
	switch c.shape() {
	case Call:
		size, kind = 1<<10, bench.Text
	case Upload:
		fn = "sha256"
	case Download:
	case Chaos:
		fn, size = "sleep", 1<<20
	case Idle:
		fn, size = "sleep", 0
	default:
		return c, configf("unknown scenario %q", c.shape())
	}
	if c.Service == AI && fn == "chaos" {
		kind = bench.Text // what ai.AI answers is JSON
	}
	if c.Func == "" && (fn == "sleep") && len(c.Kwargs) == 0 {
		hold := c.Hold
		if c.shape() == Idle {
			hold = 24 * time.Hour
		}
		c.Kwargs = json.RawMessage(fmt.Sprintf(`{"seconds":%g}`, hold.Seconds()))
	}
	setDefault(&c.Func, fn)
	setDefault(&c.Size, size)
	setDefault(&c.Kind, kind)
	if c.Kind == File {
		info, err := os.Stat(c.File)
		if err != nil || !info.Mode().IsRegular() {
			return c, configf("%q is not a file that can be read", c.File)
		}
		c.Size = info.Size()
	}
	c.Size = max(c.Size, 0)
	if len(c.Kwargs) == 0 {
		c.Kwargs = json.RawMessage("{}")
	}
	return c, c.validate()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) validate() error {
	switch {
	case c.Addr == "":
		return configf("the address of the pod is missing")
	case !slices.Contains(transport.Protocols, c.Protocol):
		return configf("unknown protocol %q: choose one of %v", c.Protocol, transport.Protocols)
	case c.Service != Job && c.Service != AI:
		return configf("unknown service %q: choose job or ai", c.Service)
	case !slices.Contains(Kinds, c.Kind):
		return configf("unknown kind of payload %q: choose one of %v", c.Kind, Kinds)
	case (c.Kind == File) != (c.File != ""):
		return configf("the kind file needs a file, and other kinds none")
	case c.Conns < 0 || c.Streams < 0 || c.Rate < 0 || c.Count < 0:
		return configf("connections, streams, rates and counts can't be negative")
	case c.Chunk < 1 || c.Chunk > codec.MaxChunk:
		return configf("a chunk of %d bytes: choose 1 to %d", c.Chunk, codec.MaxChunk)
	case c.Duration < 0 || c.Warmup < 0 || c.Ramp < 0 || c.Timeout < 0 || c.Hold < 0 || c.CutEvery < 0 || c.CutBytes < 0:
		return configf("times can't be negative")
	case c.Ramp > 0 && c.Rate == 0:
		return configf("a ramp leads to a rate: give one")
	case c.Scenario == Idle && (c.Rate > 0 || c.Count > 0 || c.Warmup > 0):
		return configf("idle calls have no rate, number or warm-up: they begin together and wait")
	case c.Heartbeat < 200*time.Millisecond || c.Heartbeat > 30*time.Second:
		return configf("a heartbeat each %v: choose 200ms to 30s", c.Heartbeat)
	}
	return c.validateWay()
}

// validateWay checks what depends on the way of calling.
func (c *Config) validateWay() error {
	switch {
	case c.Service == AI && c.Level == codec.LevelAdaptive && c.Size > 0:
		return configf("ai.AI has one codec for a call: choose raw, fastest, default or better")
	case c.Service == AI && c.Func == "chaos" && (c.Kind == bench.Random || c.Kind == bench.Zero):
		return configf("ai.AI answers in JSON, which can't hold %s bytes: choose the kind text, csv or json", c.Kind)
	case c.Scenario == Cuts && c.Service == AI:
		return configf("calls of ai.AI don't survive a cut: choose the service job")
	case c.Scenario == Cuts && c.Of != Upload && c.Of != Download && c.Of != Chaos:
		return configf("cuts of %q: choose upload, download or chaos", c.Of)
	case c.Scenario == Cuts && c.CutEvery == 0 && c.CutBytes == 0:
		return configf("nothing is cut: say after which time or how many bytes")
	case c.Scenario == Cuts && c.CutBytes > 0 && c.CutBytes < 16<<10:
		return configf("a connection that is cut each %d bytes carries little but headers: choose 16 KiB or more", c.CutBytes)
	}
	return nil
}
