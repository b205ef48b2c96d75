package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/ociarchive"
)

// openedImage is an archive with its documents read.
type openedImage struct {
	archive  *ociarchive.Archive
	manifest *ociarchive.Manifest
	raw      map[string]any // the manifest as it is
	config   map[string]any
	diffIDs  []artifact.Digest
	made     []string // what made each layer, from the history
}

func openImage(path string) (*openedImage, error) {
	a, err := ociarchive.Open(path)
	if err != nil {
		return nil, err
	}
	img := &openedImage{archive: a}
	if err := img.read(); err != nil {
		img.close()
		return nil, err
	}
	return img, nil
}

func (img *openedImage) close() { _ = img.archive.Close() }

func (img *openedImage) read() error {
	desc, manifest, err := img.archive.Image()
	if err != nil {
		return err
	}
	img.manifest = manifest
	raw, err := img.archive.Document(desc)
	if err == nil {
		err = decode(raw, &img.raw)
	}
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	raw, err = img.archive.Document(manifest.Config)
	if err == nil {
		err = decode(raw, &img.config)
	}
	var c struct {
		RootFS struct {
			DiffIDs []artifact.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		History []struct {
			CreatedBy  string `json:"created_by"`
			EmptyLayer bool   `json:"empty_layer"`
		} `json:"history"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(manifest.Layers) {
		return fmt.Errorf("the configuration names %d layers, the manifest %d", len(c.RootFS.DiffIDs), len(manifest.Layers))
	}
	img.diffIDs = c.RootFS.DiffIDs
	for _, h := range c.History {
		if !h.EmptyLayer {
			img.made = append(img.made, h.CreatedBy)
		}
	}
	return nil
}

func decode(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

// instruction is what made a layer, not at any length.
func (img *openedImage) instruction(i int) string {
	if i >= len(img.made) {
		return ""
	}
	return short(img.made[i], 200)
}

func short(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// documents compares manifest and configuration field by field. What only
// repeats that layers or the configuration differ is left out.
func documents(was, now *openedImage) []artifact.FieldDiff {
	out := fields("", strip(was.config, "rootfs"), strip(now.config, "rootfs"))
	return append(out, fields("manifest", strip(was.raw, "layers", "config"), strip(now.raw, "layers", "config"))...)
}

func strip(doc map[string]any, names ...string) map[string]any {
	out := map[string]any{}
	for k, v := range doc {
		out[k] = v
	}
	for _, n := range names {
		delete(out, n)
	}
	return out
}

// fields compares two JSON values and names what differs by its path.
func fields(at string, was, now any) []artifact.FieldDiff {
	switch w := was.(type) {
	case map[string]any:
		if n, ok := now.(map[string]any); ok {
			return members(at, w, n)
		}
	case []any:
		if n, ok := now.([]any); ok && len(w) == len(n) {
			var out []artifact.FieldDiff
			for i := range w {
				out = append(out, fields(at+"["+strconv.Itoa(i)+"]", w[i], n[i])...)
			}
			return out
		}
	}
	before, after := text(was), text(now)
	if before == after {
		return nil
	}
	return []artifact.FieldDiff{{Field: at, Was: before, Now: after}}
}

func members(at string, was, now map[string]any) []artifact.FieldDiff {
	names := map[string]bool{}
	for k := range was {
		names[k] = true
	}
	for k := range now {
		names[k] = true
	}
	sorted := make([]string, 0, len(names))
	for k := range names {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	out := []artifact.FieldDiff{}
	for _, k := range sorted {
		name := k
		if at != "" {
			name = at + "." + k
		}
		w, had := was[k]
		n, has := now[k]
		switch {
		case had && has:
			out = append(out, fields(name, w, n)...)
		case had:
			out = append(out, artifact.FieldDiff{Field: name, Was: text(w)})
		default:
			out = append(out, artifact.FieldDiff{Field: name, Now: text(n)})
		}
	}
	return out
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return short(string(raw), 400)
}
