package load

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/codec"
)

// sent is what the other end gets of a payload.
func sent(t *testing.T, cfg Config) (data []byte, p *payload) {
	t.Helper()
	cfg.Scenario, cfg.Addr = Upload, "http://pod"
	cfg, err := cfg.Check()
	if err != nil {
		t.Fatal(err)
	}
	p, err = newPayload(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close() })
	var wire bytes.Buffer
	err = p.each(t.Context(), &cfg, func(c *codec.Chunk) bool {
		if cfg.Service == AI {
			wire.Write(c.Data)
			return true
		}
		if c.Offset != int64(wire.Len()) {
			t.Errorf("a chunk at %d, want %d", c.Offset, wire.Len())
		}
		raw, err := codec.DecodeChunk(*c, nil)
		if err != nil {
			t.Error(err)
		}
		wire.Write(raw)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Service == AI {
		var out bytes.Buffer
		d := codec.NewDecoder(t.Context(), &out, cfg.Level != codec.LevelRaw)
		if _, err := d.Write(wire.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		wire = out
	}
	return wire.Bytes(), p
}

// However it is coded and cut, what is sent is the payload, and its checksum is
// right.
func TestPayloadIsSentAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), 70_001), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{
		{Size: -1}, {Size: 1}, {Size: 999, Chunk: 1000}, {Size: 1000, Chunk: 1000}, {Size: 1001, Chunk: 1000},
		{Size: 2 * block, Chunk: block / 4}, {Size: block + 17},
		{Size: 300_000, Kind: JSON}, {Size: 300_000, Kind: bench.CSV}, {Size: 300_000, Kind: bench.Zero}, {Kind: File, File: path},
	} {
		for _, level := range []codec.Level{codec.LevelRaw, codec.LevelFastest, codec.LevelAdaptive} {
			for _, service := range []Service{Job, AI} {
				if service == AI && level == codec.LevelAdaptive {
					continue
				}
				cfg.Level, cfg.Service = level, service
				data, p := sent(t, cfg)
				want, err := io.ReadAll(p.reader())
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(data, want) || int64(len(data)) != p.size {
					t.Errorf("%d bytes of %s in chunks of %d, %v, %s: %d bytes come, %d are in it", cfg.Size, cfg.Kind, cfg.Chunk, level, service, len(data), len(want))
				}
				if got := crc32.Checksum(want, castagnoli); got != p.crc {
					t.Errorf("the checksum of %d bytes is %08x, not %08x", cfg.Size, got, p.crc)
				}
			}
		}
	}
}

func TestRecordsAreJSON(t *testing.T) {
	text, err := io.ReadAll(io.LimitReader(&records{}, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	whole := append(bytes.Clone(text[:bytes.LastIndex(text, []byte(",\n"))]), ']')
	var rows []struct{ ID int }
	if err := json.Unmarshal(whole, &rows); err != nil {
		t.Fatal(err)
	}
	if n := len(rows); n < 1000 || rows[n-1].ID != n-1 {
		t.Errorf("%d rows", n)
	}
}

func TestConfigErrors(t *testing.T) {
	for name, cfg := range map[string]Config{
		"scenario": {Scenario: "x"}, "protocol": {Protocol: "x"}, "service": {Service: "x"}, "kind": {Kind: "x"},
		"file": {Kind: File}, "ramp": {Ramp: 1}, "heartbeat": {Heartbeat: 1}, "idle": {Scenario: Idle, Rate: 1},
		"cuts": {Scenario: Cuts}, "of": {Scenario: Cuts, CutBytes: 1 << 20, Of: Call}, "ai cuts": {Scenario: Cuts, CutBytes: 1 << 20, Service: AI, Level: codec.LevelRaw},
		"adaptive ai": {Service: AI}, "binary ai": {Scenario: Call, Service: AI, Kind: bench.Random, Level: codec.LevelRaw}, "chunk": {Chunk: 5 << 20},
	} {
		if cfg.Scenario == "" {
			cfg.Scenario = Upload
		}
		cfg.Addr = "http://pod"
		if _, err := cfg.Check(); err == nil {
			t.Errorf("%s: %+v is fine", name, cfg)
		}
	}
}
