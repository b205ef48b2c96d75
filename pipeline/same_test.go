//go:build linux

package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drydock/modules/steprun/steptest"
)

// TestSameDigest builds one catalog in ways that must not matter: from an empty
// state, one after the other and all at once, in both tiers, under another
// umask, without git, in a shallow clone of a merge. The other users and
// containers are TestOrdinaryUser's and TestContainerRun's.
func TestSameDigest(t *testing.T) {
	d := openDock(t)
	t.Parallel()
	from := t.TempDir()
	if err := sameCatalog(from); err != nil {
		t.Fatal(err)
	}
	want := built(t, d, from, d.cache)
	if len(want) < 3 {
		t.Fatalf("built %v", want)
	}
	for _, way := range []struct {
		name  string
		place func(t *testing.T, from string) string // gives the working directory
		keep  []string                               // of the state, beside what the mirrors served
		args  []string
	}{
		{"no git, umask 0, one after the other", unversioned, nil, []string{"--jobs", "1"}},
		{"shallow merge, all at once, tier T2", shallowMerge, []string{"bases"}, []string{"--jobs", "16", "--tier", "T2"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			if os.Getuid() != 0 && slices.Contains(way.args, "T2") {
				way.args = way.args[:2] // T2 is for root of a container
			}
			dir := way.place(t, from)
			t.Parallel()
			got := built(t, d, dir, emptyState(t, d, way.keep...), way.args...)
			for name, digest := range want {
				if got[name] != digest {
					t.Errorf("%s: %s, was %s\n%s", name, got[name], digest, layoutDiff(t, layoutOf(from, name), layoutOf(dir, name)))
				}
			}
		})
	}
}

// sameCatalog is smallCatalog with an image on that image and one on the minimal
// base; or with the shipped images.
func sameCatalog(dir string) error {
	for name, body := range map[string]string{
		"catalog/images/next.yaml":       "version: 1\nname: next\nplatforms: [linux/amd64]\n",
		"catalog/images/next/Dockerfile": "FROM small\nUSER 0\nCOPY sub /srv/sub\nRUN find /srv -type f | sort >/found && mkdir -p /srv/m && echo x >/srv/m/x\n",
		"catalog/images/next/sub/run":    "#!/bin/sh\n",
		"catalog/images/next/sub/text":   "text\n",
		"catalog/images/bare.yaml":       "version: 1\nname: bare\nplatforms: [linux/amd64]\n",
		"catalog/images/bare/Dockerfile": "FROM minimal\nCOPY . /srv/\nUSER 65532:65532\n",
		"catalog/images/bare/deep/file":  "file\n",
	} {
		if err := writeIn(dir, name, body); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "catalog/images/next/sub/run"), 0o755); err != nil {
		return err
	}
	if os.Getenv(wholeCatalog) == "all" {
		if err := copyCatalog(filepath.Join(dir, "catalog"), true); err != nil {
			return err
		}
	}
	return smallCatalog(dir)
}

// built builds everything in dir and gives the digests.
func built(t *testing.T, d *dock, dir, cache string, args ...string) map[string]string {
	t.Helper()
	j := d.startWith(t, dir, []string{"DRYDOCK_CACHE=" + cache}, append([]string{"build", "--json"}, args...)...)
	if code := j.exit(t); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, j.stdout, j.stderr)
	}
	file := filepath.Join(t.TempDir(), "summary.json")
	if err := os.WriteFile(file, j.stdout.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return digests(t, file)
}

// emptyState is a cache with nothing but what the mirrors served, so that they
// are not asked for the same megabytes again, and folders to be kept.
func emptyState(t *testing.T, d *dock, keep ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "drydock-same-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(steptest.RemoveState(dir), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range append(keep, "mirror") {
		if err := copyState(filepath.Join(d.cache, sub), filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// unversioned is a copy without git, whose files everybody may write.
func unversioned(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(filepath.Join(from, "catalog"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		if e.IsDir() {
			return errors.Join(os.MkdirAll(to, 0o700), os.Chmod(to, 0o777))
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o666)
		if info.Mode()&0o100 != 0 {
			mode = 0o777
		}
		return errors.Join(copyFile(path, to, 0o600), os.Chmod(to, mode))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// shallowMerge is a shallow clone of a merge with a commit that has nothing to
// do with the catalog, as CI checks out a change request.
func shallowMerge(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clone")
	for _, args := range [][]string{
		{"checkout", "--quiet", "-b", "unrelated"},
		{"commit", "--quiet", "--allow-empty", "--message=unrelated"},
		{"checkout", "--quiet", "main"},
		{"merge", "--quiet", "--no-ff", "--message=merge", "unrelated"},
		{"clone", "--quiet", "--depth=1", "file://" + from, dir},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = from, append(os.Environ(), gitEnviron...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", args[0], err, out)
		}
	}
	return dir
}

// layoutOf is where a run in dir leaves an image, or a variant: tomcat@10.1-17.
func layoutOf(dir, image string) string {
	return filepath.Join(dir, "out", filepath.FromSlash(strings.Replace(image, "@", "/", 1)), "oci")
}

// layoutDiff says which lines of what two layouts of an image hold differ.
func layoutDiff(t *testing.T, was, is string) string {
	t.Helper()
	var b strings.Builder
	old, now := layoutLines(t, was), layoutLines(t, is)
	for _, side := range []struct {
		sign string
		have []string
		not  []string
	}{{"-", old, now}, {"+", now, old}} {
		for _, line := range side.have {
			if !slices.Contains(side.not, line) {
				fmt.Fprintln(&b, side.sign, line)
			}
		}
	}
	return b.String()
}

// layoutLines describes every entry of a layout's layers and its configuration.
func layoutLines(t *testing.T, layout string) []string {
	t.Helper()
	var lines []string
	manifest, err := eachLayer(layout, func(n int, r io.Reader) error {
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			sum := sha256.New()
			if _, err := io.Copy(sum, tr); err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("layer %d: %+v %x", n, *h, sum.Sum(nil)))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(blobFile(layout, manifest.Config))
	if err != nil {
		t.Fatal(err)
	}
	return append(lines, string(config))
}
