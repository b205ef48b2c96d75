package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

func (p *program) engineVerb() *cli.Command {
	return &cli.Command{
		Name:        "engine",
		Usage:       "run programs on the embedded engine, show its state, prune its cache",
		Subcommands: append([]*cli.Command{p.engineExecVerb()}, p.engineCacheVerbs()...),
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// measure sums what is below dir; what cannot be read is passed over.
func measure(dir string) (bytes int64, files int) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
			files++
		}
		return nil
	})
	return bytes, files
}

// engineLog is where the engine's own log goes; nil when it cannot be opened.
func engineLog(s settings) io.Writer {
	f, err := os.OpenFile(filepath.Join(s.Cache, "engine.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil
	}
	return f
}
