package base

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
	"drydock/modules/mirror"
)

const (
	toolchainModule = "golang.org/toolchain"
	toolchainPrefix = "v0.0.1-go"
	goRoot          = "usr/local/go"
)

// resolveToolchain locks the toolchain a base asks for: an exact release, or
// the newest patch release of a language version.
func resolveToolchain(ctx context.Context, m *mirror.Set, spec Spec, platform artifact.Platform) (*LockedToolchain, error) {
	version, err := toolchainRelease(ctx, m, spec, platform)
	if err != nil {
		return nil, err
	}
	blob, err := m.FetchGoModule(ctx, toolchainModule, version)
	if err != nil {
		return nil, err
	}
	sum, err := dirhash.HashZip(blob.Path, dirhash.Hash1)
	if err != nil {
		return nil, fmt.Errorf("summing go toolchain %s: %w", version, err)
	}
	return &LockedToolchain{
		Module: toolchainModule, Version: version, Sum: sum,
		SHA256: blob.Material.Digest.Hex(), Size: blob.Material.Size,
	}, nil
}

func toolchainRelease(ctx context.Context, m *mirror.Set, spec Spec, platform artifact.Platform) (string, error) {
	suffix := "." + platform.OS + "-" + platform.Architecture
	if strings.Count(spec.Go, ".") == 2 {
		return toolchainPrefix + spec.Go + suffix, nil
	}
	blob, err := m.Fetch(ctx, mirror.Request{Ecosystem: mirror.Go, Path: toolchainModule + "/@v/list"})
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile(blob.Path)
	if err != nil {
		return "", fmt.Errorf("reading the toolchain list: %w", err)
	}
	newest, err := patchInTime(ctx, m, strings.Fields(string(list)), spec.Go, suffix)
	if err != nil {
		return "", err
	}
	if newest == "" {
		return "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "resolving base " + spec.Name, Place: spec.Place,
			Message: fmt.Sprintf("the Go mirror has no toolchain %s for %s", spec.Go, platform),
			Remedy:  "ask for a version it has",
		}
	}
	return newest, nil
}

// patchInTime is newestPatch of those that were there at the time the mirrors
// are taken as of.
func patchInTime(ctx context.Context, m *mirror.Set, list []string, language, suffix string) (string, error) {
	for {
		newest := newestPatch(list, language, suffix)
		if newest == "" || m.At().IsZero() {
			return newest, nil
		}
		made, err := m.GoTime(ctx, toolchainModule, newest)
		if err != nil || !made.After(m.At()) {
			return newest, err
		}
		list = slices.DeleteFunc(list, func(v string) bool { return v == newest })
	}
}

// newestPatch finds the newest release 1.N.P of language version 1.N. Release
// candidates are never chosen.
func newestPatch(list []string, language, suffix string) string {
	best, newest := -1, ""
	for _, v := range list {
		rest, ok := strings.CutPrefix(v, toolchainPrefix+language+".")
		if !ok {
			continue
		}
		rest, ok = strings.CutSuffix(rest, suffix)
		if !ok {
			continue
		}
		if patch, err := strconv.Atoi(rest); err == nil && patch > best {
			best, newest = patch, v
		}
	}
	return newest
}

// fetchToolchain gets the locked zip. The lock's sum is over the files in it,
// so a mirror that packs the same files anew is as good.
func fetchToolchain(ctx context.Context, m *mirror.Set, t *LockedToolchain) (mirror.Blob, error) {
	blob, err := m.FetchGoModule(ctx, t.Module, t.Version)
	if err != nil {
		return mirror.Blob{}, err
	}
	if blob.Material.Digest.Hex() == t.SHA256 {
		return blob, nil
	}
	sum, err := dirhash.HashZip(blob.Path, dirhash.Hash1)
	if err != nil {
		return mirror.Blob{}, fmt.Errorf("summing go toolchain %s: %w", t.Version, err)
	}
	if sum != t.Sum {
		return mirror.Blob{}, &artifact.Error{
			Kind: artifact.KindFault, Op: "fetching go toolchain", Place: t.Version,
			Message: fmt.Sprintf("the mirror serves %s, the lock says %s", sum, t.Sum),
			Remedy:  "find out who changed it before trusting either",
		}
	}
	return blob, nil
}

// addToolchain unpacks a toolchain module below /usr/local/go and repairs what
// a module zip cannot carry, as the go command does when it switches
// toolchains: permission bits, and the go.mod files it calls _go.mod.
func addToolchain(tree *rootfs.Tree, zipPath string, t *LockedToolchain) error {
	z, err := zip.OpenReader(zipPath)
	if err != nil {
		return fmt.Errorf("opening go toolchain: %w", err)
	}
	defer z.Close()
	prefix := t.Module + "@" + t.Version + "/"
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, prefix)
		if !ok {
			return fmt.Errorf("go toolchain %s: stray file %q", t.Version, f.Name)
		}
		if strings.HasSuffix(name, "/") {
			continue
		}
		if err := addToolchainFile(tree, f, name); err != nil {
			return fmt.Errorf("go toolchain %s: %w", t.Version, err)
		}
	}
	if tree.Get(goRoot+"/bin/go") == nil {
		return fmt.Errorf("go toolchain %s: no bin/go in it", t.Version)
	}
	return nil
}

func addToolchainFile(tree *rootfs.Tree, f *zip.File, name string) (err error) {
	body, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if path.Base(name) == "_go.mod" {
		name = path.Join(path.Dir(name), "go.mod")
	}
	mode := int64(0o644)
	if executable(name) {
		mode = 0o755
	}
	return tree.Add(&tar.Header{
		Typeflag: tar.TypeReg, Name: path.Join(goRoot, name), Mode: mode, Size: int64(f.UncompressedSize64),
	}, io.LimitReader(body, int64(f.UncompressedSize64)))
}

func executable(name string) bool {
	if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "pkg/tool/") {
		return true
	}
	match, _ := path.Match("go_?*_?*_exec", path.Base(name))
	return match && strings.HasPrefix(name, "lib/")
}
