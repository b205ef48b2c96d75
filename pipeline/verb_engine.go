package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"drydock/modules/engine"
)

func (p *program) engineVerb() *cli.Command {
	return &cli.Command{
		Name:  "engine",
		Usage: "show the embedded engine's state, or throw its cache away",
		Subcommands: []*cli.Command{
			{
				Name: "status", Usage: "show tier, cache directory and how much it holds",
				Flags: commonFlags(), Action: p.verb(p.engineStatus),
			},
			{
				Name: "prune", Usage: "remove the embedded engine's cache; the next run builds anew",
				Description: `Refuses while another drydock uses it. Registries, keys, fetched packages and
remembered results stay.`,
				Flags: commonFlags(), Action: p.verb(p.enginePrune),
			},
		},
	}
}

type engineState struct {
	Version   int    `json:"version"`
	Tier      string `json:"tier"`
	Directory string `json:"directory"`
	Bytes     int64  `json:"bytes"`
	Files     int    `json:"files"`
}

func (p *program) engineStatus(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	probe, err := engine.Probe(c.Context, s.Cache, p.environ)
	if err != nil {
		return err
	}
	st := engineState{Version: 1, Tier: probe.Tier, Directory: engine.StateDir(s.Cache)}
	st.Bytes, st.Files = measure(st.Directory)
	if s.JSON {
		return printJSON(p.out, st)
	}
	fmt.Fprintf(p.out, "tier       %s\ndirectory  %s\nholds      %.1f MB in %d files\n", orNone(st.Tier), st.Directory, float64(st.Bytes)/1e6, st.Files)
	return nil
}

func (p *program) enginePrune(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	dir := engine.StateDir(s.Cache)
	bytes, files := measure(dir)
	if err := engine.Remove(c.Context, s.Cache); err != nil {
		return err
	}
	left, _ := measure(dir)
	if s.JSON {
		return printJSON(p.out, map[string]any{"version": 1, "directory": dir, "freedBytes": bytes - left})
	}
	fmt.Fprintf(p.out, "removed %.1f MB in %d files from %s\n", float64(bytes-left)/1e6, files, dir)
	return nil
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
