// Package wholefile writes files whole or not at all: who reads the path finds
// what was there before or all of what was written, never a part of it, also
// when the disk is full, the writer is killed or two write at once (then the
// last one's file stays).
//
// A file is written under a name of its own in the folder it will lie in,
// hidden (it begins with a dot), and then renamed. Whatever fails, that file is
// removed; only a killed process leaves one, which nobody takes for the file.
package wholefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Options say what a file is to be like. The zero value is a file only its
// owner can read, in a folder that is there.
type Options struct {
	Mode    fs.FileMode // permissions, whatever the umask; 0 is 0600
	DirMode fs.FileMode // folders that are missing are made with it; 0 makes none
	Sync    bool        // outlives a power cut too: for what cannot be made again
	New     bool        // a path that is there already is an error (fs.ErrExist), and stays
	Pattern string      // of the name until it is done, as os.CreateTemp takes it; "" is ".new-*"
}

// Write writes a file of bytes.
func Write(path string, b []byte, o Options) error {
	return Fill(path, o, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// Fill writes a file of what fill writes. An error of fill is returned as it
// is, and there is no file then.
func Fill(path string, o Options, fill func(io.Writer) error) error {
	f, err := Begin(filepath.Dir(path), o)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := fill(f); err != nil {
		return err
	}
	return f.Commit(path)
}

// File is a file that has no place yet. It may be read and written as any
// other; other programs find it under its Name.
type File struct {
	*os.File
	o    Options
	done bool
}

// Begin makes an empty file in dir, for those who learn only later where it
// belongs: a download whose digest is its name. dir must be on the file system
// of that place.
func Begin(dir string, o Options) (*File, error) {
	if o.DirMode != 0 {
		if err := os.MkdirAll(dir, o.DirMode); err != nil {
			return nil, err
		}
	}
	if o.Pattern == "" {
		o.Pattern = ".new-*"
	}
	f, err := os.CreateTemp(dir, o.Pattern)
	if err != nil {
		return nil, err
	}
	return &File{File: f, o: o}, nil
}

// Commit closes the file and gives it its place; one that was there is
// replaced, unless the options say New. When it fails nothing has changed, and
// Discard removes what was written.
func (f *File) Commit(path string) error {
	var err error
	if f.o.Mode != 0 {
		// by its name: another program may have put its own file there
		err = os.Chmod(f.Name(), f.o.Mode)
	}
	if err == nil && f.o.Sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil && !errors.Is(cerr, fs.ErrClosed) {
		err = cerr
	}
	if err != nil {
		return err
	}
	if f.o.New {
		// a link and not a rename: it fails where something is
		if err := os.Link(f.Name(), path); err != nil {
			return err
		}
	} else {
		if err := os.Rename(f.Name(), path); err != nil {
			return err
		}
		f.done = true
	}
	if f.o.Sync {
		syncDir(filepath.Dir(path))
	}
	return nil
}

// Discard closes the file and removes it, unless Commit gave it its place.
func (f *File) Discard() {
	_ = f.Close()
	if !f.done {
		_ = os.Remove(f.Name())
	}
}

// syncDir makes the names in a folder outlive a power cut, where the file
// system can: not all do, and the file is in its place either way.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
