package job

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

func storePath(t testing.TB) string { return filepath.Join(t.TempDir(), "jobs.db") }

// storeOpen opens a store, which must find nothing to set aside.
func storeOpen(t testing.TB, path string) (*store, map[string]string) {
	t.Helper()
	s, entries, aside := storeOpenAny(t, path)
	if len(aside) > 0 {
		t.Fatalf("set aside: %v", aside)
	}
	return s, entries
}

func storeOpenAny(t testing.TB, path string) (*store, map[string]string, []setAside) {
	t.Helper()
	s, entries, aside, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { storeClose(t, s) })
	found := map[string]string{}
	for _, e := range entries {
		found[e.id] = string(e.value)
	}
	if len(found) != len(entries) {
		t.Errorf("%d entries with %d ids", len(entries), len(found))
	}
	return s, found, aside
}

func storeClose(t testing.TB, s *store) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func storePut(t testing.TB, s *store, id, value string) {
	t.Helper()
	if err := s.put(id, []byte(value)); err != nil {
		t.Error(err)
	}
}

func storeDelete(t testing.TB, s *store, id string) {
	t.Helper()
	if err := s.delete(id); err != nil {
		t.Error(err)
	}
}

// storeDo asks for updates all at once, and waits for them.
func storeDo(s *store, batch ...*update) {
	s.mu.Lock()
	s.queue = append(s.queue, batch...)
	s.mu.Unlock()
	s.wakeUp()
	for _, u := range batch {
		<-u.done
	}
}

func newPut(id, value string) *update { return newUpdate(id, seal(id, []byte(value)), false) }
func newDelete(id string) *update     { return newUpdate(id, nil, false) }

// wantStore opens a store again.
func wantStore(t testing.TB, path string, want map[string]string) {
	t.Helper()
	s, got := storeOpen(t, path)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%.2000s", diff)
	}
	storeClose(t, s)
}

// storeMoved returns what is in the bucket of records that can't be used.
func storeMoved(t testing.TB, path string) map[string]string {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	if err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(corruptBucket).ForEach(func(k, v []byte) error {
			found[string(k)] = string(v)
			return nil
		})
	}); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	return found
}

func TestStore(t *testing.T) {
	path := storePath(t)
	s, got := storeOpen(t, path)
	if len(got) != 0 {
		t.Errorf("a new store has %v", got)
	}
	large := strings.Repeat("large", 100<<10)
	storePut(t, s, "a", "1")
	storePut(t, s, "b", "")
	storePut(t, s, "c", large)
	storePut(t, s, "d", "4")
	storePut(t, s, "a", "one")
	storeDelete(t, s, "d")
	before := s.transactions()
	storeDelete(t, s, "d")
	storeDelete(t, s, "never")
	if err := s.move("never", errors.New("no reason")); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", strings.Repeat("i", bbolt.MaxKeySize+1)} {
		if err := s.put(id, nil); err == nil {
			t.Errorf("an id of %d bytes was taken", len(id))
		}
	}
	if n := s.transactions() - before; n != 0 {
		t.Errorf("%d transactions for nothing", n)
	}
	storeClose(t, s)
	storeClose(t, s)
	for _, err := range []error{s.put("a", nil), s.delete("a"), s.move("a", nil)} {
		if !errors.Is(err, errStoreClosed) {
			t.Errorf("after close: %v", err)
		}
	}
	wantStore(t, path, map[string]string{"a": "one", "b": "", "c": large})
}

func TestStoreMove(t *testing.T) {
	path := storePath(t)
	s, _ := storeOpen(t, path)
	id := func(i int) string { return fmt.Sprintf("job-%03d", i) }
	var wg sync.WaitGroup
	for i := range keepMoved + 7 {
		wg.Go(func() {
			storePut(t, s, id(i), id(i)+" as it is")
			if err := s.move(id(i), errors.New("not JSON")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	storePut(t, s, id(3), "back")
	storeClose(t, s)
	wantStore(t, path, map[string]string{id(3): "back"})
	moved := storeMoved(t, path)
	if len(moved) != keepMoved {
		t.Errorf("%d were kept", len(moved))
	}
	if got, ok := unseal(id(50), []byte(moved[id(50)])); !ok || string(got) != "job-050 as it is" {
		t.Errorf("kept %q", moved[id(50)])
	}
}

// What is asked for during a transaction goes into the next one, in order.
func TestStoreGroups(t *testing.T) {
	path := storePath(t)
	s, _ := storeOpen(t, path)
	storePut(t, s, "b", "old")
	batch := []*update{
		newPut("a", "1"), newDelete("b"), newPut("", ""), newPut("a", "2"), newPut("c", "3"), newPut("b", "new"), newDelete("c"),
	}
	before := s.transactions()
	storeDo(s, batch...)
	for i, u := range batch {
		if fails := u.id == ""; (u.err != nil) != fails {
			t.Errorf("update %d: %v", i, u.err)
		}
	}
	if n := s.transactions() - before; n != 1 {
		t.Errorf("%d transactions", n)
	}
	storeClose(t, s)
	wantStore(t, path, map[string]string{"a": "2", "b": "new"})
}

func TestStoreConcurrent(t *testing.T) {
	path := storePath(t)
	s, _ := storeOpen(t, path)
	const putters, each = 100, 20
	want := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	before := s.transactions()
	for i := range putters {
		wg.Go(func() {
			for k := range each {
				id := fmt.Sprintf("%d/%d", i, k%7)
				value := strings.Repeat("v", rand.IntN(3000))
				storePut(t, s, id, value)
				mu.Lock()
				want[id] = value
				mu.Unlock()
				if k%3 == 0 {
					storeDelete(t, s, id)
					mu.Lock()
					delete(want, id)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	updates, n := int64(putters*(each+each/3+1)), s.transactions()-before
	t.Logf("%d updates in %d transactions", updates, n)
	if n > updates/5 {
		t.Errorf("%d updates took %d transactions", updates, n)
	}
	storeClose(t, s)
	wantStore(t, path, want)
}

// Batches have a limit.
func TestStoreTake(t *testing.T) {
	var s store
	for range maxUpdates + 1 {
		s.queue = append(s.queue, newUpdate("small", make([]byte, 10), false))
	}
	for range 3 {
		s.queue = append(s.queue, newUpdate("large", make([]byte, maxBytes/2), false))
	}
	s.queue = append(s.queue, newUpdate("huge", make([]byte, 2*maxBytes), false))
	for _, want := range []int{maxUpdates, 2, 2, 1, 0} {
		if batch, _ := s.take(); len(batch) != want {
			t.Errorf("took %d, want %d", len(batch), want)
		}
	}
}

// close waits for what is under way, and leaves no goroutine and no file.
func TestStoreClose(t *testing.T) {
	path := storePath(t)
	goroutines := runtime.NumGoroutine()
	for range 10 {
		s, _, _, err := openStore(path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var kept atomic.Int64
		for i := range 50 {
			wg.Go(func() {
				switch err := s.put(fmt.Sprint(i), []byte("v")); {
				case err == nil:
					kept.Add(1)
				case !errors.Is(err, errStoreClosed):
					t.Error(err)
				}
			})
		}
		runtime.Gosched()
		storeClose(t, s)
		wg.Wait()
		// Nobody has it open, or this would fail.
		s, entries := storeOpen(t, path)
		if len(entries) < int(kept.Load()) {
			t.Errorf("%d of %d are there", len(entries), kept.Load())
		}
		storeClose(t, s)
		if _, err := s.file.Stat(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the file is open: %v", err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, were %d", runtime.NumGoroutine(), goroutines)
		}
	}
}

func TestStoreLocked(t *testing.T) {
	t.Parallel() // it waits
	path := storePath(t)
	s, _ := storeOpen(t, path)
	storePut(t, s, "a", "1")
	_, _, _, err := openStore(path)
	if err == nil || !strings.Contains(err.Error(), "another process has "+path+" open") {
		t.Errorf("got %v", err)
	}
	storePut(t, s, "b", "2")
	storeClose(t, s)
	wantFiles(t, path, "jobs.db")
	wantStore(t, path, map[string]string{"a": "1", "b": "2"})
}

// wantFiles lists what is beside a store.
func wantFiles(t testing.TB, path string, want ...string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Name())
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files: -want +got:\n%s", diff)
	}
}

// What has nothing to do with damage is an error.
func TestStoreRefused(t *testing.T) {
	path := storePath(t)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := openStore(path); err == nil {
		t.Error("opened a directory")
	}
	wantFiles(t, path, "jobs.db")
	if _, _, _, err := openStore(filepath.Join(path, "none", "jobs.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	path = storePath(t)
	s, _ := storeOpen(t, path)
	storePut(t, s, "a", "1")
	storeClose(t, s)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	s, _, _, err := openStore(path)
	if err == nil { // root may
		storeClose(t, s)
	} else if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	wantFiles(t, path, "jobs.db")
}

// killedStore is where TestStoreSurvivesKill's child process writes.
const killedStore = "AIPOD_JOB_TEST_STORE"

// killedIDs is how many ids it writes to.
const killedIDs = 50

// killedValue depends on a number that is in it.
func killedValue(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 1+int(n%300))
}

// A process is killed at a random moment while it puts. All that it had
// reported is there, whole, and nothing has to be set aside.
func TestStoreSurvivesKill(t *testing.T) {
	if path := os.Getenv(killedStore); path != "" {
		putUntilKilled(t, path)
		return
	}
	path := storePath(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reported := map[string]uint64{}
	for round := range 10 {
		cmd := exec.Command(self, "-test.run=^TestStoreSurvivesKill$")
		cmd.Env = append(os.Environ(), killedStore+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(out)
		var ack [8]byte
		note := func() error {
			_, err := io.ReadFull(in, ack[:])
			if n := binary.BigEndian.Uint64(ack[:]); err == nil {
				id := fmt.Sprint(n % killedIDs)
				reported[id] = max(reported[id], n)
			}
			return err
		}
		for range 1 + rand.IntN(300) {
			if err := note(); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		// The child is past that by now, and in the middle of something else.
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for note() == nil {
			continue
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}

		s, found := storeOpen(t, path)
		storeClose(t, s)
		for id, n := range reported {
			value := []byte(found[id])
			if len(value) < 8 {
				t.Errorf("round %d: %d was reported, and is not there", round, n)
			} else if m := binary.BigEndian.Uint64(value); m < n || !bytes.Equal(value, killedValue(m)) {
				t.Errorf("round %d: %d was reported, and %d is there in %d bytes", round, n, m, len(value))
			}
		}
	}
	t.Logf("%d is the last of all", slices.Max(slices.Collect(maps.Values(reported))))
}

// putUntilKilled puts from a few goroutines, each to ids of its own, and reports
// what is durable.
func putUntilKilled(t *testing.T, path string) {
	s, found := storeOpen(t, path)
	next := uint64(killedIDs)
	for _, v := range found {
		next = max(next, (binary.BigEndian.Uint64([]byte(v))/killedIDs+1)*killedIDs)
	}
	const putters = 5
	for i := range uint64(putters) {
		go func() {
			for n := next + i; ; n += putters {
				err := s.put(fmt.Sprint(n%killedIDs), killedValue(n))
				if err == nil {
					_, err = os.Stdout.Write(binary.BigEndian.AppendUint64(nil, n))
				}
				if err != nil {
					panic(err)
				}
			}
		}()
	}
	select {}
}

// damagedStore makes a store with n records and a deleted one, and returns its
// bytes.
func damagedStore(t testing.TB, n int) (path string, want map[string]string, data []byte) {
	t.Helper()
	path = storePath(t)
	s, _ := storeOpen(t, path)
	want = map[string]string{}
	var batch []*update
	for i := range n {
		id := fmt.Sprintf("job-%03d", i)
		want[id] = strings.Repeat(id+" ", 10+i*i%300)
		batch = append(batch, newPut(id, want[id]))
	}
	storeDo(s, batch...)
	storePut(t, s, "more", "v")
	storeDelete(t, s, "more")
	storePut(t, s, "bad", "v")
	if err := s.move("bad", errors.New("bad")); err != nil {
		t.Fatal(err)
	}
	storeClose(t, s)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, want, data
}

// Damaged records are set aside, and only they.
func TestStoreDamagedRecord(t *testing.T) {
	path, want, data := damagedStore(t, 60)
	for i := 5; i < 60; i += 20 { // where its last version is, as are older ones
		id := fmt.Sprintf("job-%03d", i)
		for at := 0; ; at++ {
			next := bytes.Index(data[at:], []byte(id+" "+id))
			if next < 0 {
				break
			}
			at += next
			data[at+12] ^= 0x10
		}
		delete(want, id)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, got, aside := storeOpenAny(t, path)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%.2000s", diff)
	}
	if len(aside) != 3 || !strings.Contains(aside[1].what, `job "job-025" in `+path+", which is in its bucket corrupt now") ||
		!strings.Contains(aside[1].err.Error(), "checksum") {
		t.Errorf("set aside: %v", aside)
	}
	storePut(t, s, "job-025", "new")
	want["job-025"] = "new"
	storeClose(t, s)
	wantStore(t, path, want) // once is enough
	if moved := storeMoved(t, path); len(moved) != 4 || moved["job-005"] == "" {
		t.Errorf("moved %q", moved)
	}
	wantFiles(t, path, "jobs.db")
}

// A file that can't be used is renamed, and there is a new one.
func TestStoreDamagedFile(t *testing.T) {
	garbage := make([]byte, 5*4096)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	pageSize := os.Getpagesize()
	for name, damage := range map[string]func([]byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"a byte":      func([]byte) []byte { return []byte("x") },
		"text":        func([]byte) []byte { return bytes.Repeat([]byte("not a database\n"), 10_000) },
		"zeros":       func(b []byte) []byte { return make([]byte, len(b)) },
		"first pages": func(b []byte) []byte { copy(b, garbage); return b },
		"other pages": func(b []byte) []byte { copy(b[2*pageSize:], garbage); copy(b[7*pageSize:], garbage); return b },
		"half":        func(b []byte) []byte { return b[:storePages(b)*pageSize/2] },
		"two pages":   func(b []byte) []byte { return b[:2*pageSize] },
		"odd end":     func(b []byte) []byte { return b[:storePages(b)*pageSize-1] },
		"free list": func(b []byte) []byte {
			root, list := order.Uint64(storeMeta(b)[32:]), order.Uint64(storeMeta(b)[48:])
			order.PutUint64(b[list*uint64(pageSize)+headerSize:], root)
			return b
		},
		"circle": func(b []byte) []byte {
			for i := range storePages(b) {
				page := b[i*pageSize:][:pageSize]
				if flagsOf(page) == branchFlag { // or was, in older versions
					order.PutUint64(page[headerSize+8:], uint64(i))
				}
			}
			return b
		},
		"version": func(b []byte) []byte {
			b[20]++
			b[pageSize+20]++
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, _, data := damagedStore(t, 60)
			data = damage(data)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range 2 { // within a second
				s, got, aside := storeOpenAny(t, path)
				if len(got) != 0 || len(aside) != 1 {
					t.Fatalf("%d records, set aside: %v", len(got), aside)
				}
				t.Logf("%s: %v", aside[0].what, aside[0].err)
				storePut(t, s, "a", "1")
				storeClose(t, s)
				wantStore(t, path, map[string]string{"a": "1"})
				renamed, err := filepath.Glob(path + ".corrupt-2*")
				if err != nil || len(renamed) != i+1 || !strings.Contains(aside[0].what, filepath.Base(renamed[i])) {
					t.Fatalf("renamed: %v, %v", renamed, err)
				}
				if was, err := os.ReadFile(renamed[i]); err != nil || !bytes.Equal(was, data) {
					t.Errorf("%s has changed: %v", renamed[i], err)
				}
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// storeMeta is the newer meta page of a file, as far as there are numbers in it.
func storeMeta(b []byte) []byte {
	p0, p1 := b[:72], b[os.Getpagesize():][:72]
	if order.Uint64(p1[64:]) > order.Uint64(p0[64:]) {
		return p1
	}
	return p0
}

// storePages is how many pages of a file are in use.
func storePages(b []byte) int { return int(order.Uint64(storeMeta(b)[56:])) }

// bbolt takes an older state when the newest is damaged.
func TestStoreDamagedState(t *testing.T) {
	path, want, data := damagedStore(t, 60)
	storeMeta(data)[40]++
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, got, aside := storeOpenAny(t, path)
	want["bad"] = "v" // that it moved was the last
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%.2000s", diff)
	}
	if len(aside) != 1 || !strings.Contains(aside[0].what, "was written last to "+path) {
		t.Errorf("set aside: %v", aside)
	}
	storePut(t, s, "bad", "good")
	want["bad"] = "good"
	storeClose(t, s)
	wantStore(t, path, want)
}

// A page may say that it has less than it has.
func TestStoreDamagedCount(t *testing.T) {
	path, want, data := damagedStore(t, 60)
	for page := range slices.Chunk(data, os.Getpagesize()) {
		if flagsOf(page) == leafFlag && countOf(page) > 1 && bytes.Contains(page, []byte("job-")) { // older versions, too
			order.PutUint16(page[10:], countOf(page)-1)
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, got, aside := storeOpenAny(t, path)
	if len(got) == 0 || len(got) >= len(want) {
		t.Errorf("%d records", len(got))
	}
	lost := fmt.Sprintf("%d records are there, and %d were put", len(got), len(want))
	if kept := fmt.Sprintf(", except for %d records", len(got)); len(aside) != 1 ||
		!strings.Contains(aside[0].what, "jobs.db.corrupt-") || !strings.HasSuffix(aside[0].what, kept) || aside[0].err.Error() != lost {
		t.Errorf("set aside: %v", aside)
	}
	storePut(t, s, "a", "1")
	got["a"] = "1"
	storeClose(t, s)
	wantStore(t, path, got)
}

// Whatever is damaged, the store opens and works. Nothing is lost without a
// word, and nothing is there that wasn't put.
func FuzzStoreDamage(f *testing.F) {
	path, want, data := damagedStore(f, 60)
	used := storePages(data) * os.Getpagesize()
	for range 30 {
		at := rand.IntN(used)
		f.Add(uint32(at), []byte{1 << rand.IntN(8)})
		f.Add(uint32(at/4096*4096+rand.IntN(300)), []byte{1 << rand.IntN(8)}) // headers and elements
	}
	f.Add(uint32(os.Getpagesize()+64), []byte{1})
	f.Fuzz(func(t *testing.T, at uint32, mask []byte) {
		b := bytes.Clone(data)
		for i, m := range mask {
			b[(int(at)%used+i)%used] ^= m
		}
		path := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, got, aside := storeOpenAny(t, path)
		if len(aside) == 0 && !cmp.Equal(want, got) {
			t.Errorf("nothing was set aside, and -want +got:\n%.2000s", cmp.Diff(want, got))
		}
		for id, v := range got {
			if want[id] != v && id != "more" && id != "bad" { // an older transaction had these two
				t.Errorf("%q wasn't put under %q", v, id)
			}
		}
		for round := range 3 { // until all pages have changed
			var batch []*update
			for i := round; i < 100; i += 3 {
				id := fmt.Sprintf("job-%03d", i)
				if i%4 == 0 {
					batch = append(batch, newDelete(id))
					delete(got, id)
				} else {
					batch = append(batch, newPut(id, "new"))
					got[id] = "new"
				}
			}
			storeDo(s, batch...)
			for _, u := range batch {
				if u.err != nil {
					t.Error(u.err)
				}
			}
		}
		storeClose(t, s)
		wantStore(t, path, got)
	})
}

// A panic in bbolt, here for a file that someone made shorter, ends the store
// and not the process.
func TestStoreTruncatedWhileOpen(t *testing.T) {
	path, _, _ := damagedStore(t, 60)
	s, _ := storeOpen(t, path)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.put("a", []byte("1")); err == nil {
			t.Error("put")
		} else {
			t.Log(err)
		}
	}
	storeClose(t, s)
	s, _, aside := storeOpenAny(t, path)
	if len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	storePut(t, s, "a", "1")
}

func BenchmarkStore(b *testing.B) {
	for _, putters := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("putters=%d", putters), func(b *testing.B) {
			s, _ := storeOpen(b, storePath(b))
			value := make([]byte, 1024)
			before := s.transactions()
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range putters {
				wg.Go(func() {
					for n.Add(1) <= int64(b.N) {
						if err := s.put(fmt.Sprintf("01937c5e-%08d", rand.IntN(10_000)), value); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
			b.ReportMetric(float64(b.N)/float64(s.transactions()-before), "puts/transaction")
		})
	}
}
