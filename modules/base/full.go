package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dagger.io/dagger"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
	"drydock/modules/base/rootfs"
)

const (
	workDir = "drydock" // in the root filesystem while it is configured, never after

	// noNetwork asks the embedded engine for a step without gateway.
	noNetwork = "DRYDOCK_NETWORK"

	// sourcesPath is where the images of Debian have apt's sources, and where
	// Dockerfiles edit them.
	sourcesPath   = "etc/apt/sources.list.d/debian.sources"
	gatewayDebian = "http://mirror.drydock.internal/debian/"
	keyringPath   = "/usr/share/keyrings/debian-archive-keyring.gpg"

	policyScript = "#!/bin/sh\n# No service starts while an image is built.\nexit 101\n"

	aptConf = `// Images keep no package lists' translations and no downloaded packages.
Acquire::Languages "none";
APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
// A step is confined already, and may have no other user to become.
APT::Sandbox::User "root";
`
	dpkgConf = `# Documentation and translations are left out; copyright files are kept.
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/groff/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/linda/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/bug/*
force-unsafe-io
`
)

// firstInstalled is the order in which debootstrap and its kin configure what
// the maintainer scripts of everything else rely on.
var firstInstalled = []string{"base-passwd", "base-files", "libc6", "perl-base", "mawk", "debconf"}

// configure turns the locked packages into a configured root filesystem: the
// core is unpacked here, dpkg runs in the engine, and what comes back is read
// into a tree. Close the file when the tree has been written.
func (b *Builder) configure(ctx context.Context, lock *Lock, t *LockedTarget, debs []debFile, tmp string) (*rootfs.Tree, *os.File, error) {
	if b.Engine == nil {
		return nil, nil, &artifact.Error{
			Kind: artifact.KindInternal, Op: "building base " + lock.Name,
			Message: "a full base is configured in the engine, and none was handed in",
		}
	}
	seed := filepath.Join(tmp, "seed-"+t.Platform.Architecture+".tar")
	if err := writeSeed(ctx, seed, lock, t, debs, tmp); err != nil {
		return nil, nil, err
	}
	client, err := b.Engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	b.logf("base %s: configuring %d packages for %s", lock.Name, len(debs), t.Platform)
	exported := filepath.Join(tmp, "root-"+t.Platform.Architecture+".tar")
	_, err = client.Container(dagger.ContainerOpts{Platform: dagger.Platform(t.Platform.String())}).
		Import(client.Host().File(seed)).
		WithEnvVariable(noNetwork, "none").
		WithEnvVariable("SOURCE_DATE_EPOCH", strconv.FormatInt(lock.Epoch, 10)).
		WithExec([]string{"/bin/sh", "/" + workDir + "/configure"}).
		File("/"+workDir+"/root.tar").
		Export(ctx, exported)
	if err != nil {
		return nil, nil, stepError(lock, t, err)
	}
	return readConfigured(exported, lock, t, tmp)
}

func stepError(lock *Lock, t *LockedTarget, err error) error {
	failure := &artifact.Error{
		Kind: artifact.KindFault, Op: "configuring base " + lock.Name, Place: t.Platform.String(), Err: err,
	}
	var exec *dagger.ExecError
	if errors.As(err, &exec) {
		failure.Message = "dpkg failed: " + lastLines(exec.Stderr, exec.Stdout)
		failure.Remedy = "see which package's script failed; leave that package out or pick another suite"
	}
	return failure
}

// lastLines is the end of what a step said, on one line.
func lastLines(texts ...string) string {
	for _, text := range texts {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if lines[0] != "" {
			return strings.Join(lines[max(0, len(lines)-5):], " / ")
		}
	}
	return "it said nothing"
}

// writeSeed writes the image the engine starts from: the core unpacked, all
// packages beside it, and the script that configures them. It is an OCI
// archive because that is the one form in which both owners and modes reach
// every engine unchanged.
func writeSeed(ctx context.Context, to string, lock *Lock, t *LockedTarget, debs []debFile, tmp string) (err error) {
	tree, err := rootfs.New(tmp)
	if err != nil {
		return err
	}
	tree.Stop = func() error { return context.Cause(ctx) }
	defer func() { err = errors.Join(err, tree.Close()) }()
	if err := seedTree(tree, lock, t, debs); err != nil {
		return err
	}
	dir := filepath.Join(tmp, "seed-"+t.Platform.Architecture)
	w, err := layout.NewWriter(dir)
	if err != nil {
		return err
	}
	layer, err := layout.StoreLayer(filepath.Join(tmp, "seed-"+t.Platform.Architecture+".layer"), func(out io.Writer) error {
		return tree.WriteTar(out, lock.Epoch)
	})
	if err != nil {
		return err
	}
	created := time.Unix(lock.Epoch, 0).UTC()
	desc, err := w.AddImage(v1.Image{
		Created:  &created,
		Platform: v1.Platform{OS: t.Platform.OS, Architecture: t.Platform.Architecture},
	}, []layout.Layer{layer})
	if err != nil {
		return err
	}
	if _, err := w.Finish([]v1.Descriptor{desc}); err != nil {
		return err
	}
	return layout.Archive(dir, to)
}

func seedTree(tree *rootfs.Tree, lock *Lock, t *LockedTarget, debs []debFile) error {
	if err := mergeUsr(tree, t.Platform.Architecture); err != nil {
		return err
	}
	core := slices.DeleteFunc(slices.Clone(debs), func(d debFile) bool { return !d.Bootstrap })
	if _, err := unpack(tree, core, unpackOptions{}); err != nil {
		return err
	}
	if tree.Get("usr/bin/mawk") != nil && tree.Get("usr/bin/awk") == nil {
		// Scripts need awk before mawk's own script has made the alternative.
		if err := tree.Symlink("usr/bin/awk", "mawk"); err != nil {
			return err
		}
	}
	files := []struct {
		path string
		mode int64
		data string
	}{
		{dpkgDir + "/status", 0o644, ""},
		{dpkgDir + "/available", 0o644, ""},
		{"etc/apt/apt.conf.d/90drydock", 0o644, aptConf},
		{"etc/dpkg/dpkg.cfg.d/drydock", 0o644, dpkgConf},
		{sourcesPath, 0o644, sources(lock)},
		{"usr/sbin/policy-rc.d", 0o755, policyScript},
		{workDir + "/configure", 0o755, configureScript(debs)},
	}
	for _, f := range files {
		if err := tree.WriteFile(f.path, f.mode, []byte(f.data)); err != nil {
			return err
		}
	}
	for _, dir := range manDirs() {
		if err := tree.Mkdir(dir, 0o755, 0, 0); err != nil {
			return err
		}
	}
	for _, d := range debs {
		if err := addPackageFile(tree, d); err != nil {
			return err
		}
	}
	return nil
}

// manDirs are the folders of manual pages. The pages are left out (dpkgConf), but
// scripts make links in them, those of Java's packages for one, and fail where they
// are not.
func manDirs() []string {
	var out []string
	for section := 1; section <= 9; section++ {
		out = append(out, fmt.Sprintf("usr/share/man/man%d", section))
	}
	return out
}

func addPackageFile(tree *rootfs.Tree, d debFile) (err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return tree.AddFile(workDir+"/debs/"+debName(d), 0o644, 0, 0, d.Size, f)
}

func debName(d debFile) string { return d.Name + "_" + d.Architecture + ".deb" }

// sources lets apt in the base use the gateway, whatever mirror is behind it. The
// fields stand as in Debian's own images, a line each and a comment after the
// first, so that what edits those edits this: components, suites, deb-src. The
// address stays the gateway's: an edit that puts another mirror in the place of
// Debian's host finds nothing to replace, and apt goes on reaching ours.
func sources(lock *Lock) string {
	var out strings.Builder
	for i, a := range lock.Archives {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "Types: deb\n# the mirrors of this build, through its gateway\nURIs: %s%s\nSuites: %s\nComponents: %s\nSigned-By: %s\n",
			gatewayDebian, a.Archive, strings.Join(a.Suites, " "), strings.Join(a.Components, " "), keyringPath)
	}
	return out.String()
}

// configureScript runs dpkg over the core in debootstrap's order, then lets
// apt order the rest, and packs the result with its owners and modes.
func configureScript(debs []debFile) string {
	file := func(d debFile) string { return "/" + workDir + "/debs/" + debName(d) }
	var core, rest []string
	byName := map[string]debFile{}
	for _, d := range debs {
		byName[d.Name] = d
		if d.Bootstrap {
			core = append(core, file(d))
		} else {
			rest = append(rest, file(d))
		}
	}
	var out strings.Builder
	out.WriteString(`set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes
export LC_ALL=C HOME=/root TZ=UTC
umask 022
cd /
`)
	for _, name := range firstInstalled {
		if d, ok := byName[name]; ok && d.Bootstrap {
			fmt.Fprintf(&out, "dpkg --force-depends --install %s\n", file(d))
		}
	}
	fmt.Fprintf(&out, "dpkg --force-depends --unpack %s\n", strings.Join(core, " "))
	out.WriteString("dpkg --force-depends --configure --pending\n")
	if len(rest) > 0 {
		fmt.Fprintf(&out, "apt-get install -y --no-install-recommends %s\n", strings.Join(rest, " "))
	}
	out.WriteString(`problems=$(dpkg --audit)
if [ -n "$problems" ]; then echo "$problems" >&2; exit 1; fi
tar --create --file=/` + workDir + `/root.tar --format=posix --pax-option=delete=atime,delete=ctime \
  --numeric-owner --sort=name --xattrs --xattrs-include=security.capability --one-file-system --anchored \
  --exclude=./` + workDir + ` --exclude=./proc --exclude=./sys --exclude=./dev --exclude=./run .
`)
	return out.String()
}

// readConfigured reads what the step packed, leaves out what differs from run
// to run, and checks that exactly the locked packages are installed.
func readConfigured(tarPath string, lock *Lock, t *LockedTarget, tmp string) (_ *rootfs.Tree, _ *os.File, err error) {
	f, err := os.Open(tarPath)
	if err != nil {
		return nil, nil, fmt.Errorf("reading configured base: %w", err)
	}
	tree, err := rootfs.New(tmp)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), tree.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("reading configured base: %w", err)
	}
	if err := tree.ReadTar(io.NewSectionReader(f, 0, info.Size()), lasting); err != nil {
		return nil, nil, fmt.Errorf("reading configured base: %w", err)
	}
	if err := settle(tree, lock.Epoch); err != nil {
		return nil, nil, err
	}
	if err := checkInstalled(tree, t); err != nil {
		return nil, nil, fmt.Errorf("base %s, %s: %w", lock.Name, t.Platform, err)
	}
	return tree, f, nil
}

// lasting says whether a path belongs to a base: no logs, caches, locks and
// backups, nothing the engine mounts, nothing of this build.
func lasting(p string) bool {
	for _, dir := range []string{workDir, "dev", "proc", "run", "sys", "tmp", "var/tmp"} {
		if rootfs.Within(p, dir) {
			return false
		}
	}
	for _, dir := range []string{"var/log", "var/cache/apt", "var/lib/apt/lists", "var/cache/ldconfig"} {
		if p != dir && rootfs.Within(p, dir) {
			return false
		}
	}
	switch p {
	case "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab", "etc/.pwd.lock", "etc/machine-id",
		"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
		dpkgDir + "/lock", dpkgDir + "/lock-frontend", dpkgDir + "/triggers/Lock",
		"var/lib/apt/daily_lock", ".dockerenv":
		return false
	}
	old := strings.HasSuffix(p, "-old")
	return !(old && (path.Dir(p) == dpkgDir || path.Dir(p) == "var/cache/debconf"))
}

// settle gives the folders that were left out their fixed form and takes the
// build's day out of the shadow file.
func settle(tree *rootfs.Tree, epoch int64) error {
	for dir, mode := range map[string]int64{
		"dev": 0o755, "proc": 0o755, "run": 0o755, "run/lock": 0o1777, "sys": 0o755, "tmp": 0o1777, "var/tmp": 0o1777,
		"var/cache/apt/archives/partial": 0o700, "var/lib/apt/lists/partial": 0o700, "var/log/apt": 0o755,
	} {
		if err := tree.Mkdir(dir, mode, 0, 0); err != nil {
			return err
		}
	}
	if err := tree.WriteFile("etc/machine-id", 0o444, nil); err != nil {
		return err
	}
	shadow := tree.Get("etc/shadow")
	if shadow == nil {
		return nil
	}
	data, err := tree.Read("etc/shadow")
	if err != nil {
		return err
	}
	fixed := fixShadow(data, epoch)
	return tree.AddFile("etc/shadow", shadow.Mode, shadow.UID, shadow.GID, int64(len(fixed)), bytes.NewReader(fixed))
}

// fixShadow sets the day of the last change (shadow(5)) to the epoch's.
func fixShadow(data []byte, epoch int64) []byte {
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		fields := strings.Split(line, ":")
		if len(fields) < 3 || fields[2] == "" {
			continue
		}
		fields[2] = strconv.FormatInt(epoch/86400, 10)
		lines[i] = strings.Join(fields, ":")
	}
	return []byte(strings.Join(lines, "\n"))
}

// checkInstalled compares dpkg's own word with the lock.
func checkInstalled(tree *rootfs.Tree, t *LockedTarget) error {
	data, err := tree.Read(dpkgDir + "/status")
	if err != nil {
		return fmt.Errorf("no dpkg status: %w", err)
	}
	want := map[string]string{}
	for _, p := range t.Packages {
		want[p.Name] = p.Version
	}
	for _, stanza := range strings.Split(strings.TrimSpace(string(data)), "\n\n") {
		fields := map[string]string{}
		for _, line := range strings.Split(stanza, "\n") {
			if k, v, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
				fields[k] = v
			}
		}
		name := fields["Package"]
		if want[name] != fields["Version"] || fields["Status"] != "install ok installed" {
			return fmt.Errorf("package %s %s is %q, the lock wants version %q installed",
				name, fields["Version"], fields["Status"], want[name])
		}
		delete(want, name)
	}
	for name := range want {
		return fmt.Errorf("package %s was not installed", name)
	}
	return nil
}
