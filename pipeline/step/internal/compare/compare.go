// Package compare says how two archives of one image differ: which field of the
// configuration, which file of which layer, and in what. What it reads is not
// trusted. The first archive need not hold the layers that are the same.
package compare

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/ociarchive"
)

// Options says what to compare.
type Options struct {
	Was, Now string // OCI archives of one image each
	Work     string // folder for unpacked layers
	MaxBytes int64  // all layers unpacked; 0 is 32 GiB
	MaxFiles int    // files of one layer; 0 is 2,000,000
}

// Run compares two archives. An empty answer means that nothing but their
// spelling differs.
func Run(o Options) (*artifact.ImageDiff, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 32 << 30
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 2_000_000
	}
	was, err := openImage(o.Was)
	if err != nil {
		return nil, refuse(err)
	}
	defer was.close()
	now, err := openImage(o.Now)
	if err != nil {
		return nil, refuse(err)
	}
	defer now.close()
	work, err := os.MkdirTemp(o.Work, ".compare-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	c := &comparison{Options: o, work: work, budget: &ociarchive.Budget{Left: o.MaxBytes}}
	out := &artifact.ImageDiff{Version: 1, Config: documents(was, now), Layers: []artifact.LayerDiff{}}
	for i := range max(len(was.diffIDs), len(now.diffIDs)) {
		d, err := c.layer(i, was, now)
		if err != nil {
			return nil, refuse(fmt.Errorf("layer %d: %w", i, err))
		}
		if d != nil {
			out.Layers = append(out.Layers, *d)
		}
	}
	return out, nil
}

func refuse(err error) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "comparing images", Err: err,
		Remedy: "try again; if it stays so, one of the two is broken or hostile",
	}
}

type comparison struct {
	Options
	work   string
	budget *ociarchive.Budget
}

// layer compares the layers at one place; nil when they are the same.
func (c *comparison) layer(i int, was, now *openedImage) (*artifact.LayerDiff, error) {
	d := &artifact.LayerDiff{Index: i, Instruction: now.instruction(i), Files: []artifact.FileDiff{}}
	if d.Instruction == "" {
		d.Instruction = was.instruction(i)
	}
	switch {
	case i >= len(was.diffIDs):
		d.Now, d.Note = now.diffIDs[i], "the layer is new"
		return d, nil
	case i >= len(now.diffIDs):
		d.Was, d.Note = was.diffIDs[i], "the layer is gone"
		return d, nil
	}
	d.Was, d.Now = was.diffIDs[i], now.diffIDs[i]
	if d.Was == d.Now {
		if was.manifest.Layers[i].Digest == now.manifest.Layers[i].Digest {
			return nil, nil
		}
		d.Note = "the same files, compressed differently: another compressor or release of Go made it"
		return d, nil
	}
	before, err := c.unpack("was", was, i)
	if err != nil {
		return nil, err
	}
	defer before.close()
	after, err := c.unpack("now", now, i)
	if err != nil {
		return nil, err
	}
	defer after.close()
	return d, c.files(d, before, after)
}

// files lists what differs, in the order of paths.
func (c *comparison) files(d *artifact.LayerDiff, was, now *files) error {
	for _, path := range paths(was, now) {
		f, err := difference(path, was, now)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		if len(d.Files) >= artifact.MaxFileDiffs {
			d.More++
			continue
		}
		d.Files = append(d.Files, *f)
	}
	if len(d.Files) == 0 {
		d.Note = "the same files in another order or spelling"
	}
	return nil
}

func paths(was, now *files) []string {
	out := make([]string, 0, len(now.byPath))
	for p := range now.byPath {
		out = append(out, p)
	}
	for p := range was.byPath {
		if _, both := now.byPath[p]; !both {
			out = append(out, p)
		}
	}
	sort.Strings(out)
	return out
}

// unpack writes a layer's tar to a file and lists it.
func (c *comparison) unpack(side string, img *openedImage, i int) (_ *files, err error) {
	blob, err := img.archive.Blob(img.manifest.Layers[i])
	if err != nil {
		return nil, err
	}
	r, _, err := ociarchive.Decompress(blob, c.budget)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := os.Create(filepath.Join(c.work, fmt.Sprintf("%s-%d.tar", side, i)))
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	out := &files{tar: f}
	if err == nil {
		err = out.list(c.MaxFiles)
	}
	if err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}
