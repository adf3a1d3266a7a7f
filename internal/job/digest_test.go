package job

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// digestSizes are those at which a digester does something else.
var digestSizes = []int{
	0, 1, recordedInput, recordedInput + 1, digestInline - 1, digestInline, digestInline + 1,
	digestInline + digestBlock, digestInline + digestBlock + 1, 3 * digestBlocks * digestBlock,
}

func newTestDigester() *digester {
	return newDigester(&sync.Pool{New: func() any { return new(block) }})
}

// digestConfig has functions that tell what digest they were given: "digest"
// wants one.
func digestConfig() podConfig {
	tell := func(_ context.Context, c *worker.Call) (json.RawMessage, error) {
		return json.Marshal(hex.EncodeToString(c.SHA256))
	}
	return podConfig{
		Config:    Config{Digest: func(fn string) bool { return fn == "digest" }},
		functions: map[string]function{"digest": tell, "other": tell},
	}
}

func told(sum []byte) string { return `"` + hex.EncodeToString(sum) + `"` }

func TestDigester(t *testing.T) {
	for _, size := range digestSizes {
		data := pattern(size)
		for _, chunk := range []int{1000, digestBlock, 1<<20 - 1<<10} {
			synctest.Test(t, func(t *testing.T) { // in which no goroutine may be left
				d := newTestDigester()
				for off := 0; off < size; off += chunk {
					d.write(int64(off), data[off:min(off+chunk, size)])
					if off == 0 {
						synctest.Wait() // the hasher ends, and is begun again
					}
				}
				for range 2 {
					if got := d.sum(int64(size)); !bytes.Equal(got, sumOf(data)) {
						t.Errorf("%d bytes by %d: %x", size, chunk, got)
					}
				}
				if got := d.sum(int64(size) + 1); got != nil {
					t.Errorf("%d bytes by %d: %x for one more", size, chunk, got)
				}
				d.reset()
				d.write(0, data)
				if got := d.sum(int64(size)); !bytes.Equal(got, sumOf(data)) {
					t.Errorf("%d bytes, again: %x", size, got)
				}
				d.write(int64(size)+1, []byte("after a gap"))
				if got := d.sum(int64(size) + 12); got != nil {
					t.Errorf("%d bytes and a gap: %x", size, got)
				}
				d.drop()
				d.write(int64(size), data)
				if got := d.sum(2 * int64(size)); got != nil || len(d.queue) != 0 {
					t.Errorf("%d bytes, dropped: %x, %d blocks", size, got, len(d.queue))
				}
			})
		}
	}
}

// What a digester that waits for the hasher holds is bounded, and drop lets it go.
func TestDigesterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDigester()
		d.hashing = true // one that makes no way
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.write(0, make([]byte, 2*digestBlocks*digestBlock))
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("the writer did not wait")
		default:
		}
		if len(d.queue) != digestBlocks {
			t.Errorf("%d blocks wait", len(d.queue))
		}
		d.drop()
		<-done
	})
}

// Small inputs cost neither a goroutine nor a block, large ones nothing for each
// write.
func TestDigesterAllocations(t *testing.T) {
	d := newTestDigester()
	d.write(0, pattern(digestInline))
	if d.start != nil || d.queue != nil {
		t.Errorf("%d bytes have begun a goroutine, or taken %d blocks", d.taken, len(d.queue))
	}
	p := pattern(digestBlock)
	d.write(d.taken, p)
	if n := testing.AllocsPerRun(1000, func() { d.write(d.taken, p) }); n >= 1 {
		t.Errorf("%v allocations for each write", n)
	}
	d.sum(0)
}

// The function gets the digest of what was put, however it came.
func TestDigest(t *testing.T) {
	for _, size := range digestSizes {
		data := pattern(size)
		p := startPod(t, t.TempDir(), digestConfig())
		for fn, want := range map[string]string{"digest": told(sumOf(data)), "other": told(nil)} {
			named := p.create(t, fn, Spec{Func: fn, SHA256: sumOf(data)})
			random := rand.New(rand.NewPCG(1, uint64(size)))
			for have := 0; have < size; have = int(named.Committed()) {
				off := random.IntN(have + 1)
				end := min(off+1+random.IntN(size/3+1), size)
				put(t, named, off, data[off:end])
				committed := named.Committed()
				if _, err := named.Writer().Put(committed+1, nil); !errors.As(err, new(*spool.GapError)) {
					t.Errorf("put after a gap: %v", err)
				}
				wrong := append([]byte{data[committed-1] ^ 1}, data[committed:]...)
				if _, err := named.Writer().Put(committed-1, wrong); !errors.As(err, new(*spool.ConflictError)) {
					t.Errorf("put other bytes: %v", err)
				}
			}
			closeInput(t, named, data)
			wantResult(t, named, want)

			// By a Writer, and by Input.
			for _, write := range []func(*Job){
				func(j *Job) {
					for off := 0; off < size; off += 100_000 {
						put(t, j, off, data[off:min(off+100_000, size)])
					}
					closeInput(t, j, data)
				},
				func(j *Job) {
					if n, err := j.Input().Write(data); n != size || err != nil {
						t.Errorf("wrote %d bytes, %v", n, err)
					}
					if err := j.Start(Spec{Func: fn}); err != nil {
						t.Error(err)
					}
				},
			} {
				j, err := p.Open(Spec{Func: fn, Size: -1})
				if err != nil {
					t.Fatal(err)
				}
				write(j)
				wantResult(t, j, want)
				j.Close()
			}
		}
		p.stop()
	}
}

// Many write at a time, each its own chunks.
func TestDigestShared(t *testing.T) {
	const chunk, n = 100_000, 40
	data := pattern(chunk * n)
	p := startPod(t, t.TempDir(), digestConfig())
	j := p.create(t, "j", Spec{Func: "digest"})
	var wg sync.WaitGroup
	for _, i := range rand.Perm(n) {
		for range 2 {
			wg.Go(func() {
				if _, err := j.SharedWriter().PutInTurn(t.Context(), int64(i*chunk), data[i*chunk:(i+1)*chunk]); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if err := j.SharedWriter().Close(t.Context(), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantResult(t, j, told(sumOf(data)))
}

// A digest that the spec names is compared with the one that is known.
func TestDigestDiffers(t *testing.T) {
	data := pattern(digestInline + 1)
	p := startPod(t, t.TempDir(), digestConfig())
	j := p.create(t, "j", Spec{Func: "digest", SHA256: sumOf(data[1:])})
	put(t, j, 0, data)
	if err := j.Writer().Close(t.Context(), int64(len(data)), nil); !errors.As(err, new(*worker.InputError)) {
		t.Errorf("closed with %v", err)
	}
}

// An input that begins again has the digest of what came then.
func TestDigestAfterChecksumError(t *testing.T) {
	for _, size := range []int{recordedInput, digestInline + 3*digestBlock + 1} {
		data := pattern(size)
		p := startPod(t, t.TempDir(), digestConfig())
		j := p.create(t, "j", Spec{Func: "digest"})
		put(t, j, 0, data[1:])
		crc := checksumOf(data)
		if err := j.Writer().Close(t.Context(), int64(size)-1, &crc); !errors.As(err, new(*spool.ChecksumError)) {
			t.Fatalf("closed with %v", err)
		}
		put(t, j, 0, data)
		closeInput(t, j, data)
		wantResult(t, j, told(sumOf(data)))
	}
}

// A full budget refuses a chunk; the digest goes on with what is there.
func TestDigestFullBudget(t *testing.T) {
	data := pattern(600_000)
	cfg := digestConfig()
	cfg.budget = 1_000_000
	p := startPod(t, t.TempDir(), cfg)
	other := p.create(t, "other", Spec{Func: "echo"})
	put(t, other, 0, pattern(500_000))
	j := p.create(t, "j", Spec{Func: "digest"})
	put(t, j, 0, data[:400_000])
	if n, err := j.Writer().Put(300_000, data[300_000:]); n != 400_000 || !errors.As(err, new(*spool.BudgetError)) {
		t.Errorf("over the budget: %d, %v", n, err)
	}
	if err := p.Delete("other"); err != nil {
		t.Fatal(err)
	}
	put(t, j, 300_000, data[300_000:])
	closeInput(t, j, data)
	wantResult(t, j, told(sumOf(data)))
}

// After a restart in mid-upload the digest is not known, and one that the spec
// names is checked all the same. One of an input that had not begun is known.
func TestDigestRestart(t *testing.T) {
	data := pattern(digestInline + 3*digestBlock)
	for _, had := range []int{0, 1, len(data) - 1, len(data)} {
		eachEnd(t, func(t *testing.T, next func(*testPod, testing.TB) *testPod) {
			p := startPod(t, t.TempDir(), digestConfig())
			j := p.create(t, "j", Spec{Func: "digest", SHA256: sumOf(data)})
			put(t, j, 0, data[:had])
			p = next(p, t)
			j = p.get(t, "j")
			put(t, j, had/2, data[had/2:])
			closeInput(t, j, data)
			want := told(nil)
			if had == 0 {
				want = told(sumOf(data))
			}
			wantResult(t, j, want)
		})
	}
}

// Each attempt gets the digest.
func TestDigestRetried(t *testing.T) {
	data := pattern(digestInline + 1)
	cfg := digestConfig()
	tell := cfg.functions["digest"]
	cfg.functions["digest"] = func(ctx context.Context, c *worker.Call) (json.RawMessage, error) {
		if c.Attempt == 1 {
			return nil, &worker.CrashError{}
		}
		return tell(ctx, c)
	}
	p := startPod(t, t.TempDir(), cfg)
	j := p.queue(t, "j", Spec{Func: "digest", MaxAttempts: 2}, data)
	wantResult(t, j, told(sumOf(data)))
	if n := j.Snapshot().Attempt; n != 2 {
		t.Errorf("%d attempts", n)
	}
}

// A job that ends in mid-upload leaves no goroutine and no block.
func TestDigestCanceled(t *testing.T) {
	data := pattern(digestInline + 10*digestBlock + 1)
	p := startPod(t, t.TempDir(), digestConfig())
	goroutines := runtime.NumGoroutine()
	named := p.create(t, "j", Spec{Func: "digest"})
	put(t, named, 0, data)
	unnamed, err := p.Open(Spec{Func: "digest", Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	put(t, unnamed, 0, data)
	unnamed.Close()
	named.Cancel(ErrCanceled)
	<-named.Done()
	if err := p.Delete("j"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, were %d", runtime.NumGoroutine(), goroutines)
		}
	}
	for _, d := range []*digester{named.in.(*fileInput).digest, unnamed.in.(*streamInput).digest} {
		if len(d.queue) != 0 {
			t.Errorf("%d blocks are left", len(d.queue))
		}
	}
}
