package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// Chunks may come again, overlap, and be of any size; what is wrong with one is
// said, and changes nothing.
func TestPut(t *testing.T) {
	data := pattern(recordedInput + 10_000)
	other := func(off, n int) []byte {
		p := append([]byte(nil), data[off:off+n]...)
		p[n-1] ^= 1
		return p
	}
	var (
		invalid  *worker.InputError
		gap      *spool.GapError
		conflict *spool.ConflictError
		limit    *spool.LimitError
	)
	for _, size := range []int{5000, len(data)} {
		p := startPod(t, t.TempDir(), podConfig{Config: Config{MaxPayload: int64(len(data))}})
		j := p.create(t, "j", Spec{Func: "echo"})
		for _, tt := range []struct {
			off  int64
			p    []byte
			want int64 // committed
			err  any   // a pointer to what the error is, or nil
		}{
			{0, nil, 0, nil},
			{1, nil, 0, &gap},
			{1, data[1:2], 0, &gap},
			{-1, data[:1], 0, &invalid},
			{0, data[:1], 1, nil},
			{0, data[:1], 1, nil},
			{0, data[:1000], 1000, nil},
			{500, data[500:1500], 1500, nil},
			{0, data[:10], 1500, nil},
			{1500, nil, 1500, nil},
			{1501, data[1501:1600], 1500, &gap},
			{1400, other(1400, 100), 1500, &conflict},
			{1400, append(other(1400, 100), data[1500:1600]...), 1500, &conflict},
			{0, data[:size], int64(size), nil},
			{int64(size), make([]byte, len(data)), int64(size), &limit},
		} {
			n, err := j.Writer().Put(tt.off, tt.p)
			if n != tt.want || j.Committed() != tt.want {
				t.Errorf("%d bytes at %d: %d, committed %d, want %d", len(tt.p), tt.off, n, j.Committed(), tt.want)
			}
			if tt.err == nil && err != nil || tt.err != nil && !errors.As(err, tt.err) {
				t.Errorf("%d bytes at %d: %v, want %T", len(tt.p), tt.off, err, tt.err)
			}
		}
		if gap.Committed != 1500 || conflict.Offset != 1499 {
			t.Errorf("%+v, %+v", gap, conflict)
		}
		// Everything is said again after the end, by callers who missed the answer.
		closeInput(t, j, data[:size])
		for range 2 {
			put(t, j, 0, data[:size])
			put(t, j, 10, data[10:20])
			if _, err := j.Writer().Put(int64(size), data[:1]); !errors.As(err, &invalid) {
				t.Errorf("put after the end: %v", err)
			}
			if err := j.Writer().Close(t.Context(), int64(size)+1, nil); !errors.As(err, &invalid) {
				t.Errorf("closed with another size: %v", err)
			}
			closeInput(t, j, data[:size])
			wantResult(t, j, echoed(data[:size]))
		}
	}
}

// Bytes that the spec doesn't allow for are refused as they come.
func TestPutBeyondSpec(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	j := p.create(t, "j", Spec{Func: "echo", Size: 10})
	var invalid *worker.InputError
	if n, err := j.Writer().Put(0, pattern(11)); n != 0 || !errors.As(err, &invalid) {
		t.Errorf("put 11 of 10 bytes: %d, %v", n, err)
	}
	put(t, j, 0, pattern(10))
	for _, size := range []int64{9, 11} {
		if err := j.Writer().Close(t.Context(), size, nil); !errors.As(err, &invalid) {
			t.Errorf("closed with %d bytes: %v", size, err)
		}
	}
	closeInput(t, j, pattern(10))
	wantResult(t, j, echoed(pattern(10)))
}

// An input that isn't what it should be is refused, and can be put right.
func TestCloseWrong(t *testing.T) {
	for _, size := range []int{0, 100, recordedInput, recordedInput + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := startPod(t, t.TempDir(), podConfig{})
			data := pattern(size)
			j := p.create(t, "j", Spec{Func: "echo", SHA256: sumOf(data)})
			put(t, j, 0, data)
			crc := checksumOf(data)
			wrong := crc + 1
			for _, n := range []int64{int64(size) - 1, int64(size) + 1, 1 << 40} {
				var e *spool.SizeError
				if err := j.Writer().Close(t.Context(), n, &crc); !errors.As(err, &e) || *e != (spool.SizeError{Committed: int64(size), Size: n}) {
					t.Errorf("closed with %d of %d bytes: %v", n, size, err)
				}
			}
			for range 2 {
				var e *spool.ChecksumError
				if err := j.Writer().Close(t.Context(), int64(size), &wrong); !errors.As(err, &e) || e.Want != wrong || e.Got != crc {
					t.Errorf("closed with a wrong checksum: %v", err)
				}
				if s := j.Snapshot(); s.State != Receiving || s.Committed != 0 {
					t.Errorf("after a wrong checksum: %+v", s)
				}
				put(t, j, 0, data)
			}
			closeInput(t, j, data)
			wantResult(t, j, echoed(data))
		})
	}
}

// An input with another digest can't be put right: the job was for another one.
func TestCloseWrongDigest(t *testing.T) {
	for _, size := range []int{0, 100, recordedInput + 1} {
		p := startPod(t, t.TempDir(), podConfig{})
		j := p.create(t, "j", Spec{Func: "echo", SHA256: sumOf([]byte("other"))})
		put(t, j, 0, pattern(size))
		var invalid *worker.InputError
		if err := j.Writer().Close(t.Context(), int64(size), nil); !errors.As(err, &invalid) {
			t.Errorf("closed: %v", err)
		}
		await(t, j, Failed)
		if _, err := j.Result(); !errors.As(err, &invalid) {
			t.Errorf("the job failed with %v", err)
		}
		if _, err := j.Writer().Put(0, pattern(10)); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("put after the end: %v", err)
		}
		if err := j.Writer().Close(t.Context(), int64(size), nil); err != nil {
			t.Errorf("closed again: %v", err)
		}
		j = p.crash(t).get(t, "j")
		if _, err := j.Writer().Put(0, pattern(10)); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("put after the end and a restart: %v", err)
		}
	}
}

// When the disk hasn't kept an input, it is sent again.
func TestCloseNotSynced(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	data := pattern(recordedInput + 1)
	j := p.create(t, "j", Spec{Func: "echo"})
	put(t, j, 0, data)
	named := filepath.Join(p.dir, "spool", "named")
	if err := os.Rename(named, named+"2"); err != nil { // so that it can't be synced
		t.Fatal(err)
	}
	if err := j.Writer().Close(t.Context(), int64(len(data)), nil); err == nil {
		t.Error("closed without being on the disk")
	}
	if err := os.Rename(named+"2", named); err != nil {
		t.Fatal(err)
	}
	if s := j.Snapshot(); s.State != Receiving || s.Committed != 0 {
		t.Errorf("after a failed fsync: %+v", s)
	}
	if err := os.Remove(filepath.Join(named, "j.in")); err != nil {
		t.Fatal(err)
	}
	put(t, j, 0, data)
	closeInput(t, j, data)
	wantResult(t, j, echoed(data))
}

// The newest writer is the only one, at once.
func TestWriterSuperseded(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	for name, j := range map[string]*Job{"named": p.create(t, "j", Spec{Func: "echo"}), "unnamed": openJob(t, p.Table)} {
		var writers []*Writer
		for range 3 {
			writers = append(writers, j.Writer())
		}
		for i, w := range writers {
			lost := false
			select {
			case <-w.Lost():
				lost = true
			default:
			}
			n, err := w.Put(0, pattern(10))
			closed := w.Close(t.Context(), 11, nil)
			if i < 2 {
				if !lost || n != 0 || !errors.Is(err, ErrSuperseded) || !errors.Is(closed, ErrSuperseded) {
					t.Errorf("%s: writer %d: lost %v, put %d, %v, closed %v", name, i, lost, n, err, closed)
				}
			} else if lost || n != 10 || err != nil || !errors.As(closed, new(*spool.SizeError)) {
				t.Errorf("%s: the newest writer: lost %v, put %d, %v, closed %v", name, lost, n, err, closed)
			}
		}
		if j.Named() {
			closeInput(t, j, pattern(10))
			wantResult(t, j, echoed(pattern(10)))
		} else {
			j.Close()
		}
	}
}

// Chunks that come in any order find their place, and those who write them are
// not in one another's way; a stream is.
func TestSharedWriter(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	j := p.create(t, "j", Spec{Func: "echo"})
	stream := j.Writer()
	input := pattern(40_000)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for off := 30_000; off >= 0; off -= 10_000 {
		wg.Go(func() {
			if _, err := j.SharedWriter().PutInTurn(ctx, int64(off), input[off:off+10_000]); err != nil {
				t.Errorf("put at %d: %v", off, err)
			}
		})
		time.Sleep(5 * time.Millisecond) // so that the first comes last
	}
	wg.Wait()
	if _, err := stream.Put(0, input[:1]); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the stream from before writes: %v", err)
	}
	crc := checksumOf(input)
	if err := j.SharedWriter().Close(t.Context(), int64(len(input)), &crc); err != nil {
		t.Fatal(err)
	}
	wantResult(t, j, echoed(input))
}

func TestPutInTurnGivesUp(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	j := p.create(t, "j", Spec{Func: "echo"})
	shared := j.SharedWriter()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var gap *spool.GapError
	if n, err := shared.PutInTurn(ctx, 10, pattern(5)); n != 0 || !errors.As(err, &gap) || gap.Committed != 0 {
		t.Errorf("nothing fills the gap: %d, %v", n, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := shared.PutInTurn(t.Context(), 10, pattern(5))
		waited <- err
	}()
	time.Sleep(20 * time.Millisecond)
	j.Writer()
	if err := <-waited; !errors.Is(err, ErrSuperseded) {
		t.Errorf("a stream takes over: %v, want ErrSuperseded", err)
	}
	if err := p.Delete(j.ID); err != nil {
		t.Error(err)
	}
}

func openJob(t testing.TB, table *Table) *Job {
	t.Helper()
	j, err := table.Open(Spec{Func: "echo", Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Any number of callers may close the input at a time; it is run once.
func TestCloseAtOnce(t *testing.T) {
	for _, size := range []int{10, recordedInput + 1} {
		synctest.Test(t, func(t *testing.T) {
			p := startPod(t, t.TempDir(), podConfig{})
			data := pattern(size)
			j := p.create(t, "j", Spec{Func: "echo"})
			put(t, j, 0, data)
			w := j.Writer()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if err := w.Close(t.Context(), int64(size), nil); err != nil {
						t.Error(err)
					}
				})
				if i%2 == 0 {
					wg.Go(func() {
						if err := w.Close(t.Context(), int64(size)+1, nil); !errors.As(err, new(*worker.InputError)) && !errors.As(err, new(*spool.SizeError)) {
							t.Errorf("closed with another size: %v", err)
						}
					})
				}
			}
			wg.Wait()
			wantResult(t, j, echoed(data))
			if s := j.Snapshot(); s.Attempt != 1 {
				t.Errorf("run more than once: %+v", s)
			}
		})
	}
}

// A caller who doesn't wait for the end of Close has closed the input nevertheless.
func TestCloseGoesOn(t *testing.T) {
	for _, size := range []int{10, recordedInput + 1} {
		synctest.Test(t, func(t *testing.T) {
			p := startPod(t, t.TempDir(), podConfig{})
			data := pattern(size)
			j := p.create(t, "j", Spec{Func: "echo"})
			put(t, j, 0, data)
			j.closing.Lock() // as if it took long
			ctx, cancel := context.WithCancel(t.Context())
			closed := make(chan error)
			go func() { closed <- j.Writer().Close(ctx, int64(size), nil) }()
			cancel()
			if err := <-closed; err != nil {
				t.Errorf("a caller who leaves: %v", err)
			}
			if s := j.State(); s != Receiving {
				t.Errorf("state %v before the input was closed", s)
			}
			j.closing.Unlock()
			wantResult(t, j, echoed(data))
		})
	}
}

// A queue that is full refuses the close; the input is there for the next one.
func TestCloseQueueFull(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	j := p.create(t, "j", Spec{Func: "echo"})
	put(t, j, 0, pattern(10))
	full := &fullRunner{Runner: p.pool, err: &worker.QueueFullError{Queue: 3}}
	p.Table.cfg.Runner = full
	if err := j.Writer().Close(t.Context(), 10, nil); !errors.As(err, new(*worker.QueueFullError)) {
		t.Errorf("closed: %v", err)
	}
	if s := j.Snapshot(); s.State != Receiving || s.Committed != 10 {
		t.Errorf("after that: %+v", s)
	}
	full.err = nil
	closeInput(t, j, pattern(10))
	wantResult(t, j, echoed(pattern(10)))
}

type fullRunner struct {
	Runner
	err error
}

func (r *fullRunner) Full() error { return r.err }

// A job without a name takes its input in order, and once.
func TestUnnamedInput(t *testing.T) {
	p := startPod(t, t.TempDir(), podConfig{})
	for _, size := range []int{0, 10, 2 << 20} {
		j := openJob(t, p.Table)
		w, data := j.Writer(), pattern(size)
		half := size / 2
		if n, err := w.Put(0, data[:half]); err != nil || n != int64(half) {
			t.Fatalf("put: %d, %v", n, err)
		}
		if n, err := w.Put(int64(half)+1, data[half:]); n != int64(half) || !errors.As(err, new(*spool.GapError)) {
			t.Errorf("put beyond the end: %d, %v", n, err)
		}
		if half > 0 {
			if n, err := w.Put(0, data[:half]); n != int64(half) || !errors.As(err, new(*worker.InputError)) {
				t.Errorf("put again: %d, %v", n, err)
			}
		}
		if _, err := w.Put(int64(half), data[half:]); err != nil {
			t.Fatal(err)
		}
		crc := checksumOf(data)
		wrong := crc ^ 1
		if err := w.Close(t.Context(), int64(size)+1, &crc); !errors.As(err, new(*spool.SizeError)) {
			t.Errorf("closed with a wrong size: %v", err)
		}
		if err := w.Close(t.Context(), int64(size), &wrong); !errors.As(err, new(*spool.ChecksumError)) {
			t.Errorf("closed with a wrong checksum: %v", err)
		}
		closeInput(t, j, data)
		<-j.Done()
		r, err := j.Result()
		if diff := cmp.Diff(json.RawMessage(echoed(data)), r.JSON); diff != "" || err != nil {
			t.Errorf("%v, result (-want +got):\n%s", err, diff)
		}
		j.Close()
	}
}
