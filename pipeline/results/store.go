package results

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

// recordVersion is the version of the files this package writes.
const recordVersion = 1

// Record is one finished piece of work.
type Record struct {
	Version int               `json:"version"`
	Key     artifact.Digest   `json:"key"`
	Value   json.RawMessage   `json:"value"`           // what the caller stored
	Files   map[string]string `json:"files,omitempty"` // path below out/ -> name in the record's folder
	Blobs   []string          `json:"blobs,omitempty"` // files of registries the work left behind; it counts as done only while they are there
}

// Store keeps records below a directory of the cache.
type Store struct{ Dir string }

func (s Store) folder(key artifact.Digest) string { return filepath.Join(s.Dir, key.Hex()) }

// Get returns the record of key and whether it still holds: everything it
// left behind is there. A record that cannot be read counts as absent: it is
// a cache and will be written anew.
func (s Store) Get(key artifact.Digest) (Record, bool) {
	var r Record
	b, err := os.ReadFile(filepath.Join(s.folder(key), "record.json"))
	if err != nil || json.Unmarshal(b, &r) != nil || r.Version != recordVersion || r.Key != key {
		return Record{}, false
	}
	for _, path := range r.Blobs {
		if _, err := os.Stat(path); err != nil {
			return Record{}, false
		}
	}
	for _, name := range r.Files {
		if _, err := os.Stat(filepath.Join(s.folder(key), name)); err != nil {
			return Record{}, false
		}
	}
	return r, true
}

// Put stores value with copies of files (path below out -> content). It is
// there whole or not at all.
func (s Store) Put(key artifact.Digest, value any, files map[string][]byte, blobs []string) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.Dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	r := Record{Version: recordVersion, Key: key, Value: b, Files: map[string]string{}, Blobs: blobs}
	for path, content := range files {
		name := filepath.ToSlash(filepath.Clean(path))
		r.Files[path] = filepath.Join("files", name)
		if err := writeFile(filepath.Join(tmp, "files", name), content); err != nil {
			return err
		}
	}
	if b, err = json.MarshalIndent(r, "", "  "); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, "record.json"), b); err != nil {
		return err
	}
	return replaceDir(tmp, s.folder(key))
}

// replaceDir moves tmp to where path is; another process may do the same at
// the same time, then either one's result stays.
func replaceDir(tmp, path string) error {
	err := os.Rename(tmp, path)
	if err == nil || !(errors.Is(err, fs.ErrExist) || isNotEmpty(err)) {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err = os.Rename(tmp, path); isNotEmpty(err) || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Restore puts the record's files below out where they are missing or differ
// in size; what is there already is left alone.
func (s Store) Restore(r Record, out string) error {
	for path, name := range r.Files {
		from, to := filepath.Join(s.folder(r.Key), name), filepath.Join(out, path)
		a, err := os.Stat(from)
		if err != nil {
			return err
		}
		if b, err := os.Stat(to); err == nil && a.Size() == b.Size() {
			continue
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := WriteFile(to, content); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// WriteFile writes b to path whole or not at all, making its folder.
func WriteFile(path string, b []byte) error {
	return wholefile.Write(path, b, wholefile.Options{Mode: 0o644, DirMode: 0o755})
}
