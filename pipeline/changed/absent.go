package changed

import (
	"bytes"
	"context"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"drydock/catalog"
)

// Absence is why an image's sources are not all here: git has them, the work
// tree does not. A build would take what stands in their place.
type Absence struct {
	Path   string // relative to the repository
	Why    string
	Remedy string
}

// lfsPointer begins the text that stands for a file of Git LFS
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n"

// absent finds submodules that are not checked out and files of Git LFS that
// were not fetched, by the images they belong to. Repositories that say of
// neither cost no call of git. project says whose images are looked at.
func (g *git) absent(ctx context.Context, c *catalog.Catalog, project bool, out map[string]Absence) error {
	var images []*catalog.Image
	for i := range c.Images {
		if c.Images[i].Project == project {
			images = append(images, &c.Images[i])
		}
	}
	if _, err := os.Stat(filepath.Join(g.top, ".gitmodules")); err == nil {
		raw, err := g.run(ctx, "ls-files", "--stage", "-z", "--", g.dir)
		if err != nil {
			return g.failed(ctx, err)
		}
		for _, entry := range split(raw) {
			info, file, _ := strings.Cut(entry, "\t")
			if strings.HasPrefix(info, "160000 ") && g.empty(file) {
				g.missing(out, images, Absence{file, "the submodule " + file + " is not checked out", "run git submodule update --init --recursive (in GitLab CI set GIT_SUBMODULE_STRATEGY: recursive, in Azure Pipelines submodules: recursive)"})
			}
		}
	}
	if !g.mentionsLFS(images) {
		return nil
	}
	raw, err := g.run(ctx, "ls-files", "-z", "--", ":(attr:filter=lfs)"+g.dir)
	if err != nil {
		return g.failed(ctx, err)
	}
	for _, file := range split(raw) {
		if isPointer(filepath.Join(g.top, filepath.FromSlash(file))) {
			g.missing(out, images, Absence{file, file + " is a pointer of Git LFS, its content was not fetched", "run git lfs pull (in Azure Pipelines set lfs: true)"})
		}
	}
	return nil
}

// missing notes what is absent for the images that have it in their sources.
func (g *git) missing(out map[string]Absence, images []*catalog.Image, a Absence) {
	rel, ok := under(g.dir, a.Path)
	if !ok {
		return
	}
	for _, img := range images {
		if _, known := out[img.Name]; !known && partOf(img, rel) {
			out[img.Name] = a
		}
	}
}

func (g *git) empty(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(g.top, filepath.FromSlash(dir)))
	return err != nil || len(entries) == 0
}

// mentionsLFS looks into the attribute files above and in the contexts.
func (g *git) mentionsLFS(images []*catalog.Image) bool {
	looked := map[string]bool{}
	for _, img := range images {
		dirs := []string{img.ContextDir}
		for _, n := range img.NamedContexts {
			dirs = append(dirs, n.Dir)
		}
		for _, dir := range dirs {
			for at := path.Join(g.dir, dir); !looked[at]; at = path.Dir(at) {
				looked[at] = true
				raw, err := os.ReadFile(filepath.Join(g.top, filepath.FromSlash(at), ".gitattributes"))
				if err == nil && bytes.Contains(raw, []byte("filter=lfs")) {
					return true
				}
			}
		}
	}
	return false
}

func isPointer(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(lfsPointer))
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == lfsPointer
}
