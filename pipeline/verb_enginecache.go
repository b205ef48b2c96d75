package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"drydock/modules/engine"
	"drydock/modules/mirror"
)

func (p *program) engineCacheVerbs() []*cli.Command {
	return []*cli.Command{
		{
			Name: "status", Usage: "show tier, cache directory, what it holds and who uses it",
			Description: `Asks the running engine. Where none runs one is started to be asked, if the
host lets it.`,
			Flags: append(commonFlags(), quotaFlag(), mirrorQuotaFlag()), Action: p.verb(p.engineStatus),
		},
		{
			Name: "prune", Usage: "remove what the embedded engine has cached, by age, size or all of it",
			Description: `Without a flag removes what is over the quota, as the engine itself does from
time to time. With --older-than only what was not used for that long, with
--max-size the least used first, and only until that much is left; with both,
both. Works beside running builds: what they use stays. --all removes the
whole directory, or, while an engine runs, all that no build uses. With
--packages it is what was fetched from mirrors that goes, by the same flags, in
place of what the engine cached; without another flag what is over
--mirror-quota, as every run does at its end. Locks may name files no mirror
serves any more. Registries, keys and remembered results stay in any case.`,
			Flags: append(commonFlags(), quotaFlag(), mirrorQuotaFlag(),
				boolean("packages", "remove what was fetched from mirrors in place of what the engine cached"),
				&cli.StringFlag{
					Name: "max-size", Aliases: []string{"keep-storage"}, EnvVars: env("max-size"),
					Usage: "remove until no more than `SIZE` is left: 20GB, 1.5GiB",
				},
				str("older-than", "", "remove only what was not used for `DURATION`: 12h, 7d, 2w"),
				boolean("all", "remove everything"),
			),
			Action: p.verb(p.enginePrune),
		},
	}
}

// mirrorQuotaFlag is for every verb that may fetch from mirrors.
func mirrorQuotaFlag() cli.Flag {
	return str("mirror-quota", "", "how much of what was fetched from mirrors is kept, as `SIZE` (default: a tenth of the disk); the least recently used goes")
}

// quotaFlag is for every verb that may start an engine.
func quotaFlag() cli.Flag {
	return str("cache-quota", "", "how much the embedded engine keeps, as `SIZE`: 20GB (default: a fifth of the disk, and a twentieth stays free)")
}

type engineState struct {
	Version   int    `json:"version"`
	Tier      string `json:"tier"`
	Directory string `json:"directory"`
	Files     int    `json:"files"`
	DiskBytes int64  `json:"bytes"` // all files of the directory
	engine.Status
	Store   storeState `json:"store"`
	Problem string     `json:"problem,omitempty"` // why nothing is known of the records
}

// storeState is what was fetched from mirrors.
type storeState struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	Quota int64 `json:"quota"` // bytes; 0 is not known
}

func readStore(s settings) (storeState, error) {
	u, err := mirror.Stored(s.Cache)
	st := storeState{Files: u.Files, Bytes: u.Bytes, Quota: s.mirrorQuota}
	if st.Quota == 0 {
		st.Quota = mirror.DefaultQuota(s.Cache)
	}
	return st, err
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
	st.DiskBytes, st.Files = measure(st.Directory)
	st.Clients = []engine.ClientStatus{}
	if st.Store, err = readStore(s); err != nil {
		return err
	}
	if st.Files > 0 {
		st.Status, err = engine.ReadStatus(c.Context, p.engineConfig(s))
		if err != nil {
			st.Problem = err.Error()
		}
	}
	if s.JSON {
		return printJSON(p.out, st)
	}
	fmt.Fprintf(p.out, "tier       %s\ndirectory  %s\nholds      %.1f MB in %d files\n",
		orNone(st.Tier), st.Directory, float64(st.DiskBytes)/1e6, st.Files)
	switch {
	case st.Problem != "":
		fmt.Fprintf(p.out, "records    unknown: %s\n", st.Problem)
	case st.Files > 0:
		fmt.Fprintf(p.out, "records    %d with %.1f MB, %d in use (quota %.1f GB)\n", st.Records, float64(st.Bytes)/1e6, st.InUse, float64(st.Quota)/1e9)
	}
	fmt.Fprintf(p.out, "packages   %.1f MB in %d files from mirrors (quota %.1f GB)\n", float64(st.Store.Bytes)/1e6, st.Store.Files, float64(st.Store.Quota)/1e9)
	if !st.Running {
		fmt.Fprintln(p.out, "running    no")
		return nil
	}
	fmt.Fprintf(p.out, "running    process %d, tier %s, since %s\n", st.PID, st.Status.Tier, st.Since.Format(time.RFC3339))
	for _, m := range st.Clients {
		fmt.Fprintf(p.out, "client     process %d, since %s\n", m.PID, m.Since.Format(time.RFC3339))
	}
	return nil
}

// engineConfig is what it takes to reach or start an engine without a line.
func (p *program) engineConfig(s settings) engine.Config {
	return engine.Config{
		CacheDir: s.Cache, Environ: p.environ, Quota: s.quota, Log: engineLog(s),
		Notice: func(text string) { fmt.Fprintln(p.err, text) },
	}
}

type pruned struct {
	Version   int    `json:"version"`
	Directory string `json:"directory"`
	engine.Pruned
}

func (p *program) enginePrune(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	if c.Bool("packages") {
		return p.prunePackages(s, o)
	}
	dir := engine.StateDir(s.Cache)
	out := pruned{Version: 1, Directory: dir}
	before, files := measure(dir)
	what := "nothing is there"
	switch {
	case files == 0:
	case o.All && !engine.Running(s.Cache):
		if err := engine.Remove(c.Context, s.Cache); err != nil {
			return err
		}
		left, _ := measure(dir)
		out.Bytes = before - left
		what = fmt.Sprintf("removed %.1f MB in %d files from %s", float64(out.Bytes)/1e6, files, dir)
	default:
		if out.Pruned, err = engine.Prune(c.Context, p.engineConfig(s), o); err != nil {
			return err
		}
		what = fmt.Sprintf("removed %d records, %.1f MB, from %s", out.Records, float64(out.Bytes)/1e6, dir)
	}
	if s.JSON {
		return printJSON(p.out, out)
	}
	fmt.Fprintln(p.out, what)
	return nil
}

// pruneOptions reads what is to go.
func pruneOptions(c *cli.Context) (engine.PruneOptions, error) {
	o := engine.PruneOptions{All: c.Bool("all")}
	var err error
	if o.MaxSize, err = parseSize("max-size", c.String("max-size")); err != nil {
		return o, err
	}
	if o.OlderThan, err = parseAge("older-than", c.String("older-than")); err != nil {
		return o, err
	}
	if o.All && (c.IsSet("max-size") || c.IsSet("older-than")) {
		return o, badValue("all", "", "leaves nothing for --max-size and --older-than to choose", "give one or the other")
	}
	if c.IsSet("max-size") && o.MaxSize == 0 {
		return o, badValue("max-size", c.String("max-size"), "would leave nothing", "give --all to remove everything")
	}
	return o, nil
}

// prunePackages removes what was fetched from mirrors.
func (p *program) prunePackages(s settings, o engine.PruneOptions) error {
	out := pruned{Version: 1, Directory: filepath.Join(s.Cache, "mirror")}
	var gone mirror.StoreUsage
	var err error
	switch {
	case o.All:
		gone, err = mirror.EmptyStore(s.Cache)
	case o.MaxSize == 0 && o.OlderThan == 0:
		st, serr := readStore(s)
		if serr != nil {
			return serr
		}
		gone, err = mirror.PruneStore(s.Cache, mirror.StorePrune{MaxBytes: st.Quota})
	default:
		gone, err = mirror.PruneStore(s.Cache, mirror.StorePrune{MaxBytes: o.MaxSize, OlderThan: o.OlderThan})
	}
	if err != nil {
		return err
	}
	out.Records, out.Bytes = gone.Files, gone.Bytes
	if s.JSON {
		return printJSON(p.out, out)
	}
	fmt.Fprintf(p.out, "removed %d files, %.1f MB, from %s\n", gone.Files, float64(gone.Bytes)/1e6, out.Directory)
	return nil
}
