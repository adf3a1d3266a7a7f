package tabular

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	fileFormat   = "aipod.tabular.1"
	fileSuffix   = ".json"
	brokenSuffix = ".corrupt"
	tempPrefix   = ".new-" // no version's name starts with a dot
)

// A store keeps versions as files, one each, that are whole or absent whenever
// the process or the machine stops. It has no lock of its own.
type store struct {
	dir string
}

// A versionFile is what a file holds. The checksum is over the text of Model.
type versionFile struct {
	Format string          `json:"format"`
	CRC32C uint32          `json:"crc32c"`
	Model  json.RawMessage `json:"model"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SetAside is a version file that could not be used when the model was opened.
type SetAside struct {
	Path string // where it is now: NAME.corrupt, or in its place if even that failed
	Err  error  // what is wrong with it
}

// openStore makes the directory, removes leftovers of writes that were cut
// short, and names the versions that can be read.
func openStore(dir string) (*store, []string, []SetAside, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, nil, fmt.Errorf("open versions: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open versions: %w", err)
	}
	s := &store{dir: dir}
	var names []string
	var aside []SetAside
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), tempPrefix) {
			// Failing to remove it costs space, nothing else.
			_ = os.Remove(path)
			continue
		}
		name, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		_, err := s.read(name)
		if err == nil {
			names = append(names, name)
			continue
		}
		var unread *fs.PathError
		if !errors.As(err, &unread) { // it was read, and is no version
			if renamed := os.Rename(path, path+brokenSuffix); renamed == nil {
				path += brokenSuffix
			}
		}
		aside = append(aside, SetAside{Path: path, Err: err})
	}
	return s, names, aside, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name+fileSuffix) }

func (s *store) read(name string) (*version, error) {
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	var file versionFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read version %q: %w", name, err)
	}
	if file.Format != fileFormat {
		return nil, fmt.Errorf("read version %q: format is %q, not %q", name, file.Format, fileFormat)
	}
	if sum := crc32.Checksum(file.Model, castagnoli); sum != file.CRC32C {
		return nil, fmt.Errorf("read version %q: checksum is %08x, not %08x", name, sum, file.CRC32C)
	}
	v := new(version)
	if err := json.Unmarshal(file.Model, v); err != nil {
		return nil, fmt.Errorf("read version %q: %w", name, err)
	}
	if v.Name != name {
		return nil, fmt.Errorf("read version %q: it holds %q", name, v.Name)
	}
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("read version %q: %w", name, err)
	}
	return v, nil
}

// write puts a version in the place of the one of that name. When it returns
// nil, the version outlives a crash of the machine; when not, the former one is
// still there.
func (s *store) write(v *version) (err error) {
	model, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	data, err := json.Marshal(versionFile{Format: fileFormat, CRC32C: crc32.Checksum(model, castagnoli), Model: model})
	if err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path(v.Name))
	}
	if err != nil {
		return fmt.Errorf("write version: %w", errors.Join(err, os.Remove(f.Name())))
	}
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return nil
}

// syncDir makes a rename durable, where directories can be synced.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
