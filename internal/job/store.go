package job

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/aipod/aipod/internal/spool"
)

// A store keeps the records of jobs by id, in a bbolt file. It doesn't look
// into them.
//
// All methods are safe for concurrent use. One goroutine writes; what is asked
// of it during a transaction goes into the next one. A transaction is two
// fdatasyncs, however much is in it, and a third each time the file grows.
//
// An update that returned nil survives the death of the process and that of the
// machine. After an error, it may be there or not.
//
// On a full disk a put fails, and a later one succeeds when there is room. A
// delete succeeds nevertheless, as part of the file is kept for it; only a file
// system that copies on write or compresses may have no room for that, either.
//
// After a failed fdatasync the store writes no more: the kernel may have dropped
// what it couldn't write, and a second one wouldn't tell.
type store struct {
	transacted atomic.Int64
	wake       chan struct{} // there is more in queue, or the end
	ended      chan struct{} // closed by the writer

	mu     sync.Mutex
	queue  []*update
	closed bool

	// These are the writer's, and close's after it.
	db     *bbolt.DB
	file   *os.File // that db has open
	size   int64    // of the file, bytes
	failed error    // why nothing is written any more
	stuck  bool     // bbolt panicked and kept its locks
}

// An entry is a record as it was put.
type entry struct {
	id    string
	value []byte
}

// A setAside is for people: what isn't used any more, where it is, and why.
type setAside struct {
	what string
	err  error
}

// An update is a put, a delete or a move that someone waits for.
type update struct {
	id    string
	value []byte // sealed; nil to remove what is there
	keep  bool   // what is removed, in corruptBucket
	err   error
	done  chan struct{} // closed when err is set
}

var errStoreClosed = errors.New("the records of jobs are closed")

// Names in the file. The sequence number of a bucket is how many keys it has:
// bbolt has no checksums for its pages, and a page may lose some.
//
// A long value is in a bucket of its own, under valueKey. Otherwise, each change
// of one of its neighbors would write it again, and would need that many pages
// in a row.
var (
	jobsBucket    = []byte("jobs")
	corruptBucket = []byte("corrupt")
	valueKey      = []byte("value")
)

const (
	maxUpdates = 1000     // in a transaction
	maxBytes   = 16 << 20 // in a transaction that has more than one update
	keepMoved  = 100      // records in corruptBucket
	growStep   = 1 << 20  // bytes
	longValue  = 2 << 10  // bytes
	// storeReserve is how many bytes of the file only deletes may use. A
	// transaction writes copies of the pages it changes before it frees them:
	// for a delete about five, and the list of free ones.
	storeReserve = 1 << 20
	lockTimeout  = time.Second
)

// openStore opens a file of records, or makes it, and returns what is in it by
// id. What is damaged, records or all of the file, is set aside and no reason
// not to open it.
func openStore(path string) (s *store, entries []entry, aside []setAside, err error) {
	if _, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		err = makeStore(path, "", nil)
	}
	if err == nil {
		s, entries, aside, err = readStore(path)
	}
	var damage *damageError
	if errors.As(err, &damage) {
		old := oldName(path)
		if err = makeStore(path, old, entries); err == nil {
			what := fmt.Sprintf("%s, which is %s now, except for %d records", path, filepath.Base(old), len(entries))
			aside = []setAside{{what, damage}}
			s, entries, _, err = readStore(path)
		}
	}
	if err != nil {
		return nil, nil, nil, spool.DiskError(err)
	}
	return s, entries, aside, nil
}

// makeStore makes a file of records, and renames the one that is there, if any.
// Neither is done by halves, also after a crash.
func makeStore(path, old string, entries []entry) error {
	name := path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s, err := openBolt(name, false)
	if err != nil {
		_ = os.Remove(name)
		return err
	}
	if err = s.grow(storeReserve + growStep); err == nil {
		err = s.db.Update(func(tx *bbolt.Tx) error {
			_, err1 := tx.CreateBucket(corruptBucket)
			jobs, err2 := tx.CreateBucket(jobsBucket)
			err := errors.Join(err1, err2)
			for i := 0; i < len(entries) && err == nil; i++ {
				e := entries[i]
				err = putKey(jobs, []byte(e.id), seal(e.id, e.value))
			}
			return err
		})
	}
	err = errors.Join(err, s.db.Close())
	if err == nil && old != "" {
		err = os.Rename(path, old)
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return syncDir(filepath.Dir(path))
}

// oldName is a new name for a damaged file.
func oldName(path string) string {
	name := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	old := name
	for i := 2; ; i++ {
		if _, err := os.Lstat(old); err != nil {
			return old
		}
		old = fmt.Sprintf("%s.%d", name, i)
	}
}

// readStore opens a file of records that is there. If it is damaged, it returns
// the records that nevertheless may be used.
func readStore(path string) (*store, []entry, []setAside, error) {
	aside, err := checkStore(path)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := openBolt(path, false)
	if err != nil {
		return nil, nil, nil, err
	}
	var entries []entry
	err = guard(func() error {
		all, more, err := s.read()
		entries, aside = all, append(aside, more...)
		return err
	})
	if err != nil {
		return nil, entries, nil, errors.Join(err, s.closeFile())
	}
	go s.run()
	return s, entries, aside, nil
}

// read returns the records, after setting aside those that are damaged.
func (s *store) read() (entries []entry, aside []setAside, err error) {
	var moves []*update
	err = s.db.View(func(tx *bbolt.Tx) error {
		jobs := tx.Bucket(jobsBucket)
		if jobs == nil || tx.Bucket(corruptBucket) == nil {
			return damaged("it has no records of jobs")
		}
		err := jobs.ForEach(func(k, _ []byte) error {
			id := string(k)
			sealed, _ := getKey(jobs, k)
			if value, ok := unseal(id, sealed); ok {
				entries = append(entries, entry{id, bytes.Clone(value)})
			} else {
				moves = append(moves, newUpdate(id, nil, true))
			}
			return nil
		})
		if n, want := len(entries)+len(moves), jobs.Sequence(); uint64(n) != want {
			return damaged("%d records are there, and %d were put", n, want)
		}
		return err
	})
	if err != nil {
		return entries, nil, err
	}
	for len(moves) > 0 {
		n := min(len(moves), maxUpdates)
		s.write(moves[:n])
		for _, u := range moves[:n] {
			what := fmt.Sprintf("the record of job %.140q in %s", u.id, s.file.Name())
			if u.err == nil {
				what += ", which is in its bucket " + string(corruptBucket) + " now"
			}
			aside = append(aside, setAside{what, errors.Join(errors.New("its checksum is wrong"), u.err)})
		}
		moves = moves[n:]
	}
	return entries, aside, s.failed
}

// put keeps a value under an id, instead of the one that is there. It returns
// when that is durable.
func (s *store) put(id string, value []byte) error {
	if err := s.do(newUpdate(id, seal(id, value), false)); err != nil {
		return fmt.Errorf("keep the record of job %.140q: %w", id, err)
	}
	return nil
}

// delete removes what is there under an id, if anything is. It returns when
// that is durable.
func (s *store) delete(id string) error {
	if err := s.do(newUpdate(id, nil, false)); err != nil {
		return fmt.Errorf("remove the record of job %.140q: %w", id, err)
	}
	return nil
}

// move sets aside a record that can't be used, and why not is part of the error
// if that fails. A hundred of such records are kept, those with the last ids:
// the newest, as long as ids are UUIDv7.
func (s *store) move(id string, why error) error {
	if err := s.do(newUpdate(id, nil, true)); err != nil {
		return fmt.Errorf("set aside the record of job %.140q (%w): %w", id, why, err)
	}
	return nil
}

// transactions is how many have been written.
func (s *store) transactions() int64 { return s.transacted.Load() }

// close waits for what is under way. What is called later returns
// errStoreClosed, except for close, which does nothing.
func (s *store) close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.wakeUp()
	<-s.ended
	if closed {
		return nil
	}
	return s.closeFile()
}

func newUpdate(id string, value []byte, keep bool) *update {
	return &update{id: id, value: value, keep: keep, done: make(chan struct{})}
}

func (s *store) do(u *update) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errStoreClosed
	}
	s.queue = append(s.queue, u)
	s.mu.Unlock()
	s.wakeUp()
	<-u.done
	return u.err
}

func (s *store) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes until the store is closed and the queue is empty.
func (s *store) run() {
	defer close(s.ended)
	for {
		runtime.Gosched() // others may have something for the same transaction
		batch, closed := s.take()
		switch {
		case len(batch) > 0:
			s.write(batch)
		case closed:
			return
		default:
			<-s.wake
		}
	}
}

// take takes what the next transaction should write out of the queue.
func (s *store) take() (batch []*update, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for ; n < min(len(s.queue), maxUpdates); n++ {
		if size += len(s.queue[n].value); n > 0 && size > maxBytes {
			break
		}
	}
	batch, s.queue = s.queue[:n:n], append([]*update(nil), s.queue[n:]...) // keeps no updates that are done
	return batch, s.closed
}

// write carries out updates, in their order. When there isn't room for all it
// tries halves, so that none fails because of another.
func (s *store) write(batch []*update) {
	need, reserve := int64(0), int64(0)
	for _, u := range batch {
		need += int64(len(u.value))
		if u.value != nil {
			reserve = storeReserve
		}
	}
	err := s.transact(need, reserve, func(jobs, corrupt *bbolt.Bucket) (changed bool, err error) {
		for _, u := range batch {
			did, err := u.apply(jobs, corrupt)
			u.err = err
			changed = changed || did
		}
		return changed, nil
	})
	if half := len(batch) / 2; half > 0 && diskFull(err) {
		s.write(batch[:half])
		s.write(batch[half:])
		return
	}
	for _, u := range batch {
		if err != nil {
			u.err = err
		}
		close(u.done)
	}
}

// apply says whether there was something to change. After an error nothing has
// changed.
func (u *update) apply(jobs, corrupt *bbolt.Bucket) (changed bool, err error) {
	key := []byte(u.id)
	if u.value != nil {
		err := putKey(jobs, key, u.value)
		return err == nil, err
	}
	value, ok := getKey(jobs, key)
	if !ok {
		return false, nil
	}
	if u.keep {
		if err := putKey(corrupt, key, bytes.Clone(value)); err != nil {
			return false, err
		}
		if corrupt.Sequence() > keepMoved {
			first, _ := corrupt.Cursor().First()
			if err := deleteKey(corrupt, bytes.Clone(first)); err != nil {
				return true, err
			}
		}
	}
	return true, deleteKey(jobs, key)
}

func getKey(b *bbolt.Bucket, key []byte) (value []byte, ok bool) {
	if value = b.Get(key); value != nil {
		return value, true
	}
	if long := b.Bucket(key); long != nil {
		return long.Get(valueKey), true
	}
	return nil, false
}

func putKey(b *bbolt.Bucket, key, value []byte) error {
	if len(key) == 0 || len(key) > bbolt.MaxKeySize {
		return fmt.Errorf("an id can't have %d bytes", len(key))
	}
	short := len(value) <= longValue
	if short && b.Get(key) != nil {
		return b.Put(key, value)
	}
	if err := deleteKey(b, key); err != nil {
		return err
	}
	var err error
	if short {
		err = b.Put(key, value)
	} else {
		var long *bbolt.Bucket
		if long, err = b.CreateBucket(key); err == nil {
			err = long.Put(valueKey, value)
		}
	}
	if err != nil {
		return err
	}
	return b.SetSequence(b.Sequence() + 1)
}

func deleteKey(b *bbolt.Bucket, key []byte) error {
	del := b.Delete
	if b.Get(key) == nil {
		if b.Bucket(key) == nil {
			return nil
		}
		del = b.DeleteBucket
	}
	if err := del(key); err != nil {
		return err
	}
	return b.SetSequence(b.Sequence() - 1)
}

// transact writes a transaction, unless it changes nothing. It needs about so
// many bytes of the file and doesn't touch the last reserve bytes.
func (s *store) transact(need, reserve int64, change func(jobs, corrupt *bbolt.Bucket) (bool, error)) error {
	for need += 256 << 10; ; need *= 2 {
		if s.failed != nil {
			return s.failed
		}
		var full error // why the file can't grow
		err := guard(func() (err error) {
			full, err = s.try(need, reserve, change)
			return err
		})
		var damage *damageError
		var unwritten *fs.PathError
		switch {
		case err == nil:
			return nil
		case errors.Is(err, bbolterrors.ErrMaxSizeReached):
			if full != nil {
				return spool.DiskError(full)
			}
		case errors.As(err, &damage):
			s.failed = err
		case errors.As(err, &unwritten) && unwritten.Op == "write": // nothing refers to these pages
			return spool.DiskError(err)
		default:
			s.failed = err
		}
	}
}

// try is one attempt of transact. The file grows here, and not in bbolt, which
// would make it longer without taking the room on the disk.
func (s *store) try(need, reserve int64, change func(jobs, corrupt *bbolt.Bucket) (bool, error)) (full, err error) {
	s.stuck = true
	tx, err := s.db.Begin(true)
	if err != nil {
		s.stuck = false
		return nil, err
	}
	defer func() {
		_ = tx.Rollback() // unless it is committed
		s.stuck = false
	}()
	full = s.grow(tx.Size() + need + storeReserve)
	if runtime.GOOS != "windows" { // there, bbolt makes it as long as what it maps
		s.db.MaxSize = int(max(s.size-reserve, 1))
	}
	changed, err := change(tx.Bucket(jobsBucket), tx.Bucket(corruptBucket))
	if err != nil || !changed {
		return full, err
	}
	if err := tx.Commit(); err != nil {
		return full, err
	}
	s.transacted.Add(1)
	return full, nil
}

// grow makes the file at least so long, and takes the room on the disk. After an
// error, it is as long as it could be.
func (s *store) grow(size int64) error {
	if size <= s.size {
		return nil
	}
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.size = info.Size()
	size = (size + growStep - 1) / growStep * growStep
	zeros := make([]byte, 64<<10)
	for at := s.size; at < size && err == nil; at += int64(len(zeros)) {
		_, err = s.file.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
	}
	if serr := s.file.Sync(); serr != nil {
		return errors.Join(err, serr, s.file.Truncate(s.size))
	}
	if info, serr := s.file.Stat(); serr == nil {
		s.size = info.Size()
	}
	return err
}

func diskFull(err error) bool {
	var full *spool.DiskFullError
	return errors.As(err, &full)
}

// closeFile closes the file. One that bbolt is stuck in stays locked until the
// process ends.
func (s *store) closeFile() error {
	if s.stuck {
		return s.file.Close()
	}
	return s.db.Close()
}

// openBolt opens a file, which isn't damaged unless it is read only.
func openBolt(path string, readOnly bool) (*store, error) {
	s := &store{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	err := guard(func() (err error) {
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			ReadOnly:     readOnly,
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				s.file = f
				return f, err
			},
		})
		return err
	})
	if err == nil {
		var info fs.FileInfo
		if info, err = s.file.Stat(); err == nil {
			s.size = info.Size()
			s.db.AllocSize = 0 // it is for grow to add some
			return s, nil
		}
	}
	if s.db != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	if s.file != nil {
		_ = s.file.Close() // bbolt has done so, unless it panicked
	}
	var system syscall.Errno
	var damage *damageError
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fmt.Errorf("another process has %s open", path)
	case errors.As(err, &system), errors.As(err, &damage):
		return nil, err
	}
	return nil, &damageError{err}
}

// A damageError is a file that can't be used any more.
type damageError struct{ cause error }

func (e *damageError) Error() string { return e.cause.Error() }
func (e *damageError) Unwrap() error { return e.cause }

func damaged(format string, args ...any) error {
	return &damageError{fmt.Errorf(format, args...)}
}

// guard calls something that uses bbolt. bbolt panics when it notices damage,
// and reading mapped pages that the disk can't give or the file no longer has
// is a fault.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("bbolt: %v", p)
		}
	}()
	return f()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts the CRC-32C of an id and a value before the value.
func seal(id string, value []byte) []byte {
	sealed := make([]byte, 4+len(value))
	binary.BigEndian.PutUint32(sealed, checksum(id, value))
	copy(sealed[4:], value)
	return sealed
}

func unseal(id string, sealed []byte) (value []byte, ok bool) {
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != checksum(id, sealed[4:]) {
		return nil, false
	}
	return sealed[4:], true
}

func checksum(id string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(id), castagnoli), castagnoli, value)
}

// syncDir puts the names in a directory on the disk.
func syncDir(path string) error {
	if runtime.GOOS == "windows" { // can't
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some file systems can't, and needn't
	}
	return errors.Join(err, dir.Close())
}
