package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aipod/aipod/internal/worker"
)

// dying is a function whose worker dies in its first attempts, after it has begun
// an output.
func dying(deaths int) function {
	return func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		if c.Attempt > deaths {
			return json.Marshal(c.Attempt)
		}
		w, err := c.OpenOutput()
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, "half an output"); err != nil {
			return nil, err
		}
		return nil, &worker.CrashError{What: "the worker", How: "signal 9 (killed)", Tail: "out of luck"}
	}
}

func TestWorkerDies(t *testing.T) {
	for name, tt := range map[string]struct {
		deaths   int
		spec     Spec
		table    int // MaxAttempts
		attempts int
		result   string // "" for failure
	}{
		"once":                      {deaths: 1, spec: Spec{Func: "die"}, attempts: 2, result: "2"},
		"twice":                     {deaths: 2, spec: Spec{Func: "die"}, attempts: 2},
		"twice of five":             {deaths: 2, spec: Spec{Func: "die", MaxAttempts: 5}, attempts: 2},
		"once of one":               {deaths: 1, spec: Spec{Func: "die", MaxAttempts: 1}, attempts: 1},
		"once, the pod allows one":  {deaths: 1, spec: Spec{Func: "die"}, table: 1, attempts: 1},
		"training":                  {deaths: 1, spec: Spec{Func: "train"}, attempts: 1},
		"training that may be done": {deaths: 1, spec: Spec{Func: "train", MaxAttempts: 2}, attempts: 2, result: "2"},
	} {
		for _, named := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := startPod(t, t.TempDir(), podConfig{
						Config:    Config{MaxAttempts: tt.table},
						functions: map[string]function{"die": dying(tt.deaths), "train": dying(tt.deaths)},
					})
					var j *Job
					if named {
						p.queue(t, "j", tt.spec, []byte("input"))
						j = p.get(t, "j")
					} else {
						var err error
						if j, err = p.Open(tt.spec); err != nil {
							t.Fatal(err)
						}
						defer j.Close()
						if err := j.Start(tt.spec); err != nil {
							t.Fatal(err)
						}
					}
					<-j.Done()
					result, err := j.Result()
					s := j.Snapshot()
					if s.Attempt != tt.attempts {
						t.Errorf("%d attempts, want %d", s.Attempt, tt.attempts)
					}
					if j.Output() != nil && (named || tt.result != "") {
						t.Error("the output of an attempt that is lost is still there")
					}
					events, _ := j.Events(0)
					told := 0
					for _, e := range events {
						if e.Log != nil && strings.Contains(e.Log.Text, "is lost and begun again: the worker died: signal 9") {
							told++
						}
					}
					if told != tt.attempts-1 {
						t.Errorf("told %d times that it is begun again", told)
					}
					if tt.result != "" {
						if err != nil || string(result.JSON) != tt.result {
							t.Errorf("%s, %v; want %s", result.JSON, err, tt.result)
						}
						return
					}
					var crash *worker.CrashError
					if s.State != Failed || !errors.As(err, &crash) {
						t.Errorf("%v: %v", s.State, err)
					}
				})
			})
		}
	}
}
