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
	// CRC-32C. It can be repeated. After a *spool.ChecksumError that of a durable
	// job is empty again. The caller removes the blob.
	seal(size int64, crc *uint32) (*spool.Blob, error)
	// sum is the SHA-256 of the input, which is sealed with size bytes, if the job's
	// function wants it and it is known, else nil.
	sum(size int64) []byte
	// close lets go of the input, and keeps what the next process needs.
	close() error
	// remove frees what the input takes.
	remove() error
}

// A streamInput is that of a job without a name: it comes in order, on one
// stream.
type streamInput struct {
	w      *spool.Writer
	digest *digester // nil unless it is wanted
	crc    uint32    // of what put wrote
	blob   *spool.Blob
}

// Write is put of what comes next.
func (in *streamInput) Write(p []byte) (int, error) {
	before := in.w.Size()
	n, err := in.w.Write(p)
	if in.digest != nil {
		in.digest.write(before, p[:n])
	}
	return n, err
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
	n, err := in.Write(p)
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

func (in *streamInput) sum(size int64) []byte { return in.digest.sum(size) }

func (in *streamInput) close() error { return nil }

func (in *streamInput) remove() error {
	in.digest.drop()
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

	digest *digester  // nil unless it is wanted
	order  sync.Mutex // held over a put and its digest; taken before mu

	mu   sync.Mutex
	file *spool.File // nil when it isn't open
	size int64       // of the file when it isn't open
	gone bool        // nothing is opened any more

	removed bool // what has the name now is another job's
}

// adopt finds what an earlier process has received.
func (in *fileInput) adopt() {
	if blob, err := in.spool.OpenSealed(in.name); err == nil { // else there is nothing
		in.size = blob.Size()
		in.digest = nil // it would have to read that again
	}
}

func (in *fileInput) open() (*spool.File, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone {
		return nil, spool.ErrClosed
	}
	if in.file == nil {
		f, err := in.spool.OpenFile(in.name, in.limit)
		if err != nil {
			return nil, err
		}
		f.WillSeal()
		in.file = f
	}
	return in.file, nil
}

func (in *fileInput) put(off int64, p []byte) (int64, error) {
	if len(p) == 0 && off == 0 {
		return in.committed(), nil
	}
	if in.digest != nil {
		in.order.Lock()
		defer in.order.Unlock()
	}
	f, err := in.open()
	if err != nil {
		return in.committed(), err
	}
	if in.digest == nil {
		return f.Put(off, p)
	}
	before := f.Committed()
	committed, err := f.Put(off, p)
	if committed > before {
		in.digest.write(before, p[before-off:committed-off])
	}
	return committed, err
}

func (in *fileInput) committed() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.file == nil {
		return in.size
	}
	return in.file.Committed()
}

func (in *fileInput) seal(size int64, crc *uint32) (*spool.Blob, error) {
	have := in.committed()
	switch {
	case have != size:
		return nil, &spool.SizeError{Committed: have, Size: size}
	case size == 0 && crc != nil && *crc != 0:
		return nil, &spool.ChecksumError{Want: *crc}
	case size == 0:
		return memoryBlob(in.spool, nil)
	}
	f, err := in.open()
	if err != nil {
		return nil, err
	}
	if size <= recordedInput {
		// It goes into the job's record, which costs less than to fsync a file.
		data, err := readChecked(f, size, crc)
		if err != nil {
			return nil, in.failed(err)
		}
		return memoryBlob(in.spool, data)
	}
	if crc == nil {
		sum, err := f.CRC32C()
		if err != nil {
			return nil, in.failed(err)
		}
		crc = &sum
	}
	blob, err := f.Seal(size, *crc)
	return blob, in.failed(err)
}

func (in *fileInput) sum(size int64) []byte {
	if in.digest == nil {
		return nil
	}
	in.order.Lock() // for a put whose bytes are sealed, but not yet in the digest
	defer in.order.Unlock()
	return in.digest.sum(size)
}

// readChecked reads all of a small file.
func readChecked(f *spool.File, size int64, crc *uint32) ([]byte, error) {
	sum, err := f.CRC32C()
	if err != nil {
		return nil, err
	}
	if have := f.Committed(); have != size { // of more than it had, too
		return nil, &spool.SizeError{Committed: have, Size: size}
	}
	if crc != nil && sum != *crc {
		return nil, &spool.ChecksumError{Got: sum, Want: *crc}
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, err
	}
	return data, nil
}

// failed makes the input empty after an error that says that its bytes are not
// those that were sent, or not on the disk: they have to be sent again.
func (in *fileInput) failed(err error) error {
	var size *spool.SizeError
	if err == nil || errors.As(err, &size) || errors.Is(err, spool.ErrClosed) {
		return err
	}
	in.order.Lock()
	defer in.order.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone {
		return err
	}
	in.file, in.size = nil, 0
	in.digest.reset()
	return errors.Join(err, in.spool.RemoveFile(in.name))
}

func (in *fileInput) close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.closeLocked()
}

func (in *fileInput) closeLocked() error {
	in.gone = true
	in.digest.drop()
	if in.file == nil {
		return nil
	}
	f := in.file
	in.file, in.size = nil, f.Committed()
	return f.Close()
}

func (in *fileInput) remove() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.removed {
		return nil
	}
	in.removed = true
	return errors.Join(in.closeLocked(), in.spool.RemoveFile(in.name))
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

// A Writer writes a job's input. A job has one: the newest. It is safe for
// concurrent use.
type Writer struct {
	job    *Job
	lost   chan struct{} // closed when there is a newer one
	shared bool
}

// Writer makes the caller the one who writes the input, and ends the Writer
// before.
func (j *Job) Writer() *Writer {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.newWriterLocked(false)
}

// SharedWriter is the Writer of all who write single chunks, in any order. It ends
// a Writer that isn't shared.
func (j *Job) SharedWriter() *Writer {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writer != nil && j.writer.shared {
		return j.writer
	}
	return j.newWriterLocked(true)
}

func (j *Job) newWriterLocked(shared bool) *Writer {
	if j.writer != nil {
		close(j.writer.lost)
	}
	j.writer = &Writer{job: j, lost: make(chan struct{}), shared: shared}
	return j.writer
}

// Lost is closed when a newer Writer has begun.
func (w *Writer) Lost() <-chan struct{} { return w.lost }

// Put writes p at an offset of the input, and returns how many bytes are there
// then. Bytes that are there already are accepted if they are equal. Errors are
// those of spool.File.Put, *worker.InputError for bytes after the input's end,
// spool.ErrClosed for a job that has ended or is removed, or ErrSuperseded.
func (w *Writer) Put(off int64, p []byte) (committed int64, err error) {
	j := w.job
	select {
	case <-w.lost:
		return j.Committed(), ErrSuperseded
	default:
	}
	j.mu.Lock()
	size, spec, ending := j.size, j.spec, j.ending
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
	case ending:
		return j.Committed(), spool.ErrClosed
	case spec.Size >= 0 && end > spec.Size:
		return j.Committed(), worker.Invalidf("a chunk ends at %d, but the input has %d bytes by its spec", end, spec.Size)
	}
	committed, err = j.in.put(off, p)
	if !isGap(err) { // of which nobody has to know, and PutInTurn not of its own
		j.changed.send()
	}
	return committed, err
}

func isGap(err error) bool {
	var gap *spool.GapError
	return errors.As(err, &gap)
}

// PutInTurn is Put for a chunk that may be before its turn: others, which come at
// the same time, are to fill the gap. It waits for that until ctx ends, and then
// returns the *spool.GapError.
func (w *Writer) PutInTurn(ctx context.Context, off int64, p []byte) (committed int64, err error) {
	for {
		changed := w.job.Changed()
		committed, err = w.Put(off, p)
		if !isGap(err) {
			return committed, err
		}
		select {
		case <-changed:
		case <-w.lost:
		case <-ctx.Done():
			return committed, err
		}
	}
}

// Close ends the input and queues the job. It returns when the job will survive
// a crash, or when ctx ends, which it doesn't take for an error: the closing goes
// on. crc is the CRC-32C of the whole, or nil. Repeating it is harmless.
//
// Errors are *spool.SizeError, *spool.ChecksumError, whereupon a durable job's
// input is empty and has to be sent again, *worker.QueueFullError, and those of
// the disk. After each of them the job still receives. One whose input has
// another SHA-256 than its spec says has failed, with an *worker.InputError.
func (w *Writer) Close(ctx context.Context, size int64, crc *uint32) error {
	j := w.job
	select {
	case <-w.lost:
		return ErrSuperseded
	default:
	}
	j.mu.Lock()
	j.touched = now()
	j.mu.Unlock()
	result := make(chan error, 1)
	j.table.recording(func() { result <- j.closeInput(size, crc) })
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
	spec, closed, ending := j.spec, j.size, j.ending
	j.mu.Unlock()
	switch {
	case closed >= 0 && closed != size:
		return worker.Invalidf("the input is closed with %d bytes, not %d", closed, size)
	case closed >= 0 || ending:
		return nil
	case spec.Size >= 0 && size != spec.Size:
		return worker.Invalidf("the input is closed with %d bytes, but has %d by its spec", size, spec.Size)
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
	if err := j.queue(blob, spec.SHA256, j.in.sum(size)); err != nil {
		return errors.Join(err, blob.Remove())
	}
	return nil
}

// queue records a durable job's input, and lets the job run on it. It should have
// the SHA-256 want, if that isn't nil, and has sum, if that is known.
func (j *Job) queue(blob *spool.Blob, want, sum []byte) error {
	if err := checkSHA256(blob, want, sum); err != nil {
		var wrong *worker.InputError
		if errors.As(err, &wrong) {
			j.finish(Result{}, err)
		}
		return err
	}
	if !j.named {
		return j.start(blob, sum)
	}
	var data []byte
	if blob.Size() <= recordedInput {
		var err error
		if data, err = readBlob(blob); err != nil {
			return err
		}
	}
	err := j.record(func(r *record) { r.State, r.InputSize, r.Input = Queued, blob.Size(), data })
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.data = data
	j.mu.Unlock()
	if err := j.start(blob, sum); err != nil || data == nil {
		return err
	}
	if err := j.in.remove(); err != nil { // the record has it
		j.log().Warn("input not removed", "err", err)
	}
	return nil
}

func readBlob(b *spool.Blob) ([]byte, error) {
	r, err := b.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// checkSHA256 compares the payload's digest, if there is one to compare with. It
// reads the payload unless sum is it. A payload that differs is an
// *worker.InputError.
func checkSHA256(b *spool.Blob, want, sum []byte) error {
	if len(want) == 0 {
		return nil
	}
	if sum == nil {
		r, err := b.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, r); err != nil {
			return fmt.Errorf("read input: %w", err)
		}
		sum = hash.Sum(nil)
	}
	if subtle.ConstantTimeCompare(sum, want) == 0 {
		return worker.Invalidf("the input has the SHA-256 %x, not %x as its spec says", sum, want)
	}
	return nil
}
