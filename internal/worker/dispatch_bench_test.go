//go:build linux

package worker

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkProcessCall calls a worker, the test binary, through its process alone.
func BenchmarkProcessCall(b *testing.B) {
	cfg := benchConfig(b)
	m, err := OpenCommand(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	inst, err := m.Load(context.Background(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = inst.Close() }()
	call := &Call{JobID: "01a21cd8-1921-7047-8cfb-09f6b29f0bb8", Func: "do", Kwargs: []byte(`{"what":"x"}`), Attempt: 1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := inst.Call(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
}

func benchConfig(b *testing.B) CommandConfig {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	return CommandConfig{
		Command: []string{exe}, Env: []string{envWorker + "=1"},
		DataDir: filepath.Join(dir, "data"), WorkDir: filepath.Join(dir, "work"), Logger: slog.New(slog.DiscardHandler),
	}
}
