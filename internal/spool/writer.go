package spool

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// A Writer takes one payload, and is then sealed into a Blob or discarded.
type Writer struct {
	spool *Spool
	limit int64 // bytes, 0 for none
	size  atomic.Int64
	mem   []byte   // until it grows over Config.Inline
	file  *os.File // after that
	err   error    // sticky: what the first failed Write returned
	done  bool     // sealed or discarded
}

// Create makes a Writer for one payload of at most limit bytes, 0 for no limit
// but the budget.
func (s *Spool) Create(limit int64) *Writer {
	return &Writer{spool: s, limit: limit}
}

// Size is how many bytes were written. Any goroutine may call it.
func (w *Writer) Size() int64 { return w.size.Load() }

// Write appends p. The errors that a caller can do something about are
// *LimitError, *BudgetError and *DiskFullError; after any error the payload can
// only be discarded.
func (w *Writer) Write(p []byte) (int, error) {
	if w.done {
		return 0, errors.New("write payload: already sealed or discarded")
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.limit > 0 && int64(len(p)) > w.limit-w.size.Load() {
		w.err = &LimitError{Limit: w.limit}
		return 0, w.err
	}
	if err := w.spool.reserve(int64(len(p))); err != nil {
		w.err = err
		return 0, err
	}
	n, err := w.put(p)
	w.size.Add(int64(n))
	if err != nil {
		w.spool.release(int64(len(p) - n))
		w.err = err
	}
	return n, err
}

func (w *Writer) put(p []byte) (int, error) {
	if w.file == nil {
		if w.putInline(p) {
			return len(p), nil
		}
		if err := w.spill(); err != nil {
			return 0, err
		}
	}
	n, err := w.file.Write(p)
	if err != nil {
		err = diskError(err)
	}
	return n, err
}

func (w *Writer) putInline(p []byte) bool {
	need := len(w.mem) + len(p)
	if need > w.spool.cfg.Inline {
		return false
	}
	if need > cap(w.mem) {
		size := min(max(need, 2*cap(w.mem), 512), w.spool.cfg.Inline)
		if !w.spool.growInline(size - cap(w.mem)) {
			return false
		}
		grown := make([]byte, len(w.mem), size)
		copy(grown, w.mem)
		w.mem = grown
	}
	w.mem = append(w.mem, p...)
	return true
}

// spill moves what is in memory to a file.
func (w *Writer) spill() error {
	f, err := w.spool.createFile()
	if err != nil {
		return err
	}
	w.file = f
	if _, err := f.Write(w.mem); err != nil {
		return diskError(err)
	}
	w.dropInline()
	return nil
}

func (w *Writer) dropInline() {
	w.spool.growInline(-cap(w.mem))
	w.mem = nil
}

// Seal ends the payload and hands it over as a Blob.
func (w *Writer) Seal() (*Blob, error) {
	if w.done {
		return nil, errors.New("seal payload: already sealed or discarded")
	}
	if w.err != nil {
		return nil, w.err
	}
	b := &Blob{spool: w.spool, size: w.size.Load(), mem: w.mem}
	if w.file != nil {
		b.path = w.file.Name()
		if err := w.file.Close(); err != nil {
			w.err = diskError(err)
			return nil, w.err
		}
	}
	w.done = true
	return b, nil
}

// Discard removes the payload. After Seal, or a second time, it does nothing.
func (w *Writer) Discard() error {
	if w.done {
		return nil
	}
	w.done = true
	w.spool.release(w.size.Load())
	w.dropInline()
	if w.file == nil {
		return nil
	}
	// Closing twice after a failed Seal is harmless: the name is what matters.
	_ = w.file.Close()
	if err := w.spool.removeFile(w.file.Name()); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	return nil
}
