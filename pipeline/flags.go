package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/pipeline/catalogref"
	"drydock/pipeline/line"
)

// settings is the effective configuration of one invocation:
// defaults < catalog < project file < environment < flags.
type settings struct {
	Project  string   `json:"project"` // the project file; "" there is none
	Catalog  string   `json:"catalog"` // its directory, or what it is pinned to
	Cache    string   `json:"cache"`
	Data     string   `json:"data"`
	Keys     string   `json:"keys"`
	Out      string   `json:"out"`
	Images   []string `json:"images"`
	Progress string   `json:"progress"`
	JSON     bool     `json:"json"`
	Engine   string   `json:"engine"`
	Tier     string   `json:"tier"` // of the embedded engine: auto, T1, T2 or T3
	Trigger  string   `json:"trigger"`
	Changed  string   `json:"changed"` // "" all, "auto", or a revision
	FailFast bool     `json:"failFast"`
	Egress   string   `json:"egress"` // mirrors or observe
	Locked   bool     `json:"locked"`
	Offline  bool     `json:"offline"`
	Jobs     int      `json:"jobs"`

	CacheFrom string         `json:"cacheFrom"`
	CacheTo   string         `json:"cacheTo"`
	imports   []engine.Cache // CacheFrom
	exports   []engine.Cache // CacheTo

	CacheQuota string `json:"cacheQuota"` // "" is a share of the disk
	quota      int64  // CacheQuota in bytes

	From map[string]string `json:"from"` // each setting's flag, variable, file:line or "default"

	project    *catalog.Project
	catalogRef catalogref.Ref
	noCatalog  bool // the verb does without, where none is named and the default one is not there

	MirrorQuota string `json:"mirrorQuota"` // "" is a share of the disk
	mirrorQuota int64  // MirrorQuota in bytes

	at      time.Time // what mirrors are taken as of; zero is now
	noStale bool      // a copy never stands in for a mirror that cannot be asked

	StepLimits string        `json:"stepLimits"` // "" are engine.Limits' defaults
	limits     engine.Limits // StepLimits
	landlock   int           // engine.Config.LandlockABI
}

func env(name string) []string {
	return []string{"DRYDOCK_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}
}

func str(name, value, usage string) cli.Flag {
	return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func boolean(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, EnvVars: env(name)}
}

// commonFlags belong to every verb.
func commonFlags() []cli.Flag {
	return []cli.Flag{
		str("catalog", defaultCatalog, "the `CATALOG` of bases, images, mirrors, stages and policies: a directory, git URL@COMMIT[:FOLDER] or REPOSITORY@sha256:… of an OCI artifact"),
		str("project", "", "the project `FILE` of an application's repository (default: drydock.yaml of the working directory, where there is one)"),
		str("state", "", "one `DIR` for cache, data and keys, in place of the three"),
		str("cache", "", "`DIR` of what can be rebuilt (default: the user's cache directory)"),
		str("data", "", "`DIR` of the embedded stage registries (default: the user's data directory)"),
		str("keys", "", "`DIR` of the signing keys (default: the user's configuration directory)"),
		str("out", defaultOut, "`DIR` for reports people and CI read"),
		str("progress", "auto", "how progress is shown on stderr: auto, tty, plain or json"),
		boolean("json", "print the result as JSON on stdout"),
		boolean("print-config", "print the effective configuration as JSON and do nothing else"),
	}
}

// imageFlags belong to verbs that work on images of the catalog.
func imageFlags() []cli.Flag {
	return append(commonFlags(),
		&cli.StringSliceFlag{Name: "image", Usage: "only images matching `NAME` (a glob; repeatable; image or image/variant)", EnvVars: env("image")},
		str("trigger", "", "what started this: local, change-request, branch, tag or schedule (default: detected)"),
		str("changed", "", "only images touched since the merge base with `BASE` (--changed alone: the target branch)"),
	)
}

// engineFlags belong to verbs that build.
func engineFlags() []cli.Flag {
	return append(imageFlags(),
		str("engine", "auto", "what executes the steps: auto, embedded or dagger"),
		str("tier", "auto", "how the embedded engine isolates steps: auto (the best this host gives), T1, T2 or T3 (by translation, slower)"),
		quotaFlag(),
		str("step-limits", "", "what one step may take, as `LIMITS`: memory=4GiB,processes=4096,disk=20GiB,free-disk=1GiB,files=1024,output=64MiB (any of them; for the defaults see README)"),
		&cli.StringFlag{Name: "landlock-abi", Hidden: true, Usage: "use `N` of Landlock's versions at most, in tests", EnvVars: env("landlock-abi")},
		mirrorQuotaFlag(),
		str("cache-from", "", "start from results of builds elsewhere: `CACHES` separated by spaces, each DIR, type=local,src=DIR or type=registry,ref=REF"),
		str("cache-to", "", "leave the results for builds elsewhere in `CACHES`; a change request's are kept apart, and read by no branch, tag or schedule"),
		boolean("fail-fast", "stop everything at the first failure"),
		boolean("locked", "refuse (exit 3) what steps fetch beyond their image's lock, and bases whose lock can no longer be served"),
		boolean("offline", "build from the content store alone: no mirror is asked, what is missing is named (exit 3)"),
		&cli.IntFlag{Name: "jobs", Usage: "tasks at once (0: twice the processors)", EnvVars: env("jobs")},
	)
}

// Where steps may go.
const (
	egressMirrors = "mirrors"
	egressObserve = "observe"
)

// buildFlags belong to build and run.
func buildFlags() []cli.Flag {
	return append(engineFlags(), str("egress", egressMirrors,
		"where steps may go: mirrors, or observe: anywhere by this machine's own way, written to <out>/observed and kept in the first stage"))
}

// readSettings turns flags into settings and checks them.
func readSettings(c *cli.Context, args, environ []string) (settings, error) {
	s := settings{
		From: sources(c, args, environ), Out: c.String("out"),
		Cache: c.String("cache"), Data: c.String("data"), Keys: c.String("keys"),
		Images: append([]string{}, c.StringSlice("image")...), Progress: c.String("progress"), JSON: c.Bool("json"),
		Engine: c.String("engine"), Tier: c.String("tier"), Trigger: c.String("trigger"), Changed: c.String("changed"),
		FailFast: c.Bool("fail-fast"), Egress: c.String("egress"), Locked: c.Bool("locked"), Offline: c.Bool("offline"), Jobs: c.Int("jobs"),
		CacheQuota: c.String("cache-quota"), MirrorQuota: c.String("mirror-quota"), CacheFrom: c.String("cache-from"), CacheTo: c.String("cache-to"),
		StepLimits: c.String("step-limits"),
	}
	var err error
	if s.imports, err = line.ParseCaches("cache-from", s.CacheFrom); err != nil {
		return s, err
	}
	if s.exports, err = line.ParseCaches("cache-to", s.CacheTo); err != nil {
		return s, err
	}
	if s.quota, err = parseSize("cache-quota", s.CacheQuota); err != nil {
		return s, err
	}
	if s.limits, err = parseLimits("step-limits", s.StepLimits); err != nil {
		return s, err
	}
	if s.landlock, err = parseABI("landlock-abi", c.String("landlock-abi")); err != nil {
		return s, err
	}
	if s.mirrorQuota, err = parseSize("mirror-quota", s.MirrorQuota); err != nil {
		return s, err
	}
	if err := s.setDirs(c.String("state"), environ); err != nil {
		return s, err
	}
	return s, s.check()
}

func (s *settings) check() error {
	for _, choice := range []struct{ flag, value, allowed string }{
		{"progress", s.Progress, "auto tty plain json"},
		{"engine", s.Engine, " auto embedded dagger"},
		{"tier", s.Tier, " auto T1 T2 T3"},
		{"egress", s.Egress, " mirrors observe"},
		{"trigger", s.Trigger, " local change-request branch tag schedule"},
	} {
		ok := false
		for _, a := range strings.Split(choice.allowed, " ") {
			ok = ok || a == choice.value
		}
		if !ok {
			return &artifact.Error{
				Kind: artifact.KindUsage, Op: "reading command line", Place: "--" + choice.flag + " " + choice.value,
				Message: "not one of the choices", Remedy: "one of: " + strings.TrimSpace(choice.allowed),
			}
		}
	}
	if s.Egress == egressObserve && (s.Locked || s.Offline) {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--egress observe",
			Message: "it lets steps out, --locked and --offline keep them in", Remedy: "leave one of them out",
		}
	}
	if s.Jobs < 0 {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--jobs",
			Message: "must not be negative", Remedy: "give 0 for twice the processors",
		}
	}
	return nil
}

// setDirs fills the three directories. Keys never lie under the cache, which
// CI carries from job to job.
func (s *settings) setDirs(state string, environ []string) error {
	home := lookup(environ, "HOME")
	fallback := func(xdg, rel string) string {
		if d := lookup(environ, xdg); filepath.IsAbs(d) {
			return filepath.Join(d, "drydock")
		}
		if home == "" {
			return ""
		}
		return filepath.Join(home, rel, "drydock")
	}
	defaults := map[*string]string{
		&s.Cache: fallback("XDG_CACHE_HOME", ".cache"),
		&s.Data:  fallback("XDG_DATA_HOME", ".local/share"),
		&s.Keys:  filepath.Join(fallback("XDG_CONFIG_HOME", ".config"), "keys"),
	}
	if s.Out == "" { // an empty variable is none
		s.Out = defaultOut
	}
	if state != "" {
		defaults = map[*string]string{
			&s.Cache: filepath.Join(state, "cache"), &s.Data: filepath.Join(state, "data"), &s.Keys: filepath.Join(state, "keys"),
		}
	}
	for p, d := range defaults {
		if *p == "" {
			*p = d
		}
	}
	for _, d := range []struct {
		flag string
		p    *string
	}{{"cache", &s.Cache}, {"data", &s.Data}, {"keys", &s.Keys}, {"out", &s.Out}} {
		if *d.p == "" || (home == "" && *d.p == "keys") {
			return &artifact.Error{
				Kind: artifact.KindUsage, Op: "choosing directories", Place: "--" + d.flag,
				Message: "no home directory to put it under", Remedy: "give --state DIR or --" + d.flag + " DIR",
			}
		}
		abs, err := filepath.Abs(*d.p)
		if err != nil {
			return err
		}
		*d.p = abs
	}
	if rel, err := filepath.Rel(s.Cache, s.Keys); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "choosing directories", Place: "--keys " + s.Keys,
			Message: "lies under the cache, which CI carries between jobs", Remedy: "give --keys DIR outside " + s.Cache,
		}
	}
	return nil
}

func lookup(environ []string, name string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(environ[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// writable makes the reports' directory and tries it, before hours of work
// turn out to have nowhere to go.
func writable(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".drydock-"); err == nil {
			_ = f.Close()
			err = os.Remove(f.Name())
		}
	}
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "making directory", Place: dir, Err: err,
			Remedy: "give a directory you can write to with --out DIR",
		}
	}
	return nil
}

// private makes a directory only its owner can enter.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "making directory", Place: dir, Err: err,
			Remedy: "give a directory you can write to, for example --state DIR",
		}
	}
	return nil
}
