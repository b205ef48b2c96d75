package vuln

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

const (
	// MaxDatabase bounds a database unpacked; the public one has about 1.5 GB.
	MaxDatabase = 16 << 30
	// maxMembers bounds what else an archive may hold.
	maxMembers  = 100
	maxZstd     = 1 << 30
	maxKnowlege = 1 << 20
)

// Import unpacks a database as mirrors serve it (a compressed tar, or the file
// itself) to out, refuses what is not a v6 database and indexes it.
func Import(in string, want artifact.Digest, out string, limit int64) (*wire.Database, error) {
	if want != "" {
		got, err := fileDigest(in)
		if err != nil {
			return nil, err
		}
		if got != want {
			return nil, &artifact.Error{Kind: artifact.KindFault, Op: "importing vulnerability database",
				Message: fmt.Sprintf("the archive is %s, its mirror says %s", got, want), Remedy: "fetch it again; if it stays so, the mirror is broken"}
		}
	}
	if limit == 0 {
		limit = MaxDatabase
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	if err := unpack(in, out, limit); err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "importing vulnerability database", Err: err,
			Remedy: "point vulndb in mirrors.yaml at a grype database of schema v6: its latest.json, its archive or its file"}
	}
	return finish(out)
}

var sqliteMagic = []byte("SQLite format 3\x00")

// unpack finds the form by the first bytes.
func unpack(in, out string, limit int64) error {
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(f, 1<<16)
	magic, err := r.Peek(len(sqliteMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var plain io.Reader = r
	switch {
	case bytes.Equal(magic, sqliteMagic):
		return copyOut(filepath.Join(out, v6.VulnerabilityDBFileName), r, limit)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxZstd), zstd.WithDecoderMaxWindow(maxZstd), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if plain, err = gzip.NewReader(r); err != nil {
			return err
		}
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		if plain, err = xz.NewReader(r); err != nil {
			return err
		}
	}
	return unpackTar(plain, out, limit)
}

// unpackTar takes the two files it knows from a tar and passes by the rest.
func unpackTar(r io.Reader, out string, limit int64) error {
	found := false
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("neither a database nor an archive of one: %w", err)
		}
		if n > maxMembers {
			return fmt.Errorf("more than %d files in the archive", maxMembers)
		}
		most := map[string]int64{v6.VulnerabilityDBFileName: limit, KnowledgeFile: maxKnowlege}[filepath.Base(h.Name)]
		if h.Typeflag != tar.TypeReg || most == 0 {
			continue
		}
		found = found || filepath.Base(h.Name) == v6.VulnerabilityDBFileName
		if err := copyOut(filepath.Join(out, filepath.Base(h.Name)), tr, most); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("the archive has no %s", v6.VulnerabilityDBFileName)
	}
	return nil
}

func copyOut(path string, r io.Reader, most int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("%s unpacks to more than %d bytes", filepath.Base(path), most)
	}
	return errors.Join(err, f.Close())
}
