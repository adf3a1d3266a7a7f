package tabular

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/aipod/aipod/internal/worker"
)

// A function is one of the model's. A nil result goes with an output.
type function struct {
	worker.Function
	run func(i instance, ctx context.Context, c *worker.Call) (result any, err error)
}

// functions are ascending by name.
var functions = []function{
	{worker.Function{
		Name:   "chaos",
		Doc:    "Echo: copies the payload, of any kind and size, to the output; kwargs are ignored",
		Kwargs: kwargsSchema(),
	}, instance.chaos},
	{worker.Function{
		Name:   "hello",
		Doc:    "Says hello: no payload; kwargs name=\"world\", any others are ignored",
		Kwargs: kwargsSchema(`"name": {"type": "string", "default": "world", "description": "whom"}`), Payload: worker.NoPayload,
	}, instance.hello},
	{worker.Function{
		Name:   "log",
		Doc:    "Tells the training log of a version: no payload; kwargs version=\"default\"",
		Kwargs: kwargsSchema(), Payload: worker.NoPayload,
	}, instance.log},
	{worker.Function{
		Name: "predict",
		Doc: "Predicts classes: payload CSV with a header and the feature columns; kwargs version=\"default\"; " +
			"beyond 100000 probabilities the same JSON is the output",
		Kwargs: kwargsSchema(), Payload: csvType,
	}, instance.predict},
	{worker.Function{
		Name:   "sha256",
		Doc:    "Computes the SHA-256 of the payload, of any kind and size; no kwargs but version, which is ignored",
		Kwargs: kwargsSchema(),
		Digest: true,
	}, instance.sha256},
	{worker.Function{
		Name:   "sleep",
		Doc:    "Sleeps: no payload; kwargs seconds=NUMBER from 0 to 86400",
		Kwargs: kwargsSchema(`"seconds": {"type": "number", "minimum": 0, "maximum": 86400}`, "seconds"), Payload: worker.NoPayload,
	}, instance.sleep},
	{worker.Function{
		Name: "train",
		Doc: "Trains a classifier: payload CSV with a header; kwargs target=COLUMN, version=\"default\", test_fraction=0.2, " +
			"seed=1, l2=0.1, max_iterations=1000, categorical=[COLUMN…]",
		Kwargs: kwargsSchema(`
			"target": {"type": "string", "description": "the column to predict"},
			"test_fraction": {"type": "number", "default": 0.2, "minimum": 0, "maximum": 0.9, "description": "rows held out to measure the accuracy"},
			"seed": {"type": "integer", "default": 1, "minimum": 0, "description": "chooses the rows that are held out"},
			"l2": {"type": "number", "default": 0.1, "minimum": 0, "maximum": 1e6, "description": "strength of the regularization"},
			"max_iterations": {"type": "integer", "default": 1000, "minimum": 1, "maximum": 10000},
			"categorical": {"type": "array", "items": {"type": "string"}, "description": "columns of numbers that are categories"}`,
			"target"),
		Payload:      csvType,
		MakesVersion: true,
	}, instance.train},
}

// csvType is the media type of tables.
const csvType = "text/csv"

// kwargsSchema makes the JSON Schema of kwargs: their properties as JSON, and the
// names of those that are required. The version is not among them: it has a field
// of its own in the spec of a job.
func kwargsSchema(parts ...string) json.RawMessage {
	properties, required := "", []string{}
	if len(parts) > 0 {
		properties, required = parts[0], parts[1:]
	}
	names, err := json.Marshal(required)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	var compact bytes.Buffer
	schema := fmt.Sprintf(`{"type": "object", "properties": {%s}, "required": %s}`, properties, names)
	if err := json.Compact(&compact, []byte(schema)); err != nil {
		panic(err) // a mistake in this package
	}
	return compact.Bytes()
}

// A word is a string kwarg that may be given as a number, which is what command
// lines make of version=2.
type word string

func (w *word) UnmarshalJSON(data []byte) (err error) {
	var value any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		return err
	}
	*w, err = wordOf(value)
	return err
}

// wordOf is the word of a decoded value; none of null.
func wordOf(value any) (word, error) {
	switch value := value.(type) {
	case nil:
		return "", nil
	case string:
		return word(value), nil
	case json.Number:
		return word(value), nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("expected a string, not %s", quote(string(text)))
}

// decodeKwargs is c.DecodeKwargs, but no kwargs at all are fine too.
func decodeKwargs(c *worker.Call, dst any) error {
	if len(bytes.TrimSpace(c.Kwargs)) == 0 {
		return nil
	}
	return c.DecodeKwargs(dst)
}

func (i instance) chaos(ctx context.Context, c *worker.Call) (any, error) {
	out, err := c.OpenOutput()
	if err != nil {
		return nil, err
	}
	_, err = copyPayload(ctx, c, out)
	return nil, err
}

type helloResult struct {
	Hello   string `json:"hello"` // whom
	Name    string `json:"name"`  // the same, under the kwarg's name
	Model   string `json:"model"`
	Version string `json:"version"` // as the caller named it
}

func (i instance) hello(_ context.Context, c *worker.Call) (any, error) {
	var kwargs struct { // any others are ignored
		Name    any `json:"name"`
		Version any `json:"version"`
	}
	if len(c.Kwargs) > 0 {
		dec := json.NewDecoder(bytes.NewReader(c.Kwargs))
		dec.UseNumber()
		if err := dec.Decode(&kwargs); err != nil {
			return nil, worker.Invalidf("kwargs of %q: %s", c.Func, err)
		}
	}
	name, err := wordOf(kwargs.Name)
	if err != nil {
		return nil, worker.Invalidf("kwargs of %q: name: %s", c.Func, err)
	}
	version, err := wordOf(kwargs.Version)
	if err != nil {
		return nil, worker.Invalidf("kwargs of %q: version: %s", c.Func, err)
	}
	whom := cmp.Or(string(name), "world")
	return helloResult{Hello: whom, Name: whom, Model: "tabular", Version: i.named(version, c)}, nil
}

type logResult struct {
	Version string    `json:"version"`
	Lines   []logLine `json:"lines"`
}

func (i instance) log(_ context.Context, c *worker.Call) (any, error) {
	var kwargs struct {
		Version word `json:"version"`
	}
	if err := decodeKwargs(c, &kwargs); err != nil {
		return nil, err
	}
	v, err := i.model.version(cmp.Or(i.named(kwargs.Version, c), DefaultVersion))
	if err != nil {
		return nil, err
	}
	return logResult{Version: v.Name, Lines: v.Log}, nil
}

type sha256Result struct {
	SHA256 string `json:"sha256"` // in hex
	Size   int64  `json:"size"`   // bytes
}

func (i instance) sha256(ctx context.Context, c *worker.Call) (any, error) {
	var kwargs struct {
		Version word `json:"version"`
	}
	if err := decodeKwargs(c, &kwargs); err != nil {
		return nil, err
	}
	if c.SHA256 != nil {
		size := c.Input.Size()
		c.Progress(size, size, "bytes", "")
		return sha256Result{SHA256: hex.EncodeToString(c.SHA256), Size: size}, nil
	}
	h := sha256.New()
	n, err := copyPayload(ctx, c, h)
	if err != nil {
		return nil, err
	}
	return sha256Result{SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

type sleepResult struct {
	Slept float64 `json:"slept"` // seconds
}

const maxSleep = 24 * time.Hour

// sleep reports progress in seconds, each second and at the end.
func (i instance) sleep(ctx context.Context, c *worker.Call) (any, error) {
	var kwargs struct {
		Seconds *float64 `json:"seconds"`
		Version word     `json:"version"`
	}
	if err := decodeKwargs(c, &kwargs); err != nil {
		return nil, err
	}
	if kwargs.Seconds == nil {
		return nil, worker.Invalidf("the kwarg \"seconds\" has to say how long to sleep")
	}
	seconds := *kwargs.Seconds
	if seconds < 0 || seconds > maxSleep.Seconds() {
		return nil, worker.Invalidf("the kwarg \"seconds\" is %v: choose from 0 to %v", seconds, maxSleep.Seconds())
	}
	total := int64(math.Ceil(seconds))
	end := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for done := int64(1); ; done++ {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
			c.Progress(min(done, total), total, "seconds", "")
		case <-end.C:
			c.Progress(total, total, "seconds", "")
			return sleepResult{Slept: seconds}, nil
		}
	}
}
