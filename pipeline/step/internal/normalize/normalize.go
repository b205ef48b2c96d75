// Package normalize rewrites an image archive so that the same content is the
// same digest: layers in a stable order with one time and no drift, a
// configuration without the builder's traces, one compressor. Layers of the
// base stay the bytes they are.
package normalize

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/ociarchive"
)

const (
	op         = "normalizing image"
	baseLabels = "org.opencontainers.image.base."
)

// Options says what to make of the archive.
type Options struct {
	In, Out    string
	Epoch      time.Time
	BaseLayers []artifact.Digest  // diff ids of layers kept as they are
	Platform   *artifact.Platform // what the image must be for, if given
	Labels     map[string]string  // said of the image, as labels and as annotations; a Dockerfile's own stay
	Inherited  map[string]string  // labels left out when they have this value: they speak of the base
	MaxBytes   int64              // all layers unpacked; 0 is DefaultMaxBytes
	MaxEntries int                // files of one layer; 0 is DefaultMaxEntries
	KeepTraces bool               // what package managers leave behind stays
	History    []wire.History     // in place of the archive's, or none if it is of other layers; nil leaves that
}

// Bounds that hold when Options has none.
const (
	DefaultMaxBytes   = 32 << 30
	DefaultMaxEntries = 2_000_000
)

// Run rewrites o.In to o.Out. It streams: memory grows with the number of
// files in a layer, not with their size.
func Run(o Options) (*wire.Image, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	a, err := ociarchive.Open(o.In)
	if err != nil {
		return nil, refuse(err)
	}
	defer func() { _ = a.Close() }()
	work, err := os.MkdirTemp(filepath.Dir(o.Out), ".normalize-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	n := &normalizer{Options: o, archive: a, work: work, dirs: newDirectories(), budget: &ociarchive.Budget{Left: o.MaxBytes}}
	return n.run()
}

type normalizer struct {
	Options
	archive *ociarchive.Archive
	work    string
	dirs    *directories // of the layers so far
	budget  *ociarchive.Budget
}

func (n *normalizer) run() (*wire.Image, error) {
	_, manifest, err := n.archive.Image()
	if err != nil {
		return nil, refuse(err)
	}
	raw, err := n.archive.Document(manifest.Config)
	if err != nil {
		return nil, refuse(err)
	}
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, refuse(err)
	}
	if len(cfg.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, refuse(fmt.Errorf("configuration names %d layers, manifest %d", len(cfg.RootFS.DiffIDs), len(manifest.Layers)))
	}
	if n.Platform != nil && !sameImagePlatform(*n.Platform, cfg.platform()) {
		return nil, refuse(fmt.Errorf("image is for %s, want %s", cfg.platform(), n.Platform))
	}
	base := map[artifact.Digest]bool{}
	for _, d := range n.BaseLayers {
		base[d] = true
	}
	out := &wire.Image{Version: wire.Version, Platform: cfg.platform(), Config: cfg.wire()}
	var blobs []ociarchive.Content
	for i, d := range manifest.Layers {
		diffID := cfg.RootFS.DiffIDs[i]
		one := n.rewrite
		if base[diffID] {
			one = n.keep
		}
		layer, content, err := one(i, d, diffID)
		if err != nil {
			return nil, refuse(fmt.Errorf("layer %d: %w", i, err))
		}
		out.Layers = append(out.Layers, layer)
		blobs = append(blobs, content)
	}
	return n.finish(out, cfg, blobs)
}

// finish writes configuration, manifest and archive.
func (n *normalizer) finish(out *wire.Image, cfg *config, blobs []ociarchive.Content) (*wire.Image, error) {
	for i, l := range out.Layers {
		cfg.RootFS.DiffIDs[i] = l.DiffID
		out.Size += l.Size
	}
	base := 0
	for _, l := range out.Layers {
		if l.Base {
			base++
		}
	}
	cfg.tell(n.History, base)
	annotations, err := n.describe(cfg)
	if err != nil {
		return nil, refuse(err)
	}
	configBlob, err := ociarchive.Document(ociarchive.MediaTypeConfig, cfg.normalized(n.Epoch))
	if err != nil {
		return nil, err
	}
	m := ociarchive.Manifest{SchemaVersion: 2, MediaType: ociarchive.MediaTypeManifest, Config: configBlob.Descriptor, Layers: []ociarchive.Descriptor{}, Annotations: annotations}
	for _, b := range blobs {
		m.Layers = append(m.Layers, b.Descriptor)
	}
	manifestBlob, err := ociarchive.Document(ociarchive.MediaTypeManifest, m)
	if err != nil {
		return nil, err
	}
	top := manifestBlob.Descriptor
	p := out.Platform
	top.Platform = &ociarchive.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	if err := ociarchive.Write(n.Out, top, append(blobs, configBlob, manifestBlob)); err != nil {
		return nil, fmt.Errorf("writing image archive: %w", err)
	}
	out.Manifest, out.ConfigID = manifestBlob.Digest, configBlob.Digest
	out.Size += configBlob.Size + manifestBlob.Size
	return out, nil
}

// describe gives the image its labels and says those of ours that it has then:
// they are annotations too.
func (n *normalizer) describe(cfg *config) (map[string]string, error) {
	labels := map[string]string{}
	if raw := cfg.Config["Labels"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &labels); err != nil {
			return nil, fmt.Errorf("configuration: labels: %w", err)
		}
	}
	if labels == nil { // they were null
		labels = map[string]string{}
	}
	for k, v := range n.Inherited {
		if labels[k] == v {
			delete(labels, k)
		}
	}
	annotations := map[string]string{}
	for k, v := range n.Labels {
		// What it stands on is a fact, the rest is for the Dockerfile to say.
		if _, has := labels[k]; !has || strings.HasPrefix(k, baseLabels) {
			labels[k] = v
		}
		annotations[k] = labels[k]
	}
	if cfg.Config == nil {
		cfg.Config = map[string]json.RawMessage{}
	}
	raw, err := json.Marshal(labels)
	if err != nil {
		return nil, err
	}
	cfg.Config["Labels"] = raw
	return annotations, nil
}

// keep passes a base layer through, checked, and notes its directories.
func (n *normalizer) keep(_ int, d ociarchive.Descriptor, diffID artifact.Digest) (wire.Layer, ociarchive.Content, error) {
	none := wire.Layer{}
	blob, err := n.archive.Blob(d)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	r, mediaType, err := ociarchive.Decompress(blob, n.budget)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	tee := io.TeeReader(r, sum)
	entries, err := readEntries(tee, nil, n.MaxEntries)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return none, ociarchive.Content{}, err
	}
	if got := artifact.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))); got != diffID {
		return none, ociarchive.Content{}, fmt.Errorf("content is %s, configuration says %s", got, diffID)
	}
	n.dirs.remove(entries)
	n.dirs.add(entries)
	desc := ociarchive.Descriptor{MediaType: mediaType, Digest: d.Digest, Size: d.Size}
	open := func() (io.ReadCloser, error) {
		b, err := n.archive.Blob(d)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(b), nil
	}
	return wire.Layer{Digest: d.Digest, DiffID: diffID, Size: d.Size, MediaType: mediaType, Base: true},
		ociarchive.Content{Descriptor: desc, Open: open}, nil
}

// sameImagePlatform compares platforms; arm64 and arm64/v8 are one.
func sameImagePlatform(a, b artifact.Platform) bool {
	norm := func(p artifact.Platform) artifact.Platform {
		if p.Architecture == "arm64" && p.Variant == "v8" {
			p.Variant = ""
		}
		return p
	}
	return norm(a) == norm(b)
}

// refuse marks what is wrong with the archive, not with us.
func refuse(err error) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: op, Err: err,
		Remedy: "rebuild the image; if it fails again, the engine wrote a broken or hostile archive"}
}

// config is an image configuration; what it does not name is dropped.
type config struct {
	Architecture string                     `json:"architecture"`
	OS           string                     `json:"os"`
	Variant      string                     `json:"variant,omitempty"`
	OSVersion    string                     `json:"os.version,omitempty"`
	OSFeatures   []string                   `json:"os.features,omitempty"`
	Author       string                     `json:"author,omitempty"`
	Created      string                     `json:"created"`
	Config       map[string]json.RawMessage `json:"config"`
	RootFS       rootFS                     `json:"rootfs"`
	History      []history                  `json:"history,omitempty"`
}

type rootFS struct {
	Type    string            `json:"type"`
	DiffIDs []artifact.Digest `json:"diff_ids"`
}

type history struct {
	Created    string `json:"created"`
	CreatedBy  string `json:"created_by,omitempty"`
	Author     string `json:"author,omitempty"`
	Comment    string `json:"comment,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

func parseConfig(raw []byte) (*config, error) {
	c := new(config)
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("parsing configuration: %w", err)
	}
	if c.OS == "" || c.Architecture == "" {
		return nil, fmt.Errorf("configuration names no platform")
	}
	for _, d := range c.RootFS.DiffIDs {
		if _, err := artifact.ParseDigest(string(d)); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	return c, nil
}

func (c *config) platform() artifact.Platform {
	return artifact.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
}

// stepCounter is how BuildKit numbers the instruction a layer came from
// ("[stage-0 4/4] "): what it counts depends on the engine.
var stepCounter = regexp.MustCompile(`^\[[a-zA-Z0-9_./@ -]*[0-9]+/[0-9]+\] `)

// normalized is the configuration with one time and no trace of the builder.
// BuildKit makes up history for layers the build tells none of, those of a base
// without any, and marks it by this comment. What it says depends on how its
// cache came by the layer, so it is replaced.
const (
	exporterComment = "buildkit.exporter.image.v0"
	baseLayer       = "layer of the base image"
)

func (c *config) normalized(epoch time.Time) *config {
	at := epoch.UTC().Format(time.RFC3339)
	out := *c
	out.Created = at
	out.RootFS.Type = "layers"
	out.Config = map[string]json.RawMessage{}
	for k, v := range c.Config {
		switch k {
		case "Hostname", "Domainname", "Image", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce":
			continue // of the container a builder once ran, not of the image
		case "ArgsEscaped":
			continue // of Windows; BuildKit sets it with every CMD, a Dagger Engine never
		}
		if s := string(v); s != "null" && s != `""` && s != "{}" && s != "false" {
			out.Config[k] = canonical(v)
		}
	}
	out.History = make([]history, 0, len(c.History))
	for _, h := range baseFirst(c.History) {
		h.Created = at
		h.CreatedBy = stepCounter.ReplaceAllString(h.CreatedBy, "")
		if h.Comment == exporterComment {
			h.CreatedBy = baseLayer
		}
		if strings.HasPrefix(h.Comment, "buildkit.") {
			h.Comment = ""
		}
		out.History = append(out.History, h)
	}
	return &out
}

// baseFirst puts what BuildKit made up for a base's layers where those layers
// are: it adds them at the end, and every instruction after the base would seem
// to have made another layer than it did.
func baseFirst(all []history) []history {
	out := make([]history, 0, len(all))
	for _, made := range []bool{true, false} {
		for _, h := range all {
			if (h.Comment == exporterComment) == made {
				out = append(out, h)
			}
		}
	}
	return out
}

// tell replaces the history. What is told begins with the base's own, which may
// have none: then something is made up for its layers, as BuildKit does.
func (c *config) tell(told []wire.History, base int) {
	if told == nil {
		return
	}
	if string(c.Config["WorkingDir"]) == `"/"` {
		delete(c.Config, "WorkingDir") // a Dagger Engine says it of every image
	}
	layers := 0
	for _, h := range told {
		if !h.EmptyLayer {
			layers++
		}
	}
	if silent := len(c.RootFS.DiffIDs) - layers; silent != 0 && silent != base {
		c.History = nil // the engine made other layers than the Dockerfile says
		return
	}
	all := make([]history, 0, len(told)+base)
	for range len(c.RootFS.DiffIDs) - layers {
		all = append(all, history{Comment: exporterComment})
	}
	for _, h := range told {
		all = append(all, history{CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment, EmptyLayer: h.EmptyLayer})
	}
	c.History = all
}

// canonical is the same JSON value with its keys sorted.
func canonical(raw json.RawMessage) json.RawMessage {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}

// wire is the part of the configuration the program looks at.
func (c *config) wire() wire.Config { return ociarchive.Runtime(c.Config) }
