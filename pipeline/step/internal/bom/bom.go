// Package bom catalogues an image archive with syft and writes its bill of
// materials in three formats, the same bytes for the same image.
package bom

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/image/oci"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/format/cyclonedxjson"
	"github.com/anchore/syft/syft/format/spdxjson"
	"github.com/anchore/syft/syft/format/syftjson"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	// The driver RPM databases are read with: the one grype registers, never modernc.org/sqlite beside it.
	_ "github.com/glebarez/go-sqlite"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/ociarchive"
)

// Options says what is catalogued.
type Options struct {
	Archive string    // OCI archive of one image
	Name    string    // what the documents call it
	Epoch   time.Time // the creation time they carry
}

// Documents are the bill of materials of one image.
type Documents struct {
	SPDX, CycloneDX, Syft []byte
	Packages              wire.Packages
}

// Generate catalogues the packages installed in the image, all layers
// squashed. The source is an OCI archive and nothing else: syft's own
// detection would ask container daemons and registries for the name.
func Generate(ctx context.Context, o Options) (*Documents, error) {
	manifest, err := manifestDigest(o.Archive)
	if err != nil {
		return nil, refuse(err)
	}
	temp := file.NewTempDirGenerator("drydock-sbom")
	defer func() { _ = temp.Cleanup() }()
	img, err := oci.NewArchiveProvider(temp, o.Archive).Provide(ctx)
	if err != nil {
		return nil, refuse(err)
	}
	src := stereoscopesource.New(img, stereoscopesource.ImageConfig{
		Reference: o.Name, Alias: source.Alias{Name: o.Name, Version: string(manifest)},
	})
	defer func() { _ = src.Close() }()
	cfg := syft.DefaultCreateSBOMConfig().WithoutFiles()
	cfg.Search.Scope = source.SquashedScope
	// With the symbols of Go binaries the scan can tell a vulnerable function that is
	// linked from one that is not.
	cfg.Packages.Golang = cfg.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
	s, err := syft.CreateSBOM(ctx, src, cfg)
	if err != nil {
		return nil, fmt.Errorf("cataloguing packages: %w", err)
	}
	return encode(s, o, manifest)
}

// manifestDigest is the digest of the archive's only image, all of it checked.
func manifestDigest(path string) (artifact.Digest, error) {
	a, err := ociarchive.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = a.Close() }()
	d, m, err := a.Image()
	if err != nil {
		return "", err
	}
	for _, l := range append([]ociarchive.Descriptor{m.Config}, m.Layers...) {
		r, err := a.Blob(l)
		if err != nil {
			return "", err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return "", err
		}
	}
	return d.Digest, nil
}

func refuse(err error) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: "reading image", Err: err, Remedy: "rebuild the image: its archive is broken"}
}

func encode(s *sbom.SBOM, o Options, manifest artifact.Digest) (*Documents, error) {
	spdx, err := spdxjson.NewFormatEncoderWithConfig(spdxjson.DefaultEncoderConfig())
	if err != nil {
		return nil, err
	}
	cdx, err := cyclonedxjson.NewFormatEncoderWithConfig(cyclonedxjson.DefaultEncoderConfig())
	if err != nil {
		return nil, err
	}
	d := &Documents{Packages: count(s)}
	for _, f := range []struct {
		into   *[]byte
		enc    sbom.FormatEncoder
		steady func(document, Options, artifact.Digest)
	}{
		{&d.SPDX, spdx, steadySPDX},
		{&d.CycloneDX, cdx, steadyCycloneDX},
		{&d.Syft, syftjson.NewFormatEncoder(), steadySyft},
	} {
		var buf bytes.Buffer
		if err := f.enc.Encode(&buf, *s); err != nil {
			return nil, fmt.Errorf("encoding %s: %w", f.enc.ID(), err)
		}
		if *f.into, err = steady(buf.Bytes(), o, manifest, f.steady); err != nil {
			return nil, fmt.Errorf("encoding %s: %w", f.enc.ID(), err)
		}
	}
	return d, nil
}

// count sums the packages up, and lists the Debian source packages.
func count(s *sbom.SBOM) wire.Packages {
	out := wire.Packages{Version: wire.Version, Types: map[string]int{}}
	if l := s.Artifacts.LinuxDistribution; l != nil {
		out.Distro = strings.TrimSpace(l.ID + " " + l.VersionID)
	}
	sources := map[string][]wire.SourcePackage{}
	for p := range s.Artifacts.Packages.Enumerate() {
		out.Total++
		out.Types[string(p.Type)]++
		if m, ok := p.Metadata.(pkg.DpkgDBEntry); ok {
			name := m.Source
			if name == "" {
				name = m.Package
			}
			sources[name] = append(sources[name], wire.SourcePackage{Name: name, Binary: m.Package, Version: m.Version})
		}
	}
	for _, list := range sources {
		sort.Slice(list, func(i, j int) bool { return list[i].Binary < list[j].Binary })
		p := list[0]
		for _, o := range list[1:] {
			if o.Binary != p.Binary {
				p.Others = append(p.Others, o.Binary)
			}
		}
		out.Sources = append(out.Sources, p)
	}
	sort.Slice(out.Sources, func(i, j int) bool { return out.Sources[i].Name < out.Sources[j].Name })
	return out
}
