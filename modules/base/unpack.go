package base

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
	"drydock/modules/mirror"
	"drydock/modules/mirror/debian/deb"
)

// debFile is a locked package and where its verified bytes are.
type debFile struct {
	LockedPackage
	path string
}

// fetched is every verified input of one platform.
type fetched struct {
	debs      []debFile // by name
	toolchain string    // path of the zip
	node      []string  // paths of the tarballs, in the lock's order
}

// fetches is how many packages are fetched at a time.
const fetches = 6

// fetchTarget gets the locked files of one platform.
func (b *Builder) fetchTarget(ctx context.Context, lock *Lock, t *LockedTarget) (fetched, []artifact.Material, error) {
	out := fetched{debs: make([]debFile, len(t.Packages))}
	materials := make([]artifact.Material, len(t.Packages))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(fetches)
	for i, p := range t.Packages {
		group.Go(func() error {
			blob, err := b.Mirrors.Fetch(gctx, mirror.Request{
				Ecosystem: mirror.Debian, Path: p.Archive + "/" + p.Path,
				SHA256: artifact.Digest("sha256:" + p.SHA256), Size: p.Size, At: lock.at(),
			})
			if err != nil {
				return fmt.Errorf("fetching %s %s: %w", p.Name, p.Version, err)
			}
			materials[i] = named(blob.Material, fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Name, p.Version, p.Architecture))
			out.debs[i] = debFile{p, blob.Path}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return out, nil, err
	}
	if t.Toolchain != nil {
		blob, err := fetchToolchain(ctx, b.Mirrors, t.Toolchain)
		if err != nil {
			return out, nil, err
		}
		materials = append(materials, named(blob.Material, "pkg:golang/"+t.Toolchain.Module+"@"+t.Toolchain.Version))
		out.toolchain = blob.Path
	}
	node, more, err := fetchNode(ctx, b.Mirrors, lock, t.Node)
	if err != nil {
		return out, nil, err
	}
	out.node, materials = node, append(materials, more...)
	return out, materials, nil
}

// named gives a material a package URL if it has none.
func named(m artifact.Material, purl string) artifact.Material {
	if m.PURL == "" {
		m.PURL = purl
	}
	return m
}

// unpacked is what unpacking one package left to be recorded.
type unpacked struct {
	name, multiArch string
	arch            string
	stanza          string
	control         map[string][]byte
	list            []string // paths, as dpkg lists them
}

// unpackOptions are how packages are unpacked.
type unpackOptions struct {
	dropSetuid bool // no file keeps set-user-id or set-group-id
	strict     bool // two packages must not bring the same file
}

// unpack puts the files of packages into the tree. base-files goes first: it
// describes the folders everybody shares.
func unpack(tree *rootfs.Tree, debs []debFile, opt unpackOptions) ([]unpacked, error) {
	ordered := slices.Clone(debs)
	slices.SortStableFunc(ordered, func(a, b debFile) int {
		return rankFirst(a.Name, "base-files") - rankFirst(b.Name, "base-files")
	})
	opened, err := openAll(tree, ordered)
	if err != nil {
		return nil, err
	}
	owners := map[string]string{}
	out := make([]unpacked, 0, len(opened))
	for i := range opened {
		o := &opened[i]
		err := rootfs.Walk(o.data, func(h *tar.Header, body io.Reader, offset int64) error {
			return addEntry(tree, o, h, body, offset, opt, owners)
		})
		if err != nil {
			return nil, fmt.Errorf("unpacking %s %s: %w", ordered[i].Name, ordered[i].Version, err)
		}
		out = append(out, o.unpacked)
	}
	slices.SortFunc(out, func(a, b unpacked) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// opened is a package whose files lie decompressed in a spool.
type opened struct {
	unpacked
	data *io.SectionReader
}

// openAll decompresses packages, as many at a time as there are processors, the
// largest first: that is most of the work of unpacking.
func openAll(tree *rootfs.Tree, debs []debFile) ([]opened, error) {
	spools, err := tree.Spools(min(runtime.GOMAXPROCS(0), len(debs)))
	if err != nil {
		return nil, err
	}
	order := make(chan int, len(debs))
	bySize := make([]int, len(debs))
	for i := range bySize {
		bySize[i] = i
	}
	slices.SortStableFunc(bySize, func(a, b int) int { return cmp.Compare(debs[b].Size, debs[a].Size) })
	for _, i := range bySize {
		order <- i
	}
	close(order)
	out := make([]opened, len(debs))
	group := new(errgroup.Group)
	for _, spool := range spools {
		group.Go(func() error {
			for i := range order {
				if tree.Stop != nil {
					if err := tree.Stop(); err != nil {
						return err
					}
				}
				o, err := openOne(spool, debs[i])
				if err != nil {
					return fmt.Errorf("unpacking %s %s: %w", debs[i].Name, debs[i].Version, err)
				}
				out[i] = o
			}
			return nil
		})
	}
	return out, group.Wait()
}

func rankFirst(name, first string) int {
	if name == first {
		return 0
	}
	return 1
}

func openOne(spool *rootfs.Spool, d debFile) (o opened, err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return o, err
	}
	pkg, err := deb.Open(f, info.Size())
	if err != nil {
		return o, err
	}
	// The index is signed, the file's digest is in the index; a control file
	// that says another name is still a package that lies.
	if pkg.Field("Package") != d.Name || pkg.Field("Version") != d.Version || pkg.Field("Architecture") != d.Architecture {
		return o, fmt.Errorf("the package calls itself %s %s (%s)",
			pkg.Field("Package"), pkg.Field("Version"), pkg.Field("Architecture"))
	}
	o.unpacked = unpacked{name: d.Name, arch: d.Architecture, multiArch: pkg.Field("Multi-Arch"), control: pkg.Control}
	if o.stanza, err = pkg.Stanza(); err != nil {
		return o, err
	}
	stream, done, err := pkg.Data()
	if err != nil {
		return o, err
	}
	defer done()
	o.data, err = spool.Keep(stream)
	return o, err
}

func addEntry(tree *rootfs.Tree, u *opened, h *tar.Header, body io.Reader, offset int64, opt unpackOptions, owners map[string]string) error {
	clean, err := rootfs.Clean(h.Name)
	if err != nil {
		return err
	}
	u.list = append(u.list, listed(clean))
	if excluded(clean) {
		return nil
	}
	if opt.dropSetuid && h.Typeflag != tar.TypeDir {
		h.Mode &^= 0o6000
	}
	if h.Typeflag != tar.TypeDir {
		at, err := tree.Resolve(clean)
		if err != nil {
			return err
		}
		if other := owners[at]; other != "" && other != u.name && opt.strict {
			return fmt.Errorf("%s is in package %s too", clean, other)
		}
		owners[at] = u.name
	}
	return tree.AddAt(h, body, u.data, offset)
}

// listed is a path as info/*.list has it; the root is "/.".
func listed(clean string) string {
	if clean == "" {
		return "/."
	}
	return "/" + clean
}

// excluded is documentation and translations: bases leave them out as Debian's
// own slim images do, but keep every copyright file.
func excluded(p string) bool {
	for _, dir := range excludedDirs {
		if p != dir && rootfs.Within(p, dir) {
			return path.Base(p) != "copyright" || dir != docDir
		}
	}
	return false
}

const docDir = "usr/share/doc"

var excludedDirs = []string{
	docDir, "usr/share/groff", "usr/share/info", "usr/share/linda", "usr/share/lintian",
	"usr/share/locale", "usr/share/man", "usr/share/bug",
}

// mergeUsr lays out the merged /usr every current suite has.
func mergeUsr(tree *rootfs.Tree, architecture string) error {
	links := []string{"bin", "lib", "sbin"}
	if architecture == "amd64" || architecture == "ppc64le" {
		links = append(links, "lib64") // where the ABI wants the loader
	}
	for _, l := range links {
		if err := tree.Mkdir("usr/"+l, 0o755, 0, 0); err != nil {
			return err
		}
		if err := tree.Symlink(l, "usr/"+l); err != nil {
			return err
		}
	}
	return nil
}
