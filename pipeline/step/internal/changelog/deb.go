package changelog

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"drydock/modules/mirror/debian/deb"
)

// maxChangelog bounds a changelog unpacked; the largest real ones have 5 MB.
const maxChangelog = 64 << 20

// ErrNone is in the chain when a package carries no changelog of its own.
var ErrNone = errors.New("the package carries no changelog")

// FromDeb parses the changelog a binary package carries. Its source package's
// name is that of the newest entry.
func FromDeb(file string) ([]Entry, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err := deb.Open(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path.Base(file), err)
	}
	var entries []Entry
	best := 0
	err = p.Walk(func(h *tar.Header, r io.Reader) error {
		rank := rankOf(h)
		if rank <= best {
			return nil
		}
		r = io.LimitReader(r, maxChangelog)
		if strings.HasSuffix(h.Name, ".gz") {
			z, err := gzip.NewReader(r)
			if err != nil {
				return err
			}
			defer func() { _ = z.Close() }()
			r = io.LimitReader(z, maxChangelog)
		}
		found, err := Parse(r)
		if err != nil {
			return nil // an upstream changelog in its own format
		}
		entries, best = found, rank
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path.Base(file), err)
	}
	if entries == nil {
		return nil, fmt.Errorf("reading %s: %w", path.Base(file), ErrNone)
	}
	return entries, nil
}

// rankOf prefers Debian's changelog; a native package has only changelog.
func rankOf(h *tar.Header) int {
	if h.Typeflag != tar.TypeReg {
		return 0
	}
	dir, base := path.Split(path.Clean("/" + h.Name))
	if !strings.HasPrefix(dir, "/usr/share/doc/") {
		return 0
	}
	switch base {
	case "changelog.Debian.gz", "changelog.Debian":
		return 2
	case "changelog.gz", "changelog":
		return 1
	}
	return 0
}
