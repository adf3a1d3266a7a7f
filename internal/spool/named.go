package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// An entry is what the Spool knows about a durable payload, open or not.
type entry struct {
	size atomic.Int64 // bytes, all counted in Spool.used
	made bool         // there is a file; changed with both mu and Spool.mu held

	mu     sync.Mutex // held while the file is opened, closed or removed; taken before File.mu
	open   *File      // nil when nobody has it open
	gone   bool       // no longer the entry of its name
	failed error      // of the fsync that failed; guarded by the mu of the File that is open
}

// FileInfo describes a durable payload.
type FileInfo struct {
	Name string
	Size int64 // bytes
}

const blockSize = 64 << 10

// block is a buffer for reading, to be put back into blocks.
func (s *Spool) block() *[blockSize]byte {
	if b, ok := s.blocks.Get().(*[blockSize]byte); ok {
		return b
	}
	return new([blockSize]byte)
}

func (s *Spool) namedDir() string { return filepath.Join(s.cfg.Dir, "named") }

func checkName(name string) error {
	ok := len(name) >= 1 && len(name) <= 128 && name[0] != '.' && filepath.IsLocal(name) // some systems reserve names
	for i := 0; ok && i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("%.140q can't be the name of a payload", name)
	}
	return nil
}

// adopt counts the durable payloads that an earlier process left.
func (s *Spool) adopt() error {
	found, err := os.ReadDir(s.namedDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range found {
		if !d.Type().IsRegular() || checkName(d.Name()) != nil {
			continue // not of this package
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := &entry{made: true}
		e.size.Store(info.Size())
		s.named[d.Name()] = e
		s.used += info.Size()
		s.files++
	}
	return nil
}

// lock returns the locked entry of a name, or nil when there is none and none
// is to be made.
func (s *Spool) lock(name string, create bool) *entry {
	for {
		s.mu.Lock()
		e := s.named[name]
		if e == nil {
			if !create {
				s.mu.Unlock()
				return nil
			}
			e = new(entry)
			s.named[name] = e
		}
		s.mu.Unlock()
		e.mu.Lock()
		if !e.gone {
			return e
		}
		e.mu.Unlock()
	}
}

// forget drops a locked entry and what is counted for it.
func (s *Spool) forget(name string, e *entry) {
	e.gone = true
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.named, name)
	s.used -= e.size.Load()
	if e.made {
		s.files--
	}
}

// OpenFile opens the durable payload with a name of 1 to 128 characters out of
// [A-Za-z0-9_.-] that doesn't start with a dot. What an earlier File or process
// put into it is there; if there is nothing it is made. It may grow to limit
// bytes, 0 for no limit but the budget. Closing it is up to the caller.
//
// A name can be open once: a second time the error is ErrOpen.
func (s *Spool) OpenFile(name string, limit int64) (*File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	e := s.lock(name, true)
	defer e.mu.Unlock()
	if e.open != nil {
		return nil, ErrOpen
	}
	f := &File{spool: s, entry: e, limit: limit, path: filepath.Join(s.namedDir(), name)}
	if err := f.openOrMake(); err != nil {
		if !e.made {
			s.forget(name, e)
		}
		return nil, err
	}
	e.open = f
	return f, nil
}

// AdoptFile makes the file at path, on the spool's file system, the durable
// payload with a name, of which there must be none. Another process may still be
// writing to it; bytes count once Grow says that they are there. The file keeps
// the name that it had as well.
func (s *Spool) AdoptFile(name, path string, limit int64) (*File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	e := s.lock(name, true)
	defer e.mu.Unlock()
	if e.open != nil || e.made {
		return nil, ErrOpen
	}
	f := &File{spool: s, entry: e, limit: limit, path: filepath.Join(s.namedDir(), name)}
	if err := f.link(path); err != nil {
		s.forget(name, e)
		return nil, err
	}
	e.open = f
	return f, nil
}

// link makes the file another name of the one at path.
func (f *File) link(path string) error {
	err := os.Link(path, f.path)
	if errors.Is(err, fs.ErrNotExist) { // perhaps only the directory
		if err = f.spool.makeNamedDir(); err == nil {
			err = os.Link(path, f.path)
		}
	}
	if err != nil {
		return diskError(err)
	}
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("open payload: %w", err), os.Remove(f.path))
	}
	f.made(file)
	return nil
}

func (f *File) openOrMake() error {
	s, e := f.spool, f.entry
	if !e.made {
		return f.create()
	}
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open payload: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open payload: %w", err), file.Close())
	}
	f.file = file
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += info.Size() - e.size.Swap(info.Size()) // equal, unless someone else wrote to it
	return nil
}

// create makes the file, which must not exist: on a file system that ignores
// case, it might be that of another name.
func (f *File) create() error {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	file, err := os.OpenFile(f.path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // the first one: there is no directory yet
		if err = f.spool.makeNamedDir(); err == nil {
			file, err = os.OpenFile(f.path, flags, 0o600)
		}
	}
	if err != nil {
		return diskError(err)
	}
	f.made(file)
	return nil
}

// made takes the file that now has the name.
func (f *File) made(file *os.File) {
	f.file = file
	f.spool.mu.Lock()
	defer f.spool.mu.Unlock()
	f.entry.made = true
	f.spool.files++
}

// makeNamedDir makes a directory that is there after a power failure, too.
func (s *Spool) makeNamedDir() error {
	if err := os.Mkdir(s.namedDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(s.cfg.Dir)
}

// OpenSealed returns the durable payload with a name as a Blob, without reading
// it. That it was sealed is for the caller to know, from a record that it wrote
// after Seal and that also has the size to compare with; only a File that is
// open now and isn't sealed is refused, with ErrOpen. If there is no such
// payload the error is fs.ErrNotExist.
func (s *Spool) OpenSealed(name string) (*Blob, error) {
	e := s.lock(name, false)
	if e == nil {
		return nil, fmt.Errorf("open payload %.140q: %w", name, fs.ErrNotExist)
	}
	defer e.mu.Unlock()
	if e.open != nil && !e.open.Sealed() {
		return nil, ErrOpen
	}
	return &Blob{spool: s, size: e.size.Load(), path: filepath.Join(s.namedDir(), name), durable: true}, nil
}

// Files lists the durable payloads by name. It does no I/O.
func (s *Spool) Files() []FileInfo {
	s.mu.Lock()
	var list []FileInfo
	for name, e := range s.named {
		if e.made {
			list = append(list, FileInfo{Name: name, Size: e.size.Load()})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b FileInfo) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// RemoveFile removes the durable payload with a name and frees what it takes;
// if it is open it is closed first, and its methods say ErrClosed from then on.
// If there is none, it does nothing. After an error the payload is still there,
// closed, and can be removed again.
//
// After a power failure a payload may be back: at its start, a caller removes
// what Files lists and it has no record of.
func (s *Spool) RemoveFile(name string) error {
	e := s.lock(name, false)
	if e == nil {
		return nil
	}
	defer e.mu.Unlock()
	var closeErr error
	if e.open != nil {
		closeErr = e.open.close()
	}
	err := os.Remove(filepath.Join(s.namedDir(), name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove payload: %w", errors.Join(closeErr, err))
	}
	s.forget(name, e) // what Close couldn't write no longer matters
	return nil
}
