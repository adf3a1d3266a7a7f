// Package tabular is the model that is built into the pod: a classifier for
// tables. It trains multinomial logistic regression on CSV, keeps what it
// learned as named versions in a directory, and predicts; a few functions
// beside that (hello, sha256, sleep, chaos) need no training and show what the
// pod does with any payload and any duration.
//
// It is not a toolkit: one algorithm, few knobs. Training data is kept in
// memory, within a stated bound; everything else streams.
//
// A Model is safe for concurrent use. Versions never change: training one again
// replaces it whole, and calls that run on the former one finish on it. A
// directory belongs to one Model at a time.
package tabular

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/aipod/aipod/internal/worker"
)

// maxCached bounds how many versions are kept in memory; one takes at most
// some megabytes (see maxWeights).
const maxCached = 16

// Model is the built-in model. It implements [worker.Model].
type Model struct {
	store *store
	aside []SetAside

	// The limits of the tests are smaller.
	maxValues int // of training data
	maxInline int // probabilities in a result, else it is an output

	// disk is held while a version file is read or written, so that the cache
	// can't be given what a write has just replaced.
	disk sync.Mutex

	mu     sync.Mutex // taken after disk, never held for I/O; guards:
	names  []string   // of versions, ascending
	cached []*version // at most maxCached, the last used one last
}

// Open makes a Model of the versions in dir, which is made when missing. A
// version file that is corrupt or half-written never stops it: the file is
// renamed to NAME.corrupt and listed by [Model.SetAside].
func Open(dir string) (*Model, error) {
	if dir == "" {
		return nil, errors.New("open versions: no directory given")
	}
	s, names, aside, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return &Model{store: s, aside: aside, names: names, maxValues: maxValues, maxInline: maxInline}, nil
}

// SetAside lists the version files that Open could not use, for the log.
func (m *Model) SetAside() []SetAside { return slices.Clone(m.aside) }

var _ worker.Model = (*Model)(nil)

// Describe implements [worker.Model].
func (m *Model) Describe() worker.Description {
	return worker.Description{Model: "tabular", Versions: m.versions(), Functions: described()}
}

// described is made once: each call asks for it.
var described = sync.OnceValue(func() []worker.Function {
	var all []worker.Function
	for _, f := range functions {
		all = append(all, f.Function)
	}
	return all
})

func (m *Model) versions() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names)
}

// Load implements [worker.Model]. The instance without a version runs every
// function; predict and log take [DefaultVersion] in it.
func (m *Model) Load(ctx context.Context, name string) (worker.Instance, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if name != "" {
		if _, err := m.version(name); err != nil {
			return nil, err
		}
	}
	return instance{model: m, version: name}, nil
}

// version gets a version from the cache or from the disk. An unknown one is a
// *worker.VersionError.
func (m *Model) version(name string) (*version, error) {
	if v, err := m.lookup(name); v != nil || err != nil {
		return v, err
	}
	m.disk.Lock()
	defer m.disk.Unlock()
	// Another call may have been here first.
	if v, err := m.lookup(name); v != nil || err != nil {
		return v, err
	}
	v, err := m.store.read(name)
	if err != nil {
		return nil, err
	}
	m.keep(v)
	return v, nil
}

// lookup returns nil when a version exists but isn't cached.
func (m *Model) lookup(name string) (*version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := slices.BinarySearch(m.names, name); !ok {
		return nil, &worker.VersionError{Version: name, Have: slices.Clone(m.names)}
	}
	i := m.cachedAt(name)
	if i < 0 {
		return nil, nil
	}
	v := m.cached[i]
	m.cached = append(slices.Delete(m.cached, i, i+1), v)
	return v, nil
}

// cachedAt is where a version is in the cache, or -1; m.mu is held.
func (m *Model) cachedAt(name string) int {
	return slices.IndexFunc(m.cached, func(v *version) bool { return v.Name == name })
}

// keep puts a version into the cache and among the names; m.disk is held.
func (m *Model) keep(v *version) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := slices.BinarySearch(m.names, v.Name); !ok {
		m.names = slices.Insert(m.names, i, v.Name)
	}
	if i := m.cachedAt(v.Name); i >= 0 {
		m.cached = slices.Delete(m.cached, i, i+1)
	}
	if len(m.cached) == maxCached {
		m.cached = slices.Delete(m.cached, 0, 1)
	}
	m.cached = append(m.cached, v)
}

// save makes a version the one of its name, on the disk first.
func (m *Model) save(v *version) error {
	m.disk.Lock()
	defer m.disk.Unlock()
	if err := m.store.write(v); err != nil {
		return err
	}
	m.keep(v)
	return nil
}

// An instance runs functions. It holds no version, only a name: calls see what
// was trained last.
type instance struct {
	worker.Lasting
	model   *Model
	version string
}

// Call implements [worker.Instance].
func (i instance) Call(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
	at := slices.IndexFunc(functions, func(f function) bool { return f.Name == c.Func })
	if at < 0 {
		return nil, &worker.FunctionError{Model: "tabular", Func: c.Func}
	}
	result, err := functions[at].run(i, ctx, c)
	if err != nil || result == nil {
		return nil, err
	}
	data, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	return data, nil
}

// Close implements [worker.Instance].
func (instance) Close() error { return nil }

// named chooses the version of a call: that of the kwargs, else the call's,
// else the instance's; it may be empty.
func (i instance) named(kwarg word, c *worker.Call) string {
	switch {
	case kwarg != "":
		return string(kwarg)
	case c.Version != "":
		return c.Version
	}
	return i.version
}
