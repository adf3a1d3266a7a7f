package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/worker"
)

// An output is read while it grows, by as many as like, and after its end by the
// same means.
func TestOutputGrows(t *testing.T) {
	for _, named := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			data := pattern(100_000)
			steps := make(chan int)
			p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{
				"write": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
					w, err := c.OpenOutput()
					if err != nil {
						return nil, err
					}
					if again, err := c.OpenOutput(); again != w || err != nil {
						t.Errorf("opened again: %v, %v", again, err)
					}
					off := 0
					for n := range steps {
						if k, err := w.Write(data[off : off+n]); k != n || err != nil {
							return nil, err
						}
						off += n
					}
					return nil, nil
				},
			}})
			var j *Job
			if named {
				j = p.queue(t, "j", Spec{Func: "write"}, nil)
			} else {
				j = openJob(t, p.Table)
				if err := j.Start(Spec{Func: "write"}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			out := j.Output()
			if out == nil || out.Attempt != 1 || out.JSON {
				t.Fatalf("output %+v", out)
			}
			off := 0
			for _, n := range []int{1, 0, 9999, 90_000} {
				changed := j.Changed()
				steps <- n
				<-changed
				synctest.Wait()
				off += n
				checkOutput(t, out, data[:off])
			}
			close(steps)
			<-j.Done()
			if r, err := j.Result(); r.Output != out || err != nil {
				t.Errorf("result %+v, %v", r, err)
			}
			checkOutput(t, out, data)
			if named {
				if err := p.Delete("j"); err != nil {
					t.Error(err)
				}
			} else {
				j.Close()
			}
			synctest.Wait()
			if _, err := out.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrGone) {
				t.Errorf("read after its end: %v", err)
			}
			if _, err := out.CRC32C(); err == nil {
				t.Error("it still has a checksum")
			}
			p.checkFiles(t)
		})
	}
}

// checkOutput reads at some offsets.
func checkOutput(t *testing.T, out *Output, want []byte) {
	t.Helper()
	if n := out.Size(); n != int64(len(want)) {
		t.Errorf("size %d, want %d", n, len(want))
	}
	if crc, err := out.CRC32C(); crc != checksumOf(want) || err != nil {
		t.Errorf("checksum %08x, %v", crc, err)
	}
	for _, off := range []int{0, len(want) / 2, len(want) - 1, len(want), len(want) + 1} {
		if off < 0 {
			continue
		}
		p := make([]byte, 5)
		n, err := out.ReadAt(p, int64(off))
		rest := want[min(off, len(want)):]
		rest = rest[:min(5, len(rest))]
		if diff := cmp.Diff(rest, p[:n]); diff != "" {
			t.Errorf("at %d (-want +got):\n%s", off, diff)
		}
		if full := len(rest) == 5; full && err != nil || !full && !errors.Is(err, io.EOF) {
			t.Errorf("at %d: %d bytes, %v", off, n, err)
		}
	}
}

// What an attempt has written goes when the next one begins, also for those who
// are reading it.
func TestOutputOfNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		write := func(text string, wait bool) function {
			return func(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
				w, err := c.OpenOutput()
				if err != nil {
					return nil, err
				}
				if _, err := io.WriteString(w, text); err != nil {
					return nil, err
				}
				if wait {
					<-ctx.Done()
				}
				return nil, ctx.Err()
			}
		}
		p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{"write": write("the first attempt's", true)}})
		j := p.queue(t, "j", Spec{Func: "write"}, nil)
		synctest.Wait()
		old := j.Output()
		checkOutput(t, old, []byte("the first attempt's"))
		p = p.with("write", write("new", false)).restart(t)
		if _, err := old.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrGone) {
			t.Errorf("read of the old output: %v", err)
		}
		j = p.get(t, "j")
		wantOutput(t, j, []byte("new"))
		if a := j.Output().Attempt; a != 2 {
			t.Errorf("attempt %d", a)
		}
	})
}

// A large JSON result is an output; how large is the same for all jobs.
func TestLongResult(t *testing.T) {
	for _, size := range []int{recordedResult - 1, recordedResult, recordedResult + 1, 1 << 20} {
		result := make(json.RawMessage, size)
		for i := range result {
			result[i] = '1'
		}
		p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{
			"give": func(context.Context, *worker.Call) (json.RawMessage, error) { return result, nil },
		}})
		unnamed := openJob(t, p.Table)
		if err := unnamed.Start(Spec{Func: "give"}); err != nil {
			t.Fatal(err)
		}
		for _, j := range []*Job{unnamed, p.queue(t, "j", Spec{Func: "give"}, nil)} {
			<-j.Done()
			r, err := j.Result()
			if err != nil {
				t.Fatal(err)
			}
			if size <= recordedResult {
				if string(r.JSON) != string(result) || r.Output != nil {
					t.Errorf("%d bytes: got %d, %+v", size, len(r.JSON), r.Output)
				}
				continue
			}
			wantOutput(t, j, result)
			if r.JSON != nil || !r.Output.JSON {
				t.Errorf("%d bytes: got %d, %+v", size, len(r.JSON), r.Output)
			}
		}
		unnamed.Close()
	}
}

// What a function has written that fails goes, and one that ends without its job
// can't write any more.
func TestOutputOfFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		var late error
		p := startPod(t, t.TempDir(), podConfig{functions: map[string]function{
			"half": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
				w, err := c.OpenOutput()
				if err == nil {
					_, err = w.Write(pattern(10_000))
				}
				return nil, errors.Join(err, errors.New("no"))
			},
			"late": func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
				<-end
				_, late = c.OpenOutput()
				return nil, late
			},
		}})
		j := p.queue(t, "half", Spec{Func: "half"}, nil)
		await(t, j, Failed)
		if j.Output() != nil {
			t.Error("the failed job has an output")
		}
		j = p.queue(t, "late", Spec{Func: "late"}, nil)
		await(t, j, Running)
		j.Cancel(ErrCanceled)
		await(t, j, Canceled)
		close(end)
		synctest.Wait()
		if late == nil || j.Output() != nil {
			t.Errorf("opened after the end: %v, %v", j.Output(), late)
		}
		p.checkFiles(t)
	})
}
