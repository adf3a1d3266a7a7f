// Package spool keeps payloads while jobs need them: in memory when they are
// small, else each in one file, within a byte budget over all of them.
//
// It is not a store: nothing in it outlives the process unless a caller names
// it, and leftovers of an earlier process are removed by Open. What has a name,
// a File, is there until RemoveFile, and counts against the budget.
//
// A Spool is safe for concurrent use, and so are a File and a Blob, which is
// immutable. A Writer belongs to one goroutine, except for Size. A directory
// belongs to one Spool.
package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/dustin/go-humanize"
)

// Config sets the limits of a Spool. The zero value of each field but Dir has a
// usable meaning.
type Config struct {
	// Dir holds the files. It is made when missing; files of this package that
	// an earlier process left in it are removed, except for those with names,
	// in its directory named.
	Dir string
	// Budget is the most bytes that all payloads together may take, default no
	// limit but the disk.
	Budget int64
	// Inline is the largest payload that stays in memory, default 1 MiB,
	// negative for none.
	Inline int
	// InlineTotal is the most memory that all such payloads together may take,
	// default 64 MiB; past it payloads go to files at once.
	InlineTotal int64
}

const filePrefix = "payload-"

// A Spool hands out Writers and Files, and accounts for what they and their
// Blobs hold.
type Spool struct {
	cfg    Config
	blocks sync.Pool // of *[blockSize]byte

	mu     sync.Mutex
	used   int64 // bytes of payload, in memory and in files
	inline int64 // capacity of the in-memory buffers
	files  int   // open or sealed, not yet removed
	named  map[string]*entry
}

// Open makes the directory, removes what an earlier process left in it without
// a name, and counts what has one, even if that is more than the budget.
func Open(cfg Config) (*Spool, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open spool: no directory given")
	}
	if cfg.Inline == 0 {
		cfg.Inline = 1 << 20
	}
	if cfg.InlineTotal == 0 {
		cfg.InlineTotal = 64 << 20
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filePrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(cfg.Dir, e.Name())); err != nil {
			return nil, fmt.Errorf("open spool: remove leftover: %w", err)
		}
	}
	s := &Spool{cfg: cfg, named: map[string]*entry{}}
	if err := s.adopt(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

// Usage is what a Spool holds.
type Usage struct {
	Bytes  int64 // of payload, in memory and in files
	Inline int64 // bytes of memory
	Files  int
}

// Usage tells what the spool holds now.
func (s *Spool) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{Bytes: s.used, Inline: s.inline, Files: s.files}
}

// Fits says whether size more bytes are within the budget now; if not, the
// error is a *BudgetError.
func (s *Spool) Fits(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fits(size)
}

func (s *Spool) fits(size int64) error {
	if s.cfg.Budget > 0 && size > max(s.cfg.Budget-s.used, 0) {
		return &BudgetError{Budget: s.cfg.Budget, Used: s.used}
	}
	return nil
}

// reserve takes size bytes of the budget.
func (s *Spool) reserve(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fits(size); err != nil {
		return err
	}
	s.used += size
	return nil
}

func (s *Spool) release(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= size
}

// growInline accounts for n more (or fewer) bytes of memory and says whether
// they are to be had.
func (s *Spool) growInline(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.inline+int64(n) > s.cfg.InlineTotal {
		return false
	}
	s.inline += int64(n)
	return true
}

func (s *Spool) createFile() (*os.File, error) {
	f, err := os.CreateTemp(s.cfg.Dir, filePrefix+"*")
	if err != nil {
		return nil, diskError(err)
	}
	s.mu.Lock()
	s.files++
	s.mu.Unlock()
	return f, nil
}

func (s *Spool) removeFile(path string) error {
	err := os.Remove(path)
	s.mu.Lock()
	s.files--
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove payload: %w", err)
	}
	return nil
}

// A LimitError is a payload that is larger than its Writer or File allows.
type LimitError struct {
	Limit int64 // bytes
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("payload is larger than the limit of %s", humanize.IBytes(uint64(e.Limit)))
}

// A BudgetError is a payload that does not fit into the spool now.
type BudgetError struct {
	Budget, Used int64 // bytes
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the spool is full: %s of %s are in use",
		humanize.IBytes(uint64(e.Used)), humanize.IBytes(uint64(e.Budget)))
}

// A DiskFullError is a write that the file system had no room for.
type DiskFullError struct {
	cause error
}

func (e *DiskFullError) Error() string { return "the disk of the spool is full" }
func (e *DiskFullError) Unwrap() error { return e.cause }

// DiskError returns an error that says that a disk is full as a *DiskFullError,
// and any other as it is.
func DiskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return &DiskFullError{cause: err}
	}
	return err
}

// diskError tells a full disk from other errors.
func diskError(err error) error {
	var full *DiskFullError
	if err = DiskError(err); errors.As(err, &full) {
		return err
	}
	return fmt.Errorf("write payload: %w", err)
}
