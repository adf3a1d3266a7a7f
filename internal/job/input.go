package job

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/aipod/aipod/internal/spool"
	"github.com/aipod/aipod/internal/worker"
)

// An input is a job's payload on its way in.
type input interface {
	// put is like spool.File.Put.
	put(off int64, p []byte) (committed int64, err error)
	committed() int64
	// seal ends the input, which has size bytes and, unless crc is nil, that
	// CRC-32C. It can be repeated. After a *spool.ChecksumError the input is
	// empty again.
	seal(size int64, crc *uint32) (*spool.Blob, error)
	// remove frees what the input takes. Nothing is called after it.
	remove() error
}

// A streamInput is that of a job without a name: it comes in order, on one
// stream.
type streamInput struct {
	w    *spool.Writer
	crc  uint32 // of what put wrote
	blob *spool.Blob
}

func (in *streamInput) put(off int64, p []byte) (int64, error) {
	switch size := in.w.Size(); {
	case in.blob != nil:
		return size, spool.ErrSealed
	case off > size:
		return size, &spool.GapError{Committed: size, Offset: off}
	case off < size:
		return size, worker.Invalidf("offset %d has been sent before: a job without an id takes its input in order", off)
	}
	n, err := in.w.Write(p)
	in.crc = crc32.Update(in.crc, castagnoli, p[:n])
	return in.w.Size(), err
}

func (in *streamInput) committed() int64 { return in.w.Size() }

func (in *streamInput) seal(size int64, crc *uint32) (*spool.Blob, error) {
	if have := in.w.Size(); have != size {
		return nil, &spool.SizeError{Committed: have, Size: size}
	}
	if crc != nil && *crc != in.crc {
		return nil, &spool.ChecksumError{Got: in.crc, Want: *crc}
	}
	if in.blob == nil {
		blob, err := in.w.Seal()
		if err != nil {
			return nil, err
		}
		in.blob = blob
	}
	return in.blob, nil
}

func (in *streamInput) remove() error {
	if in.blob != nil {
		return in.blob.Remove()
	}
	return in.w.Discard()
}

// A fileInput is that of a durable job. The file is made with the first byte.
type fileInput struct {
	spool *spool.Spool
	name  string
	limit int64

	mu   sync.Mutex
	file *spool.File // nil when there is none, or not yet
}

// reopen finds what an earlier process has received.
func (in *fileInput) reopen() error {
	for _, f := range in.spool.Files() {
		if f.Name == in.name {
			_, err := in.open()
			return err
		}
	}
	return nil
}

func (in *fileInput) open() (*spool.File, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.file == nil {
		f, err := in.spool.OpenFile(in.name, in.limit)
		if err != nil {
			return nil, err
		}
		in.file = f
	}
	return in.file, nil
}

func (in *fileInput) put(off int64, p []byte) (int64, error) {
	if len(p) == 0 && off == 0 {
		return in.committed(), nil
	}
	f, err := in.open()
	if err != nil {
		return 0, err
	}
	return f.Put(off, p)
}

func (in *fileInput) committed() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.file == nil {
		return 0
	}
	return in.file.Committed()
}

func (in *fileInput) seal(size int64, crc *uint32) (*spool.Blob, error) {
	in.mu.Lock()
	f := in.file
	in.mu.Unlock()
	if f == nil {
		switch {
		case size != 0:
			return nil, &spool.SizeError{Size: size}
		case crc != nil && *crc != 0:
			return nil, &spool.ChecksumError{Want: *crc}
		}
		return memoryBlob(in.spool, nil)
	}
	sum, err := f.CRC32C()
	if err != nil {
		return nil, err
	}
	if crc == nil {
		crc = &sum
	}
	if size <= recordedInput {
		blob, err := in.copy(f, size, *crc, sum)
		if err == nil || !wrongSum(err) {
			return blob, err
		}
		return nil, errors.Join(err, in.remove())
	}
	blob, err := f.Seal(size, *crc)
	if wrongSum(err) {
		err = errors.Join(err, in.remove())
	}
	return blob, err
}

// copy makes a small input a blob in memory, because it goes into the job's
// record, which costs less than to fsync a file.
func (in *fileInput) copy(f *spool.File, size int64, want, have uint32) (*spool.Blob, error) {
	if n := f.Committed(); n != size {
		return nil, &spool.SizeError{Committed: n, Size: size}
	}
	if have != want {
		return nil, &spool.ChecksumError{Got: have, Want: want}
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return memoryBlob(in.spool, data)
}

func wrongSum(err error) bool {
	var sum *spool.ChecksumError
	return errors.As(err, &sum)
}

func (in *fileInput) remove() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.file = nil
	return in.spool.RemoveFile(in.name)
}

func memoryBlob(s *spool.Spool, data []byte) (*spool.Blob, error) {
	w := s.Create(0)
	if _, err := w.Write(data); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	return w.Seal()
}

// ErrSuperseded ends a Writer when a newer one has begun.
var ErrSuperseded = errors.New("superseded: a newer stream writes this job's input now")

// A Writer writes a job's input. A job has one: the newest.
type Writer struct {
	job  *Job
	lost chan struct{} // closed when there is a newer one
}

// Writer makes the caller the one who writes the input, and ends the Writer
// before.
func (j *Job) Writer() *Writer {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writer != nil {
		close(j.writer.lost)
	}
	j.writer = &Writer{job: j, lost: make(chan struct{})}
	return j.writer
}

// Lost is closed when a newer Writer has begun.
func (w *Writer) Lost() <-chan struct{} { return w.lost }

// Put writes p at an offset of the input, and returns how many bytes are there
// then. Bytes that are there already are accepted if they are equal. Errors are
// those of spool.File.Put, *worker.InputError for bytes after the input's end,
// or ErrSuperseded.
func (w *Writer) Put(off int64, p []byte) (committed int64, err error) {
	j := w.job
	select {
	case <-w.lost:
		return j.Committed(), ErrSuperseded
	default:
	}
	j.mu.Lock()
	size, spec := j.size, j.spec
	j.touched = now()
	j.mu.Unlock()
	end := off + int64(len(p))
	switch {
	case off < 0:
		return j.Committed(), worker.Invalidf("offset %d is before the start of the input", off)
	case size >= 0 && end > size:
		return size, worker.Invalidf("the input is closed with %d bytes, and a chunk ends at %d", size, end)
	case size >= 0:
		return size, nil // sent again by someone who missed the answer
	case spec.Size >= 0 && end > spec.Size:
		return j.Committed(), worker.Invalidf("a chunk ends at %d, but the input has %d bytes by its spec", end, spec.Size)
	}
	committed, err = j.in.put(off, p)
	if errors.Is(err, spool.ErrClosed) { // closed or removed meanwhile
		return j.Committed(), err
	}
	j.changed.send()
	return committed, err
}

// Close ends the input and queues the job. It returns when the job will survive
// a crash, or when ctx ends, which it doesn't take for an error: the closing goes
// on. crc is the CRC-32C of the whole, or nil. Repeating it is harmless.
//
// Errors are *spool.SizeError, *spool.ChecksumError, whereupon the input is empty
// and has to be sent again, *worker.QueueFullError, and those of the disk. After
// each of them the job still receives.
func (w *Writer) Close(ctx context.Context, size int64, crc *uint32) error {
	j := w.job
	select {
	case <-w.lost:
		return ErrSuperseded
	default:
	}
	j.mu.Lock()
	spec, closed := j.spec, j.size
	j.mu.Unlock()
	switch {
	case closed >= 0 && closed != size:
		return worker.Invalidf("the input is closed with %d bytes, not %d", closed, size)
	case closed >= 0:
		return nil
	case spec.Size >= 0 && size != spec.Size:
		return worker.Invalidf("the input is closed with %d bytes, but has %d by its spec", size, spec.Size)
	}
	result := make(chan error, 1)
	go func() { result <- j.closeInput(size, crc) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return nil
	}
}

// closeInput seals the input, records that, and lets the job run.
func (j *Job) closeInput(size int64, crc *uint32) error {
	j.closing.Lock()
	defer j.closing.Unlock()
	j.mu.Lock()
	closed := j.size >= 0 || j.ending
	spec := j.spec
	j.mu.Unlock()
	if closed {
		return nil // by a call before this one
	}
	if j.named {
		if err := j.table.cfg.Runner.Full(); err != nil {
			return err
		}
	}
	blob, err := j.in.seal(size, crc)
	if err != nil {
		j.changed.send()
		return err
	}
	if err := checkSHA256(blob, spec.SHA256); err != nil {
		var wrong *worker.InputError
		if errors.As(err, &wrong) {
			j.finish(Result{}, err)
		}
		return err
	}
	if j.named {
		var data []byte
		if size <= recordedInput {
			if data, err = readBlob(blob); err != nil {
				return err
			}
		}
		if err := j.record(func(r *record) { r.State, r.InputSize, r.Input = Queued, size, data }); err != nil {
			return err
		}
		j.mu.Lock()
		j.data = data
		j.mu.Unlock()
	}
	return j.start(blob)
}

func readBlob(b *spool.Blob) ([]byte, error) {
	r, err := b.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// checkSHA256 reads the payload if there is a digest to compare with. A payload
// that differs is an *worker.InputError.
func checkSHA256(b *spool.Blob, want []byte) error {
	if len(want) == 0 {
		return nil
	}
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		return fmt.Errorf("read input: %w", err)
	}
	if sum := hash.Sum(nil); subtle.ConstantTimeCompare(sum, want) == 0 {
		return worker.Invalidf("the input has the SHA-256 %x, not %x as its spec says", sum, want)
	}
	return nil
}
