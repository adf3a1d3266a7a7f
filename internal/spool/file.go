package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// A File is a durable payload: it has a name and outlives the process. Bytes
// are put at offsets, so that a sender that was cut off may repeat itself, and
// never change once they are there.
//
// All methods are safe for concurrent use. Puts take turns; readers never wait
// for them.
//
// What was put is in the hands of the operating system and survives the death
// of the process, however sudden. Only what was sealed survives that of the
// machine: after a power failure a file that wasn't sealed may be shorter than
// it was, or have zeros at its end, which the checksum given to Seal shows.
type File struct {
	spool *Spool
	entry *entry
	path  string
	limit int64 // bytes, 0 for none
	file  *os.File
	grown signal

	closed atomic.Bool // set under mu
	sealed atomic.Bool // set under mu

	mu      sync.Mutex // held by whoever adds bytes or changes the state
	crc     uint32     // of the first summed bytes
	summed  int64      // less than what is committed after a reopening
	early   bool       // bytes go to the disk before Seal
	started int64      // how many were told to, of those that are committed

	sumMu sync.Mutex // held by whoever lets summed catch up; taken before mu
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors that a caller may have to tell apart.
var (
	// ErrOpen is what OpenFile says about a name that is open already, and
	// OpenSealed about one that is open and not sealed yet.
	ErrOpen = errors.New("the payload is open already")
	// ErrClosed is what a File says that was closed or removed.
	ErrClosed = errors.New("the payload is closed or removed")
	// ErrSealed is what Put says about new bytes for a sealed File.
	ErrSealed = errors.New("the payload is complete and takes no more bytes")
)

// Committed is how many bytes there are. It never waits for the disk.
func (f *File) Committed() int64 { return f.entry.size.Load() }

// Sealed says whether Seal has succeeded.
func (f *File) Sealed() bool { return f.sealed.Load() }

// Put puts p at off, and returns how many bytes are committed then, whether it
// succeeded or not.
//
// Where p overlaps with what is there, the two must be equal, else the error is
// a *ConflictError and nothing is added. A repeated Put is therefore harmless,
// also on a sealed File. What is beyond is appended. An off beyond what is
// committed is a *GapError.
//
// A *LimitError and a *BudgetError add nothing. After a *DiskFullError, or any
// other failure to write, the bytes that were written are kept and committed.
// No error of these sticks: when there is room again, the same Put succeeds.
func (f *File) Put(off int64, p []byte) (committed int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	committed = f.Committed()
	if err := f.usable(); err != nil {
		return committed, err
	}
	if off < 0 {
		return committed, fmt.Errorf("write payload: negative offset %d", off)
	}
	if off > committed {
		return committed, &GapError{Committed: committed, Offset: off}
	}
	known := min(int64(len(p)), committed-off)
	if err := f.compare(off, p[:known]); err != nil {
		return committed, err
	}
	return f.add(committed, p[known:])
}

// add appends p to the committed bytes.
func (f *File) add(committed int64, p []byte) (int64, error) {
	size := int64(len(p))
	switch {
	case size == 0:
		return committed, nil
	case f.sealed.Load():
		return committed, ErrSealed
	case f.limit > 0 && size > f.limit-committed:
		return committed, &LimitError{Limit: f.limit}
	}
	if err := f.spool.reserve(size); err != nil {
		return committed, err
	}
	n, err := f.writeAt(p, committed)
	if n > 0 {
		if f.summed == committed {
			f.crc = crc32.Update(f.crc, castagnoli, p[:n])
			f.summed += int64(n)
		}
		committed += int64(n)
		f.entry.size.Store(committed)
		f.startWriting(committed)
		f.grown.send()
	}
	if err != nil {
		f.spool.release(size - int64(n))
		err = diskError(err)
	}
	return committed, err
}

// Grow says that another process has written the first size bytes of the file,
// and will not change them. Fewer than there are already is an error, as are more
// than the file has, *LimitError and *BudgetError; the bytes then don't count.
func (f *File) Grow(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	committed := f.Committed()
	switch {
	case size == committed:
		return nil
	case size < committed:
		return fmt.Errorf("the payload has %d bytes already, not %d", committed, size)
	case f.sealed.Load():
		return ErrSealed
	case f.limit > 0 && size > f.limit:
		return &LimitError{Limit: f.limit}
	}
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("grow payload: %w", err)
	}
	if size > info.Size() {
		return &SizeError{Committed: info.Size(), Size: size}
	}
	if err := f.spool.reserve(size - committed); err != nil {
		return err
	}
	f.entry.size.Store(size)
	f.startWriting(size)
	f.grown.send()
	return nil
}

// writeBehind is how many bytes go to the disk at a time while a payload grows.
const writeBehind = 8 << 20

// WillSeal says that Seal is to come. The system then begins to write what is put
// while more arrives; left to itself it keeps gigabytes until Seal, whose fsync takes
// as long as the disk needs for all of them. A file that is removed without having
// been sealed may never need the disk.
func (f *File) WillSeal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.early = true
}

// startWriting has the system begin to write what has been committed, if that is
// worth it, without waiting for it.
func (f *File) startWriting(committed int64) {
	if n := committed - f.started; f.early && n >= writeBehind {
		startWriting(f.file, f.started, n)
		f.started = committed
	}
}

// writeAt writes p at the end of the file, and returns how much of it is there.
// After an error os.File.WriteAt doesn't count what the last write did, so the
// file's length is asked; after a crash nothing else would be known, either.
func (f *File) writeAt(p []byte, end int64) (int, error) {
	n, err := f.file.WriteAt(p, end)
	if err == nil {
		return n, nil
	}
	if info, statErr := f.file.Stat(); statErr == nil {
		n = int(min(max(info.Size()-end, 0), int64(len(p))))
	}
	return n, err
}

// compare says whether p is what is at off.
func (f *File) compare(off int64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	buf := f.spool.block()
	defer f.spool.blocks.Put(buf)
	for len(p) > 0 {
		n := min(len(p), len(buf))
		there := buf[:n]
		if err := f.read(there, off); err != nil {
			return err
		}
		if !bytes.Equal(there, p[:n]) {
			for i := range there {
				if there[i] != p[i] {
					return &ConflictError{Offset: off + int64(i)}
				}
			}
		}
		p = p[n:]
		off += int64(n)
	}
	return nil
}

// CRC32C is the checksum (Castagnoli's CRC-32, as in RFC 3720) of all committed
// bytes. It is kept up to date by Put, except after a reopening: then the first
// call reads the file once, from its start, without holding up Puts. A caller
// that resumes a large payload calls it early, so that Seal needn't read.
func (f *File) CRC32C() (uint32, error) {
	if err := f.lockSummed(); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	return f.crc, nil
}

// lockSummed locks mu when the checksum covers all that is committed. What the
// checksum lacks is read without the lock: committed bytes don't change, and
// neither a Put nor a removal should wait for gigabytes.
func (f *File) lockSummed() error {
	f.sumMu.Lock()
	defer f.sumMu.Unlock()
	for {
		f.mu.Lock()
		if err := f.usable(); err != nil {
			f.mu.Unlock()
			return err
		}
		crc, from, to := f.crc, f.summed, f.Committed()
		if from == to {
			return nil
		}
		f.mu.Unlock()

		crc, err := f.sum(crc, from, to)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.crc, f.summed = crc, to
		f.mu.Unlock()
	}
}

// sum continues a checksum over the bytes between two offsets.
func (f *File) sum(crc uint32, from, to int64) (uint32, error) {
	buf := f.spool.block()
	defer f.spool.blocks.Put(buf)
	for from < to {
		p := buf[:min(to-from, int64(len(buf)))]
		if err := f.read(p, from); err != nil {
			return 0, err
		}
		crc = crc32.Update(crc, castagnoli, p)
		from += int64(len(p))
	}
	return crc, nil
}

// Seal ends the payload: it has size bytes with the checksum crc, and takes no
// more. The file and its name are on the disk when Seal returns, at the cost of
// two fsyncs. Again with the same arguments it does nothing but return another
// Blob of the same file.
//
// A payload of another size or checksum is left as it is, with a *SizeError or
// *ChecksumError. A failed fsync is final: the kernel may have dropped what it
// couldn't write, and a second fsync wouldn't tell. Such a payload takes no more
// bytes, even when it is opened again, and can only be removed.
//
// That a file is sealed isn't recorded on the disk. The caller does that, and
// uses OpenSealed later.
func (f *File) Seal(size int64, crc uint32) (*Blob, error) {
	if !f.closed.Load() && f.Committed() != size { // before reading it all in vain
		return nil, &SizeError{Committed: f.Committed(), Size: size}
	}
	if err := f.lockSummed(); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if f.summed != size {
		return nil, &SizeError{Committed: f.summed, Size: size}
	}
	if f.crc != crc {
		return nil, &ChecksumError{Got: f.crc, Want: crc}
	}
	if !f.sealed.Load() {
		if err := f.sync(); err != nil {
			f.entry.failed = err
			return nil, err
		}
		f.sealed.Store(true)
		f.grown.send()
	}
	return &Blob{spool: f.spool, size: size, path: f.path, durable: true}, nil
}

func (f *File) sync() error {
	err := f.file.Sync()
	if err == nil {
		err = syncDir(f.spool.namedDir())
	}
	if err != nil {
		return diskError(err)
	}
	return nil
}

// ReadAt reads committed bytes, as io.ReaderAt: io.EOF means that no more are
// committed yet. After Close or a removal the error is ErrClosed.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.closed.Load() {
		return 0, ErrClosed
	}
	if off < 0 {
		return 0, fmt.Errorf("read payload: negative offset %d", off)
	}
	n := min(int64(len(p)), max(f.Committed()-off, 0))
	if n > 0 {
		if err := f.read(p[:n], off); err != nil {
			return 0, err
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// read fills p from off on.
func (f *File) read(p []byte, off int64) error {
	n, err := f.file.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, os.ErrClosed):
		return ErrClosed
	case errors.Is(err, io.EOF): // someone else made it shorter
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read payload: %w", err)
}

// Changed is closed when the File has grown, or was sealed, closed or removed.
// It never waits for the disk. To follow a File to its end, ask for the channel
// first and for everything else after:
//
//	for {
//		changed, sealed := f.Changed(), f.Sealed()
//		n, err := f.ReadAt(p, off)
//		…                             // use p[:n], add n to off
//		if n == 0 && err == io.EOF {
//			if sealed {
//				return nil
//			}
//			<-changed                 // or ctx.Done()
//		}
//	}
func (f *File) Changed() <-chan struct{} { return f.grown.wait() }

// Close lets go of the file and keeps its bytes: the name can be opened again.
// After that, and a second time, it does nothing. It syncs nothing.
func (f *File) Close() error {
	f.entry.mu.Lock()
	defer f.entry.mu.Unlock()
	return f.close()
}

// close does what Close does. Its caller holds entry.mu.
func (f *File) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed.Load() {
		return nil
	}
	f.closed.Store(true)
	f.entry.open = nil
	err := f.file.Close()
	f.grown.end()
	if err != nil {
		return diskError(err)
	}
	return nil
}

// usable says why the File can't be written to at all. Its caller holds mu.
func (f *File) usable() error {
	if f.closed.Load() {
		return ErrClosed
	}
	return f.entry.failed
}

// A signal wakes all who wait for the next change. The channel is made when
// someone waits, so that sending costs nothing when nobody does.
type signal struct {
	mu sync.Mutex
	c  chan struct{} // nil when nobody waits
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// end is the last send: the channel stays closed for who waits later.
func (s *signal) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	close(s.c)
}

// A ConflictError is a Put of bytes that differ from those that are there.
type ConflictError struct {
	Offset int64 // of the first byte that differs
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("byte %d of the payload is there already and differs", e.Offset)
}

// A GapError is a Put beyond the end of what is there.
type GapError struct {
	Committed, Offset int64 // bytes
}

func (e *GapError) Error() string {
	return fmt.Sprintf("offset %d is beyond the %d bytes of payload that are there", e.Offset, e.Committed)
}

// A SizeError is a payload that hasn't the size it is said to have.
type SizeError struct {
	Committed, Size int64 // bytes that are there, and that should be
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the payload has %d bytes, not %d", e.Committed, e.Size)
}

// A ChecksumError is a payload that hasn't the CRC32C it is said to have.
type ChecksumError struct {
	Got, Want uint32
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("the payload has crc32c %08x, not %08x", e.Got, e.Want)
}
