package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/aipod/aipod/internal/spool"
)

// An Output is what a function writes. It can be read at any offset while it
// grows. Job.Changed tells when it has grown.
type Output struct {
	// Attempt is the one whose output it is; see Job.Snapshot.
	Attempt int
	// JSON says that it is a JSON result too large for memory.
	JSON bool

	file *spool.File // nil when an earlier process has finished it

	mu   sync.Mutex
	blob *spool.Blob // once it is complete, for a durable job
	crc  uint32      // of blob
	gone bool
}

// ErrGone is what an Output says whose job has begun again or is removed.
var ErrGone = errors.New("the output is no longer there")

// finished is the output if it is complete and durable, or nil.
func (o *Output) finished() (blob *spool.Blob, crc uint32, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return nil, 0, ErrGone
	}
	return o.blob, o.crc, nil
}

// Size is how many bytes there are so far.
func (o *Output) Size() int64 {
	if blob, _, _ := o.finished(); blob != nil {
		return blob.Size()
	}
	if o.file == nil {
		return 0
	}
	return o.file.Committed()
}

// ReadAt is for io.ReaderAt; io.EOF means that there is no more yet.
func (o *Output) ReadAt(p []byte, off int64) (int, error) {
	blob, _, err := o.finished()
	if blob == nil && err == nil {
		n, err := o.file.ReadAt(p, off)
		if !errors.Is(err, spool.ErrClosed) {
			return n, err
		}
		blob, _, _ = o.finished() // meanwhile
	}
	if blob == nil {
		return 0, ErrGone
	}
	// An open file for each job that is kept would be too many.
	r, err := blob.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, fmt.Errorf("read output: %w", err)
	}
	defer r.Close()
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("read output: %w", err)
	}
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// CRC32C is the checksum of what is there so far.
func (o *Output) CRC32C() (uint32, error) {
	if blob, crc, err := o.finished(); blob != nil || err != nil {
		return crc, err
	}
	return o.file.CRC32C()
}

// finish makes it what an earlier process could have finished.
func (o *Output) finish(blob *spool.Blob, crc uint32) error {
	o.mu.Lock()
	o.blob, o.crc = blob, crc
	o.mu.Unlock()
	return o.file.Close()
}

// remove is told that the file goes: the name will be that of another one.
func (o *Output) remove() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
}

// openOutput makes the output, the file of the job's id. What an earlier attempt
// has written is dropped. A function that has not noticed its job's end can't
// have one: the name may be that of another job's output by now.
func (j *Job) openOutput(json bool) (*Output, error) {
	return j.makeOutput(json, func() (*spool.File, error) {
		return j.table.cfg.Spool.OpenFile(j.outputName(), j.table.cfg.MaxPayload)
	})
}

// makeOutput does that with the file that open makes.
func (j *Job) makeOutput(json bool, open func() (*spool.File, error)) (*Output, error) {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	old, attempt, ending := j.out, j.attempt, j.ending
	j.mu.Unlock()
	if ending {
		return nil, errEnded
	}
	if old != nil {
		old.remove()
	}
	if err := j.table.cfg.Spool.RemoveFile(j.outputName()); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	if j.named {
		file.WillSeal()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.out = &Output{Attempt: attempt, JSON: json, file: file}
	return j.out, nil
}

// dropOutput removes the output, if there is one. The job has ended.
func (j *Job) dropOutput() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	out := j.out
	j.out = nil
	j.mu.Unlock()
	if out == nil {
		return nil
	}
	out.remove()
	return j.table.cfg.Spool.RemoveFile(j.outputName())
}

// An outputWriter is the io.Writer that a function gets.
type outputWriter struct {
	job *Job
	ctx context.Context //nolint:containedctx // the job's

	mu  sync.Mutex
	out *Output
}

// open is for worker.Call.
func (w *outputWriter) open() (io.Writer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out != nil {
		return w, nil
	}
	err := w.job.withSpace(w.ctx, "the output", func() (err error) {
		w.out, err = w.job.openOutput(false)
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// adopt is for worker.Call.
func (w *outputWriter) adopt(path string, json bool) (grow func(int64) error, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out != nil {
		return nil, errors.New("the function has an output already")
	}
	err = w.job.withSpace(w.ctx, "the output", func() (err error) {
		w.out, err = w.job.makeOutput(json, func() (*spool.File, error) {
			return w.job.table.cfg.Spool.AdoptFile(w.job.outputName(), path, w.job.table.cfg.MaxPayload)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return func(size int64) error {
		err := w.out.file.Grow(size)
		w.job.shows(nil)
		return err
	}, nil
}

func (w *outputWriter) Write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err = w.job.withSpace(w.ctx, "the output", func() error {
		before := w.out.file.Committed()
		after, err := w.out.file.Put(before, p[n:])
		n += int(after - before)
		return err
	})
	w.job.shows(nil)
	return n, err
}

// seal ends the output, if there is one.
func (w *outputWriter) seal() (*Output, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return nil, nil //nolint:nilnil // no output is not an error
	}
	if err := w.job.sealOutput(w.out); err != nil {
		return nil, err
	}
	return w.out, nil
}

// sealOutput makes a durable job's output durable.
func (j *Job) sealOutput(out *Output) error {
	if !j.named {
		return nil
	}
	var blob *spool.Blob
	sum, err := out.file.CRC32C()
	if err == nil {
		blob, err = out.file.Seal(out.file.Committed(), sum)
	}
	if err == nil {
		err = out.finish(blob, sum)
	}
	if err != nil {
		return fmt.Errorf("seal output: %w", err)
	}
	return nil
}

// spaceRetry is how often a durable job looks whether the disk has room again.
const spaceRetry = time.Second

// withSpace does what needs room on the disk. A durable job waits until there is
// some: it doesn't lose hours of work because of a disk that is full for a
// minute. The wait is told in its log.
func (j *Job) withSpace(ctx context.Context, what string, do func() error) error {
	for told := false; ; told = true {
		err := do()
		switch {
		case err == nil || !j.named || !isFull(err):
			return err
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		}
		if !told {
			j.log().Warn("waiting for space", "what", what, "err", err)
			j.events.add(Event{Log: &Line{
				Level: slog.LevelError,
				Text:  fmt.Sprintf("RESOURCE_EXHAUSTED: no room for %s: %v; the job goes on when there is", what, err),
			}})
			j.changed.send()
		}
		select {
		case <-time.After(spaceRetry):
		case <-ctx.Done():
		}
	}
}

// isFull says whether the same may succeed when other things are removed.
func isFull(err error) bool {
	var (
		disk   *spool.DiskFullError
		budget *spool.BudgetError
	)
	return errors.As(err, &disk) || errors.As(err, &budget)
}
