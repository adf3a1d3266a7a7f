package service

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/worker"
)

// A digestModel has the function "given", which tells the SHA-256 that it was given.
type digestModel struct{ *testModel }

func (m digestModel) Describe() worker.Description {
	d := m.testModel.Describe()
	for i, f := range d.Functions {
		d.Functions[i].Digest = f.Name == "given"
	}
	return d
}

// A function that declares it gets the digest of its payload, by each service, with
// an id and without; others don't.
func TestDigestDeclared(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		open := cfg.OpenModel
		cfg.OpenModel = func(dir string) (worker.Model, error) {
			m, err := open(dir)
			given := func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
				return json.Marshal(hex.EncodeToString(c.SHA256))
			}
			funcs := m.(*testModel).funcs
			funcs["given"], funcs["other"] = given, given
			return digestModel{m.(*testModel)}, err
		}
	})
	for _, payload := range [][]byte{nil, []byte("x"), randomBytes(3<<20 + 1)} {
		for fn, want := range map[string]string{"given": digest(payload), "other": `""`} {
			first := fmt.Appendf(nil, `{%q:%d}`, codec.SizeKey, len(payload))
			r, err := chaos(t.Context(), tp.client(t, grpcWay.p), fn, append([][]byte{first}, cut(payload, 1<<20)...)...)
			if err != nil || string(r.result) != want {
				t.Errorf("ai.AI, %s, %d bytes: %s, %v", fn, len(payload), r.result, err)
			}
			for _, id := range []string{"", fmt.Sprint(fn, len(payload))} {
				r := startRun(t, tp.jobs(t, grpcWay.p), &aipodv1.Open{JobId: id, Spec: specOf(fn, "")})
				r.upload(payload, 0)
				r.result().wantJSON(want)
			}
		}
	}
}
