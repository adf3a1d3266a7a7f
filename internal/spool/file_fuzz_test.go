package spool

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzFile runs steps against a File and a slice of bytes, which must agree.
func FuzzFile(f *testing.F) {
	f.Add([]byte{0, 0, 10, 0, 5, 10, 0, 0, 255, 3, 0, 0, 0, 200, 200, 4, 0, 0, 5, 0, 0})
	f.Add([]byte{0, 0, 255, 1, 0, 100, 2, 0, 255, 3, 1, 0, 1, 50, 7, 4, 1, 1, 0, 0, 9})
	const limit, budget = 1500, 2000
	data := pattern(4096)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, steps []byte) {
		s, err := Open(Config{Dir: dir, Budget: budget, Inline: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			removeFile(t, s, "f")
			wantUsage(t, s, Usage{})
		}()
		file := openFile(t, s, "f", limit)
		var model []byte
		sealed := false
		steps = steps[:min(len(steps), 300)] // each costs system calls
		for ; len(steps) >= 3; steps = steps[3:] {
			off, size := 5*int(steps[1]), 3*int(steps[2])
			switch steps[0] % 6 {
			case 0, 1: // bytes that agree
				modelPut(t, file, &model, sealed, limit, off, data[off:off+size])
			case 2: // bytes of which one doesn't, if they overlap
				p := bytes.Clone(data[off : off+size])
				if size > 0 {
					p[int(steps[0])%size] ^= 1
				}
				modelPut(t, file, &model, sealed, limit, off, p)
			case 3:
				if steps[1]%2 == 0 {
					closeFile(t, file)
				} else {
					s = crash(t, s)
				}
				file, sealed = openFile(t, s, "f", limit), false
			case 4:
				crc := crcOf(model) + uint32(steps[1]%2)
				_, err := file.Seal(int64(len(model))-int64(steps[2]%2), crc)
				if want := steps[1]%2 == 0 && steps[2]%2 == 0; (err == nil) != want {
					t.Fatalf("Seal: %v, want success %v", err, want)
				} else if want {
					sealed = true
				}
			case 5:
				removeFile(t, s, "f")
				wantClosed(t, file)
				file, model, sealed = openFile(t, s, "f", limit), nil, false
			}
			if file.Committed() != int64(len(model)) || file.Sealed() != sealed {
				t.Fatalf("committed %d, sealed %v; want %d, %v", file.Committed(), file.Sealed(), len(model), sealed)
			}
			wantUsage(t, s, Usage{Bytes: int64(len(model)), Files: 1})
		}
		wantFile(t, file, model)
	})
}

// modelPut puts p into both, and checks that the outcome is the same.
func modelPut(t *testing.T, f *File, model *[]byte, sealed bool, limit, off int, p []byte) {
	t.Helper()
	n, err := f.Put(int64(off), p)
	have := len(*model)
	var (
		gap      *GapError
		conflict *ConflictError
		over     *LimitError
	)
	if off > have {
		if !errors.As(err, &gap) {
			t.Fatalf("%d bytes at %d of %d: %v, want a gap", len(p), off, have, err)
		}
		return
	}
	known := min(len(p), have-off)
	for i := range known {
		if p[i] != (*model)[off+i] {
			if !errors.As(err, &conflict) || conflict.Offset != int64(off+i) {
				t.Fatalf("%d bytes at %d of %d: %v, want a conflict at %d", len(p), off, have, err, off+i)
			}
			return
		}
	}
	switch rest := p[known:]; {
	case len(rest) > 0 && sealed:
		if !errors.Is(err, ErrSealed) {
			t.Fatalf("%d bytes at %d of %d: %v, want ErrSealed", len(p), off, have, err)
		}
	case len(rest) > 0 && have+len(rest) > limit:
		if !errors.As(err, &over) {
			t.Fatalf("%d bytes at %d of %d: %v, want a LimitError", len(p), off, have, err)
		}
	default:
		*model = append(*model, rest...)
		if err != nil || n != int64(len(*model)) {
			t.Fatalf("%d bytes at %d of %d: %d, %v", len(p), off, have, n, err)
		}
	}
}
