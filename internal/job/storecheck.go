package job

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
)

// checkStore looks for damage before bbolt uses a file. bbolt can do that, too,
// but not without risk: a panic or fault in a goroutine of its own, or pages that
// refer to each other in a circle, would end the process.
func checkStore(path string) (aside []setAside, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case info.Size() == 0:
		return nil, damaged("it is empty")
	}
	s, err := openBolt(path, true) // so that nobody writes to it now
	if err != nil {
		return nil, err
	}
	var complete bool
	err = guard(func() (err error) {
		complete, err = s.check()
		return err
	})
	if !complete {
		aside = []setAside{{"what was written last to " + path, errors.New("the page that refers to it is damaged")}}
	}
	return aside, errors.Join(err, s.closeFile())
}

// check says whether the last transaction that was written is there.
func (s *store) check() (complete bool, err error) {
	s.stuck = true
	tx, err := s.db.Begin(false)
	s.stuck = false
	if err != nil {
		return false, err
	}
	size, root, txid := tx.Size(), uint64(tx.Cursor().Bucket().Root()), uint64(tx.ID())
	if err := tx.Rollback(); err != nil {
		return false, err
	}
	if size > s.size {
		return false, damaged("it has %d bytes instead of %d", s.size, size)
	}
	c := &checker{file: s.file, pageSize: int64(s.db.Info().PageSize)}
	c.seen = make([]bool, size/c.pageSize)
	c.seen[0], c.seen[1] = true, true // they have checksums that bbolt checks
	if err := c.tree(root, nil, nil, c.records); err != nil {
		return false, err
	}
	freelist, _, err := c.meta(txid)
	if err == nil && freelist != math.MaxUint64 { // it is there
		err = c.freelist(freelist)
	}
	if err != nil {
		return false, err
	}
	// bbolt writes the two in turn, and takes the older when the newer is damaged.
	_, before, err := c.meta(txid - 1)
	return before == txid-1, err
}

// A checker checks that all that the pages of a bbolt file refer to is there,
// and that nothing is used twice. What is in them is in bbolt's internal/common;
// numbers are in the machine's byte order.
type checker struct {
	file     *os.File
	pageSize int64
	seen     []bool // by page
}

const (
	headerSize   = 16 // of a page: id uint64, flags uint16, count uint16, overflow uint32
	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10

	elementSize = 16   // in a branch: position, key size uint32, page uint64; in a leaf: flags, position, key size, value size uint32
	bucketFlag  = 0x01 // the value is a bucket: root page uint64, sequence number uint64, and a page if the root is 0
)

var order = binary.NativeEndian

// page reads a page and those that continue it.
func (c *checker) page(id uint64, want ...uint16) ([]byte, error) {
	var p []byte
	for n := int64(1); int64(len(p)) < n*c.pageSize; n = 1 + int64(order.Uint32(p[12:])) {
		if pages := uint64(len(c.seen)); id >= pages || uint64(n) > pages-id {
			return nil, damaged("page %d is beyond the end", id)
		}
		p = make([]byte, n*c.pageSize)
		if _, err := c.file.ReadAt(p, int64(id)*c.pageSize); err != nil {
			return nil, &damageError{err}
		}
	}
	if order.Uint64(p) != id || !slices.Contains(want, flagsOf(p)) {
		return nil, damaged("page %d has a wrong header", id)
	}
	for i := range c.seen[id : id+uint64(len(p))/uint64(c.pageSize)] {
		if err := c.use(id + uint64(i)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func flagsOf(page []byte) uint16 { return order.Uint16(page[8:]) }
func countOf(page []byte) uint16 { return order.Uint16(page[10:]) }

// use says whether a page is there and not used otherwise.
func (c *checker) use(id uint64) error {
	if id >= uint64(len(c.seen)) || c.seen[id] {
		return damaged("page %d is used twice or beyond the end", id)
	}
	c.seen[id] = true
	return nil
}

// tree checks the pages from a root on down. The first key of a page is that of
// the branch that refers to it: bbolt relies on that.
func (c *checker) tree(root uint64, first, end []byte, leaf func(element) error) error {
	p, err := c.page(root, branchFlag, leafFlag)
	if err != nil {
		return err
	}
	elements, err := elementsOf(p, first, end)
	if err != nil {
		return fmt.Errorf("page %d: %w", root, err)
	}
	if flagsOf(p) == leafFlag {
		for _, e := range elements {
			if err := leaf(e); err != nil {
				return fmt.Errorf("page %d: %w", root, err)
			}
		}
		return nil
	}
	if len(elements) == 0 {
		return damaged("page %d has no children", root)
	}
	for i, e := range elements {
		next := end
		if i+1 < len(elements) {
			next = elements[i+1].key
		}
		if err := c.tree(e.child, e.key, next, leaf); err != nil {
			return err
		}
	}
	return nil
}

type element struct {
	flags      uint32
	child      uint64 // page
	key, value []byte
}

// elementsOf returns the elements of a leaf or branch. Their keys ascend from
// first, if that is known, and are below end, if there is one.
func elementsOf(p []byte, first, end []byte) ([]element, error) {
	count := int(countOf(p))
	if headerSize+count*elementSize > len(p) || count == 0 && first != nil {
		return nil, damaged("it can't have %d elements", count)
	}
	elements := make([]element, count)
	for i := range elements {
		var e element
		var pos, keySize, valueSize uint32
		at := headerSize + i*elementSize
		b := p[at:]
		if flagsOf(p) == leafFlag {
			e.flags, pos = order.Uint32(b), order.Uint32(b[4:])
			keySize, valueSize = order.Uint32(b[8:]), order.Uint32(b[12:])
		} else {
			pos, keySize, e.child = order.Uint32(b), order.Uint32(b[4:]), order.Uint64(b[8:])
		}
		key := int64(at) + int64(pos)
		value := key + int64(keySize)
		after := value + int64(valueSize)
		if key < int64(headerSize+count*elementSize) || after > int64(len(p)) {
			return nil, damaged("element %d is outside of it", i)
		}
		e.key, e.value = p[key:value], p[value:after]
		elements[i] = e
		if len(e.key) == 0 || i == 0 && first != nil && !bytes.Equal(e.key, first) ||
			i > 0 && bytes.Compare(e.key, elements[i-1].key) <= 0 || end != nil && bytes.Compare(e.key, end) >= 0 {
			return nil, damaged("key %d is wrong", i)
		}
	}
	return elements, nil
}

// records checks a bucket of records, record one of them, and value one that
// isn't in a bucket.
func (c *checker) records(e element) error { return c.bucket(e, c.record) }

func (c *checker) record(e element) error {
	if e.flags == 0 {
		return nil
	}
	return c.bucket(e, c.value)
}

func (c *checker) value(e element) error {
	if e.flags != 0 {
		return damaged("%q is not a value", e.key)
	}
	return nil
}

func (c *checker) bucket(e element, leaf func(element) error) error {
	if e.flags != bucketFlag || len(e.value) < 16 {
		return damaged("%q is not a bucket", e.key)
	}
	if root := order.Uint64(e.value); root != 0 {
		return c.tree(root, nil, nil, leaf)
	}
	p := e.value[16:]
	if len(p) < headerSize || flagsOf(p) != leafFlag {
		return damaged("bucket %q is not a page", e.key)
	}
	elements, err := elementsOf(p, nil, nil)
	for _, e := range elements {
		err = errors.Join(err, leaf(e))
	}
	return err
}

// meta reads the meta page of a transaction, or what is in its place.
func (c *checker) meta(txid uint64) (freelist, found uint64, err error) {
	const offset = headerSize + 32 // freelist, number of pages and transaction, uint64 each
	p := make([]byte, offset+24)
	if _, err := c.file.ReadAt(p, int64(txid%2)*c.pageSize); err != nil {
		return 0, 0, &damageError{err}
	}
	return order.Uint64(p[offset:]), order.Uint64(p[offset+16:]), nil
}

// freelist checks the pages that are free.
func (c *checker) freelist(id uint64) error {
	p, err := c.page(id, freelistFlag)
	if err != nil {
		return err
	}
	count, ids := uint64(countOf(p)), p[headerSize:]
	if count == math.MaxUint16 { // is the first
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damaged("page %d can't list %d free pages", id, count)
	}
	for i := range count {
		if err := c.use(order.Uint64(ids[8*i:])); err != nil {
			return err
		}
	}
	return nil
}
