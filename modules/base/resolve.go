package base

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/base/resolve"
	"drydock/modules/mirror"
)

// Packages every base of a variant has.
var (
	staticSeeds  = []string{"base-files", "ca-certificates", "netbase", "tzdata"}
	minimalSeeds = append([]string{"libc6"}, staticSeeds...)
	fullSeeds    = []string{"apt", "ca-certificates", "debian-archive-keyring"}
)

const (
	// usr-is-merged says what the bootstrap makes true from the start; usrmerge
	// would convert a system with perl and has nothing to do here.
	usrMerged = "usr-is-merged"
	usrMerge  = "usrmerge"
)

// architectures is Debian's name for OCI's.
var architectures = map[string]string{
	"amd64": "amd64", "arm64": "arm64", "386": "i386", "ppc64le": "ppc64el",
	"s390x": "s390x", "riscv64": "riscv64", "mips64le": "mips64el",
}

// scriptOnly is what dependencies of packages serve maintainer scripts only: a
// base that runs none leaves them out. The key "" speaks of every package.
var scriptOnly = map[string][]string{
	"":                {"adduser", "debconf", "debconf-2.0", "cdebconf", "dpkg", "init-system-helpers", "install-info", "lsb-base", "sysvinit-utils", "ucf"},
	"base-files":      {"awk"},
	"ca-certificates": {"openssl"},
	"nginx":           {"iproute2"}, // asks whether port 80 is taken
}

// jreHeadless is a Java runtime's package; its script asks util-linux whether
// /proc is mounted.
var jreHeadless = regexp.MustCompile(`^openjdk-\d+-jre-headless$`)

func skipScripts(pkg, dependency string) bool {
	return slices.Contains(scriptOnly[""], dependency) || slices.Contains(scriptOnly[pkg], dependency) ||
		dependency == "util-linux" && jreHeadless.MatchString(pkg)
}

// Resolve locks the newest packages the mirrors serve. The lock has no digests
// yet: Build fills them in.
func Resolve(ctx context.Context, m *mirror.Set, spec Spec) (*Lock, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, &artifact.Error{
			Kind: artifact.KindInternal, Op: "resolving base " + spec.Name, Message: "no mirrors were handed in",
		}
	}
	lock := &Lock{Version: LockVersion, Name: spec.Name, Kind: spec.Kind, Variant: spec.Variant, Request: spec.request()}
	if spec.Kind == KindOCI {
		return lock, resolveImage(ctx, m, spec, lock)
	}
	suite, err := findSuite(ctx, m, spec)
	if err != nil {
		return nil, err
	}
	lock.Suite, lock.Epoch, lock.Archives = suite.name, suite.epoch, suite.archives
	if at := m.At(); !at.IsZero() {
		lock.To = at.Unix()
	}
	for _, platform := range spec.Platforms {
		target := LockedTarget{Platform: platform}
		if target.Packages, err = resolvePackages(ctx, m, spec, suite, platform); err != nil {
			return nil, err
		}
		if spec.Go != "" {
			if target.Toolchain, err = resolveToolchain(ctx, m, spec, platform); err != nil {
				return nil, err
			}
		}
		if spec.Node != "" {
			if target.Node, err = resolveNode(ctx, m, spec, platform); err != nil {
				return nil, err
			}
		}
		lock.Platforms = append(lock.Platforms, target)
	}
	lock.sort()
	return lock, nil
}

// suite is one Debian suite with its updates and security parts.
type suite struct {
	name     string // codename
	epoch    int64
	parts    []suitePart
	archives []LockedArchive
}

type suitePart struct {
	source  mirror.DebianSource
	suite   string
	release *mirror.Release
}

// findSuite picks the parts of one suite from all the mirrors offer. Anything
// but the suite, its updates and its security fixes (backports, proposed
// updates) is left alone.
func findSuite(ctx context.Context, m *mirror.Set, spec Spec) (*suite, error) {
	sources, err := m.Debian(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]*suite{}
	for _, source := range sources {
		for _, name := range source.Suites {
			release, err := m.Release(ctx, source, name)
			if err != nil {
				return nil, err
			}
			main := mainSuite(release.Codename)
			if release.Codename == "" {
				main = mainSuite(name)
			}
			if main == "" || spec.Suite != "" && spec.Suite != main && spec.Suite != mainSuite(name) {
				continue
			}
			s := found[main]
			if s == nil {
				s = &suite{name: main}
				found[main] = s
			}
			s.add(source, name, release)
		}
	}
	names := slices.Sorted(maps.Keys(found))
	if len(names) == 1 {
		return found[names[0]], nil
	}
	failure := &artifact.Error{Kind: artifact.KindUsage, Op: "resolving base " + spec.Name, Place: spec.Place}
	switch {
	case len(names) > 1:
		failure.Message = "the mirrors serve several suites: " + strings.Join(names, ", ")
		failure.Remedy = "write suite: " + names[len(names)-1] + " in the base"
	case spec.Suite != "":
		failure.Message = "the mirrors serve no suite " + spec.Suite
		failure.Remedy = "add it to the apt sources or to mirrors.yaml, or ask for another suite"
	default:
		failure.Message = "the mirrors serve no suite"
		failure.Remedy = "name a Debian mirror in mirrors.yaml"
	}
	return nil, failure
}

// mainSuite is the suite a part belongs to; "" for parts that are not taken.
func mainSuite(name string) string {
	for _, suffix := range []string{"-updates", "-security", "/updates"} {
		name = strings.TrimSuffix(name, suffix)
	}
	if strings.ContainsAny(name, "-/") { // -backports, -proposed, -debug
		return ""
	}
	return name
}

func (s *suite) add(source mirror.DebianSource, name string, release *mirror.Release) {
	s.parts = append(s.parts, suitePart{source, name, release})
	s.epoch = max(s.epoch, release.Date.Unix())
	locked := name
	if release.Codename != "" {
		locked = release.Codename
	}
	for i := range s.archives {
		a := &s.archives[i]
		if a.Archive == source.Archive {
			a.Suites = slices.Compact(slices.Sorted(slices.Values(append(a.Suites, locked))))
			return
		}
	}
	s.archives = append(s.archives, LockedArchive{
		Archive: source.Archive, Suites: []string{locked}, Components: source.Components,
	})
}

// candidates reads the package indexes for one architecture.
func (s *suite) candidates(ctx context.Context, m *mirror.Set, arch string) ([]resolve.Candidate, error) {
	var out []resolve.Candidate
	for _, part := range s.parts {
		if !slices.Contains(part.release.Architectures, arch) {
			continue
		}
		for _, component := range part.source.Components {
			packages, err := m.Packages(ctx, part.source, part.suite, component, arch)
			if err != nil {
				return nil, err
			}
			for _, p := range packages {
				out = append(out, resolve.Candidate{Package: p, Archive: part.source.Archive})
			}
		}
	}
	return out, nil
}

func resolvePackages(ctx context.Context, m *mirror.Set, spec Spec, s *suite, platform artifact.Platform) ([]LockedPackage, error) {
	fail := func(message, remedy string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: fmt.Sprintf("resolving base %s for %s", spec.Name, platform),
			Place: spec.Place, Message: message, Remedy: remedy, Err: err,
		}
	}
	arch, ok := architectures[platform.Architecture]
	if !ok {
		return nil, fail("Debian has no such architecture", "name another platform", nil)
	}
	candidates, err := s.candidates(ctx, m, arch)
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		return nil, fail(fmt.Sprintf("suite %s has no packages for %s", s.name, arch), "name another platform or suite", nil)
	}
	pool, err := resolve.NewPool(candidates, arch)
	if err != nil {
		return nil, fail("", "", err)
	}
	chosen, bootstrap, err := choose(pool, spec, arch)
	if err != nil {
		var unmet *resolve.Error
		if errors.As(err, &unmet) {
			return nil, fail("", "change the packages asked for, or the suite", err)
		}
		return nil, fail("", "", err)
	}
	out := make([]LockedPackage, 0, len(chosen))
	for _, c := range chosen {
		out = append(out, LockedPackage{
			Name: c.Name, Version: c.Version, Architecture: c.Architecture, Archive: c.Archive,
			Path: c.Filename, SHA256: c.SHA256, Size: c.Size, Bootstrap: bootstrap[c.Name],
		})
	}
	return out, nil
}

// choose solves for a variant. bootstrap are the packages unpacked before dpkg
// can run.
func choose(pool *resolve.Pool, spec Spec, arch string) (all []resolve.Candidate, bootstrap map[string]bool, err error) {
	req := resolve.Request{Root: spec.Name, Architecture: arch}
	if spec.Variant != VariantFull {
		return chooseUnpacked(pool, spec, req)
	}
	req.Seeds = pool.Where(func(c resolve.Candidate) bool {
		return c.Name != usrMerge && (c.Essential || c.Priority == "required")
	})
	req.Seeds = append(req.Seeds, "apt")
	if _, ok := pool.Newest(usrMerged); ok {
		// First, so that it is what "usrmerge | usr-is-merged" finds chosen.
		req.Seeds = append([]string{usrMerged}, req.Seeds...)
	}
	core, err := pool.Solve(req)
	if err != nil {
		return nil, nil, err
	}
	bootstrap = map[string]bool{}
	req.Seeds = req.Seeds[:0]
	for _, c := range core {
		bootstrap[c.Name] = true
		req.Seeds = append(req.Seeds, c.Name)
	}
	req.Seeds = append(append(req.Seeds, fullSeeds...), spec.Packages...)
	all, err = pool.Solve(req)
	return all, bootstrap, err
}

// chooseUnpacked solves for a base that runs no scripts. A static one that
// would get a C library after all is refused: whoever asks for it wants to know.
func chooseUnpacked(pool *resolve.Pool, spec Spec, req resolve.Request) ([]resolve.Candidate, map[string]bool, error) {
	req.Skip = skipScripts
	seeds := minimalSeeds
	if spec.Variant == VariantStatic {
		seeds = staticSeeds
	}
	req.Seeds = append(slices.Clone(seeds), spec.Packages...)
	all, err := pool.Solve(req)
	if err != nil || spec.Variant != VariantStatic {
		return all, nil, err
	}
	for _, c := range all {
		if c.Name == "libc6" {
			return nil, nil, errors.New("its packages need libc6, and a static base has no C library: make it variant minimal, or leave them out")
		}
	}
	return all, nil, nil
}
