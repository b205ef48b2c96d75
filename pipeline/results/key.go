// Package results remembers finished work by what went into it, so that a run
// in which nothing changed needs no engine, no network and no keys.
package results

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"drydock/modules/artifact"
)

// Key collects the inputs of a piece of work into one digest. Every input is
// framed with its label and length, so that no two lists of inputs collide.
type Key struct {
	h   hash.Hash
	err error
}

// NewKey starts a key for a kind of work; bump the kind when the meaning of
// its inputs changes.
func NewKey(kind string) *Key {
	k := &Key{h: sha256.New()}
	return k.Text("kind", kind)
}

// Text adds a string.
func (k *Key) Text(label, value string) *Key {
	fmt.Fprintf(k.h, "%d:%s=%d:", len(label), label, len(value))
	io.WriteString(k.h, value) //nolint:errcheck // a hash never fails
	return k
}

// JSON adds any value by its JSON form (maps are sorted by encoding/json).
func (k *Key) JSON(label string, v any) *Key {
	b, err := json.Marshal(v)
	if err != nil && k.err == nil {
		k.err = err
	}
	return k.Text(label, string(b))
}

// Tree adds every file below dir by path, content and whether its owner may
// execute it: nothing of times, owners, inode numbers or the umask of a checkout. keep says which slash-separated paths count (nil:
// all).
func (k *Key) Tree(label, dir string, keep func(path string, d fs.DirEntry) bool) *Key {
	if k.err != nil {
		return k
	}
	k.Text(label, "tree")
	k.err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		if keep != nil && !keep(rel, d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return k.entry(rel, path, d)
	})
	return k
}

func (k *Key) entry(rel, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		sum, err := fileDigest(path)
		if err != nil {
			return err
		}
		k.Text(rel, fmt.Sprintf("%v %s", info.Mode()&0o100 != 0, sum))
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		k.Text(rel, "-> "+to)
	default:
		k.Text(rel, info.Mode().Type().String())
	}
	return nil
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Sum is the key's digest, or the first error met while collecting.
func (k *Key) Sum() (artifact.Digest, error) {
	if k.err != nil {
		return "", k.err
	}
	return artifact.Digest("sha256:" + hex.EncodeToString(k.h.Sum(nil))), nil
}

// Program identifies an executable without reading all of it: by the build id
// the Go linker put into it, which follows from its contents, else by its size
// and times.
func Program(path string) (string, error) {
	if f, err := elf.Open(path); err == nil {
		defer f.Close()
		if s := f.Section(".note.go.buildid"); s != nil {
			if b, err := s.Data(); err == nil && len(b) > 16 {
				return "go:" + string(bytes.TrimRight(b[16:], "\x00")), nil
			}
		}
	}
	return Stat(path)
}

// Stat identifies a file by size and time of change: enough to notice that it
// was replaced or written to, without opening it.
func Stat(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), nil
}

// NewContent is the digest of bytes as they are.
func NewContent(b []byte) (artifact.Digest, error) {
	sum := sha256.Sum256(b)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:])), nil
}
