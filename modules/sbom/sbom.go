// Package sbom makes an image's bill of materials, as a step of the engine.
package sbom

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

// Documents is one platform's bill of materials in the formats people and
// tools read. All are made from one cataloguing and are the same bytes for the
// same image.
type Documents struct {
	SPDX      []byte               // SPDX JSON
	CycloneDX []byte               // CycloneDX JSON
	Syft      *dagger.File         // syft JSON, for the scan
	Packages  map[string]int       // how many of each type; empty says that there are none
	Distro    string               // id and version of the distribution, "" when the image has none
	Sources   []wire.SourcePackage // Debian source packages, for a database built to fit
}

// Options says when and what the documents speak of.
type Options struct {
	Name  string // what the documents call the image; "" is "image"
	Epoch int64  // seconds; the creation time in the documents
}

// Generate catalogues the OCI archive tar.
func Generate(ctx context.Context, c *dagger.Client, stepBin string, tar *dagger.File, o Options) (*Documents, error) {
	args := []string{"sbom", "--in", "/in/image.tar", "--out", "/out", "--epoch", strconv.FormatInt(o.Epoch, 10)}
	if o.Name != "" {
		args = append(args, "--name", o.Name)
	}
	run := steprun.Container(c, steprun.Call{
		Binary: stepBin, Args: args,
		Files: map[string]*dagger.File{"/in/image.tar": tar},
	})
	read := func(name string) ([]byte, error) {
		s, err := run.File("/out/" + name).Contents(ctx)
		if err != nil {
			return nil, steprun.Explain(ctx, "making the bill of materials", o.Name, err)
		}
		return []byte(s), nil
	}
	d := &Documents{Syft: run.File("/out/sbom.syft.json")}
	var err error
	if d.SPDX, err = read("sbom.spdx.json"); err != nil {
		return nil, err
	}
	if d.CycloneDX, err = read("sbom.cdx.json"); err != nil {
		return nil, err
	}
	raw, err := read("packages.json")
	if err != nil {
		return nil, err
	}
	var p wire.Packages
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("reading what the sbom step wrote: %w", err)
	}
	if p.Version != wire.Version {
		return nil, &artifact.Error{Kind: artifact.KindInternal, Op: "reading packages.json",
			Message: fmt.Sprintf("version %d, want %d: the step program is of another release", p.Version, wire.Version)}
	}
	d.Packages, d.Distro, d.Sources = p.Types, p.Distro, p.Sources
	return d, nil
}
