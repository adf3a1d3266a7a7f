package tabular

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/worker"
)

func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when", "missing")
	m := openModel(t, dir)
	must[trainResult](t, m, "train", `{"target":"species","version":"v1"}`, Iris())
	must[trainResult](t, m, "train", `{"target":"species","version":"v1","l2":5}`, Iris())
	must[trainResult](t, m, "train", `{"target":"species"}`, Iris())
	again := openModel(t, dir)
	if diff := cmp.Diff([]string{"default", "v1"}, again.Describe().Versions); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"predict", "log"} {
		for _, kwargs := range []string{"", `{"version":"v1"}`} {
			before, err1 := do(t, m, name, kwargs, Iris())
			after, err2 := do(t, again, name, kwargs, Iris())
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(before, after) {
				t.Errorf("%s %s differs after a restart", name, kwargs)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 || len(again.SetAside()) != 0 {
		t.Errorf("files are %v, set aside %v, error %v", files, again.SetAside(), err)
	}
}

// Whatever has happened to a file, Open goes on with the others.
func TestOpenCorruptVersion(t *testing.T) {
	source := t.TempDir()
	must[trainResult](t, openModel(t, source), "train", `{"target":"species","version":"bad"}`, Iris())
	whole, err := os.ReadFile(filepath.Join(source, "bad.json"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(flipped, []byte(`"weights":[`))+14] ^= 1 // one digit becomes another
	for name, data := range map[string][]byte{
		"empty":        {},
		"half":         whole[:len(whole)/2],
		"flipped":      flipped,
		"zeros":        make([]byte, len(whole)),
		"other JSON":   []byte(`{"format":"aipod.tabular.1"}`),
		"other format": bytes.Replace(whole, []byte("tabular.1"), []byte("tabular.9"), 1),
		"other name":   bytes.Replace(whole, []byte(`"version":"bad"`), []byte(`"version":"dab"`), 1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must[trainResult](t, openModel(t, dir), "train", `{"target":"species","version":"good"}`, Iris())
			bad, temp := filepath.Join(dir, "bad.json"), filepath.Join(dir, ".new-1")
			if err := errors.Join(os.WriteFile(bad, data, 0o600), os.WriteFile(temp, whole, 0o600)); err != nil {
				t.Fatal(err)
			}
			m := openModel(t, dir)
			if diff := cmp.Diff([]string{"good"}, m.Describe().Versions); diff != "" {
				t.Error(diff)
			}
			aside := m.SetAside()
			if len(aside) != 1 || aside[0].Path != bad+".corrupt" || aside[0].Err == nil {
				t.Fatalf("set aside: %v", aside)
			}
			if got, err := os.ReadFile(aside[0].Path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("what was set aside has changed, error %v", err)
			}
			for _, gone := range []string{bad, temp} {
				if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %v", filepath.Base(gone), err)
				}
			}
			must[trainResult](t, m, "train", `{"target":"species","version":"bad"}`, Iris())
			if again := openModel(t, dir); len(again.Describe().Versions) != 2 || len(again.SetAside()) != 0 {
				t.Errorf("versions %q, set aside %v", again.Describe().Versions, again.SetAside())
			}
		})
	}
}

func TestOpenNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, filepath.Join(file, "sub")} {
		if _, err := Open(dir); err == nil {
			t.Errorf("Open(%q) succeeded", dir)
		}
	}
}

// A version that can't be written leaves the former one in its place.
func TestTrainDiskFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "versions")
	m := openModel(t, dir)
	must[trainResult](t, m, "train", `{"target":"species"}`, Iris())
	want, err := do(t, m, "predict", "", Iris())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, err = do(t, m, "train", `{"target":"species","l2":9}`, Iris())
	var input *worker.InputError
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &input) {
		t.Errorf("error is %v", err)
	}
	if got, err := do(t, m, "predict", "", Iris()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the prediction has changed, error %v", err)
	}
}

func TestLoad(t *testing.T) {
	m := openModel(t, t.TempDir())
	load := func(version string) *worker.VersionError {
		t.Helper()
		i, err := m.Load(t.Context(), version)
		if err == nil {
			if err := i.Close(); err != nil {
				t.Error(err)
			}
			return nil
		}
		var unknown *worker.VersionError
		if !errors.As(err, &unknown) {
			t.Fatalf("Load(%q): %v", version, err)
		}
		return unknown
	}
	if err := load(""); err != nil {
		t.Error(err)
	}
	if err := load("default"); err == nil || len(err.Have) != 0 {
		t.Errorf("error is %v", err)
	}
	for _, v := range []string{"b", "a"} {
		must[trainResult](t, m, "train", `{"target":"species","version":"`+v+`"}`, Iris())
	}
	for _, v := range []string{"default", "../a", "c", "A"} {
		want := &worker.VersionError{Version: v, Have: []string{"a", "b"}}
		if diff := cmp.Diff(want, load(v)); diff != "" {
			t.Error(diff)
		}
	}
	if err := load("a"); err != nil {
		t.Error(err)
	}
	// No version named, and no default: that is the same error.
	for _, name := range []string{"predict", "log"} {
		_, err := do(t, m, name, "", Iris())
		var unknown *worker.VersionError
		if !errors.As(err, &unknown) || unknown.Version != DefaultVersion || len(unknown.Have) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := m.Load(ctx, "a"); !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
}

// The kwarg goes before the call's version, that before the instance's.
func TestWhichVersion(t *testing.T) {
	m := openModel(t, t.TempDir())
	for _, v := range []string{"a", "b", "c", "default"} {
		must[trainResult](t, m, "train", `{"target":"species","version":"`+v+`"}`, Iris())
	}
	blob := newBlob(t, Iris())
	for _, tt := range []struct{ instance, call, kwarg, want string }{
		{"", "", "", "default"}, {"a", "", "", "a"}, {"a", "b", "", "b"}, {"a", "b", "c", "c"}, {"", "b", "", "b"},
	} {
		i, err := m.Load(t.Context(), tt.instance)
		if err != nil {
			t.Fatal(err)
		}
		got, err := i.Call(t.Context(), &worker.Call{
			Func: "predict", Version: tt.call, Kwargs: fmt.Appendf(nil, `{"version":%q}`, tt.kwarg), Input: blob,
		})
		if err != nil || !bytes.HasPrefix(got, []byte(`{"version":"`+tt.want+`"`)) {
			t.Errorf("%+v: %.40s, error %v", tt, got, err)
		}
	}
}

// More versions than the cache holds are read again when they are needed.
func TestCacheIsBounded(t *testing.T) {
	m := openModel(t, t.TempDir())
	want := make(map[string]string)
	for n := range maxCached + 3 {
		v := fmt.Sprintf("v%d", n)
		must[trainResult](t, m, "train", fmt.Sprintf(`{"target":"species","version":%q,"l2":%d}`, v, n), Iris())
		got, err := do(t, m, "predict", `{"version":"`+v+`"}`, Iris())
		if err != nil {
			t.Fatal(err)
		}
		want[v] = string(got)
	}
	for v := range want {
		got, err := do(t, m, "predict", `{"version":"`+v+`"}`, Iris())
		if err != nil || string(got) != want[v] {
			t.Errorf("version %s has changed, error %v", v, err)
		}
		if len(m.cached) > maxCached {
			t.Fatalf("%d versions are cached", len(m.cached))
		}
	}
}
