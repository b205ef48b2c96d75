package trees

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func at(dir string) []mount.Mount {
	if dir == "" {
		return nil
	}
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"ro", "rbind"}}}
}

// labelStore keeps labels in memory.
type labelStore map[digest.Digest]map[string]string

func (l labelStore) Get(d digest.Digest) (map[string]string, error) { return l[d], nil }
func (l labelStore) Set(d digest.Digest, m map[string]string) error { l[d] = m; return nil }
func (l labelStore) Update(d digest.Digest, m map[string]string) (map[string]string, error) {
	if l[d] == nil {
		l[d] = map[string]string{}
	}
	maps.Copy(l[d], m)
	return l[d], nil
}

// layerOf reads the layer the differ makes of two snapshots.
func layerOf(t *testing.T, b *bench, store content.Store, lower, upper string) []byte {
	t.Helper()
	desc, err := NewDiffer(b.Snapshotter, store).Compare(t.Context(), at(lower), at(upper),
		diff.WithMediaType(ocispecs.MediaTypeImageLayer), diff.WithReference("test"))
	b.must(err)
	blob, err := content.ReadBlob(t.Context(), store, desc)
	b.must(err)
	if desc.Digest != digest.FromBytes(blob) {
		t.Errorf("digest %s is not that of the bytes", desc.Digest)
	}
	return blob
}

// entries tells what a layer says, without the order.
func entries(t *testing.T, blob []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(blob))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out)
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.Join([]string{h.Name, string(h.Typeflag), h.Linkname, h.ModTime.String()}, " "))
	}
}

// TestLayers: a delta written as a layer says what walking both snapshots
// says, and unpacked over the parent, without a tree, gives the snapshot.
func TestLayers(t *testing.T) {
	lazy := Options{Lazy: true, Deferred: func(key string) bool { return strings.HasPrefix(key, "extract") || strings.HasPrefix(key, "late") }}
	b := open(t, lazy)
	store, err := local.NewLabeledStore(t.TempDir(), labelStore{})
	b.must(err)
	b.step("base", "", func(dir string) { sh(t, dir, baseScript) })
	late := func(name string) string {
		if name == "" {
			return ""
		}
		b.n++
		m, err := b.View(t.Context(), "late"+string(rune('a'+b.n)), name)
		b.must(err)
		return m[0].Source
	}
	parent, unpacked := "", ""
	for i, script := range append([]string{""}, steps...) {
		name := "base"
		if i > 0 {
			name = "s" + string(rune('0'+i))
			b.step(name, parent, func(dir string) { sh(t, dir, script) })
		}
		lower, upper := late(parent), late(name)
		got := layerOf(t, b, store, lower, upper)
		if i > 1 && (exists(lower) || exists(upper)) {
			t.Errorf("%s: a view was made for its layer", name)
		}
		var want bytes.Buffer
		if i > 0 {
			b.must(archive.WriteDiff(t.Context(), &want, b.view(parent), b.view(name)))
		} else {
			b.must(archive.WriteDiff(t.Context(), &want, "", b.view(name)))
		}
		// a new name of an unchanged file is a file of its own in a layer made
		// with overlay, and so here; walking tells the old name too
		if strings.Contains(script, "ln etc/keep") {
			if slices.ContainsFunc(entries(t, got), func(e string) bool { return strings.HasPrefix(e, "etc/keep ") }) {
				t.Errorf("%s: the layer tells an unchanged file", name)
			}
		} else if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: the layer says\n%s\nwalking says\n%s", name,
				strings.Join(entries(t, got), "\n"), strings.Join(entries(t, want.Bytes()), "\n"))
		}
		unpacked = unpack(t, b, store, unpacked, name, got)
		parent = name
		compareLayers(t, b, name, unpacked)
	}
}

// unpack applies a layer over a snapshot.
func unpack(t *testing.T, b *bench, store content.Store, parent, name string, blob []byte) string {
	t.Helper()
	desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	key := "extract-" + name
	_, err := b.Prepare(t.Context(), key, parent)
	b.must(err)
	m, err := b.Mounts(t.Context(), key)
	b.must(err)
	got, err := NewApplier(b.Snapshotter, store).Apply(t.Context(), desc, m)
	b.must(err)
	if got.Digest != desc.Digest || got.Size != desc.Size {
		t.Errorf("%s: unpacked %v, not %v", name, got, desc)
	}
	if parent != "" && exists(m[0].Source) {
		t.Errorf("%s: a tree was made to unpack it", name)
	}
	b.must(b.Commit(t.Context(), "un-"+name, key))
	return "un-" + name
}

// compareLayers compares snapshots but for what a layer does not carry: parts
// of a second, attributes of the user, other names of files in the parent.
func compareLayers(t *testing.T, b *bench, a, c string) {
	t.Helper()
	var got [2]bytes.Buffer
	for i, name := range []string{a, c} {
		b.must(archive.WriteDiff(context.Background(), &got[i], "", b.view(name)))
	}
	if x, y := entries(t, got[0].Bytes()), entries(t, got[1].Bytes()); !slices.Equal(names(x), names(y)) {
		t.Errorf("%s:\n%s\nunpacked:\n%s", a, strings.Join(x, "\n"), strings.Join(y, "\n"))
	}
}

func names(entries []string) []string {
	var out []string
	for _, e := range entries {
		out = append(out, strings.Fields(e)[0])
	}
	return out
}

// TestForeignLayers: layers as others write them, and hostile ones.
func TestForeignLayers(t *testing.T) {
	b := open(t, Options{Lazy: true, Deferred: func(key string) bool { return strings.HasPrefix(key, "extract") }})
	store, err := local.NewLabeledStore(t.TempDir(), labelStore{})
	b.must(err)
	b.step("base", "", func(dir string) { sh(t, dir, baseScript+"; mkdir -p opq/sub; touch opq/a opq/sub/b") })
	layer := func(headers ...*tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range headers {
			h.Mode, h.Format = 0o644, tar.FormatPAX
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
			b.must(w.WriteHeader(h))
		}
		b.must(w.Close())
		return buf.Bytes()
	}
	blob := layer(
		&tar.Header{Name: "opq/.wh..wh..opq", Typeflag: tar.TypeReg},
		&tar.Header{Name: "opq/new", Typeflag: tar.TypeReg},
		&tar.Header{Name: "etc/.wh.gone", Typeflag: tar.TypeReg},
		&tar.Header{Name: "etc/deep/linked", Typeflag: tar.TypeLink, Linkname: "bin/sh"},
		&tar.Header{Name: "../../up", Typeflag: tar.TypeReg},
	)
	b.must(content.WriteBlob(t.Context(), store, "x", bytes.NewReader(blob),
		ocispecs.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}))
	unpack(t, b, store, "base", "foreign", blob)
	for _, dir := range []string{b.view("un-foreign"), b.fresh("un-foreign")} {
		sh(t, dir, `test ! -e opq/a; test ! -e opq/sub; test -e opq/new; test ! -e etc/gone; test -e etc/keep
test "$(stat -c %a:%u etc/deep)" = 755:0; test "$(stat -c %a:%u usr/lib)" = 2750:33; test -e up
test "$(stat -c %i bin/sh)" = "$(stat -c %i etc/deep/linked)"; test "$(cat etc/deep/linked)" = sh`)
	}
	bad := layer(&tar.Header{Name: "etc/.wh...", Typeflag: tar.TypeReg})
	b.must(content.WriteBlob(t.Context(), store, "y", bytes.NewReader(bad),
		ocispecs.Descriptor{Digest: digest.FromBytes(bad), Size: int64(len(bad))}))
	_, err = b.Prepare(t.Context(), "extract-bad", "base")
	b.must(err)
	m, err := b.Mounts(t.Context(), "extract-bad")
	b.must(err)
	_, err = NewApplier(b.Snapshotter, store).Apply(t.Context(),
		ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(bad), Size: int64(len(bad))}, m)
	if err == nil {
		t.Error("a layer that removes its own parent directory is taken")
	}
}

// killed opens the state again as a process after one that was killed would.
func (b *bench) killed(opt Options) {
	b.t.Helper()
	b.trash.Wait()
	b.must(b.ms.Close()) // the lock of a process goes with it; nothing else is done
	b.reopen(opt)
}

// TestKilled: what a killed process leaves is used or cleared, never wrong.
func TestKilled(t *testing.T) {
	b := open(t, Options{})
	b.step("base", "", func(dir string) { sh(t, dir, baseScript) })
	b.step("one", "base", func(dir string) { sh(t, dir, "printf 1 > etc/one") })
	dir := b.prepare("work", "one")
	sh(t, dir, "printf 2 > etc/two; printf changed > etc/keep; rm bin/dash")
	want := describe(t, dir)
	b.killed(Options{})
	if n, _ := list(b.root + "/idle"); len(n) != 0 {
		t.Errorf("idle trees of a killed process are used: %q", n)
	}
	b.must(b.Commit(t.Context(), "two", "work"))
	if got := describe(t, b.fresh("two")); got != want {
		t.Errorf("committed after a kill:\n%s\nis not\n%s", got, want)
	}
	// its index is gone too: every file is compared
	dir = b.prepare("work", "two")
	sh(t, dir, "printf 3 > etc/three; printf Changed > etc/keep; touch -r bin/sh etc/keep")
	want = describe(t, dir)
	b.trash.Wait()
	b.must(os.WriteFile(dir+"/../index", []byte("torn"), 0o600))
	b.killed(Options{})
	b.must(b.Commit(t.Context(), "three", "work"))
	if got := describe(t, b.fresh("three")); got != want {
		t.Errorf("committed without an index:\n%s\nis not\n%s", got, want)
	}
	r, err := loadRecord(b.recordPath(b.id("three")))
	b.must(err)
	if len(r.Changes) > 4 {
		t.Errorf("it has more changes than were made: %v", r.Changes)
	}
	// a tree half made, a delta half made, and what nobody knows
	b.must(os.MkdirAll(b.root+"/active/999/fs", 0o700))
	b.must(os.MkdirAll(b.root+"/deltas/998/fs", 0o700))
	b.must(os.MkdirAll(b.root+"/views/997-1/new", 0o700))
	dir = b.prepare("half", "three")
	b.trash.Wait() // the index is written in the background
	b.must(os.Remove(dir + "/../index"))
	b.must(os.RemoveAll(dir + "/etc"))
	b.killed(Options{})
	m, err := b.Mounts(t.Context(), "half")
	b.must(err)
	if got := describe(t, m[0].Source); got != want {
		t.Errorf("a tree that was half made:\n%s\nis not\n%s", got, want)
	}
	b.trash.Wait()
	for _, gone := range []string{"active/999", "deltas/998", "views/997-1"} {
		if exists(b.root + "/" + gone) {
			t.Errorf("%s is still there", gone)
		}
	}
	// after a clean end idle trees are found again
	b.step("four", "three", func(string) {})
	b.must(b.Close())
	b.reopen(Options{})
	if len(b.idle) == 0 {
		t.Error("no idle tree was kept")
	}
	b.step("five", "four", func(dir string) {
		if got := describe(t, dir); got != want {
			t.Errorf("on a tree kept from before:\n%s\nis not\n%s", got, want)
		}
	})
}
