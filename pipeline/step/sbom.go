package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"path/filepath"
	"time"

	"drydock/pipeline/step/internal/bom"
)

func runSBOM(ctx context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("sbom", flag.ContinueOnError)
	in := fs.String("in", "", "OCI archive to read")
	out := fs.String("out", "", "directory for sbom.spdx.json, sbom.cdx.json, sbom.syft.json and packages.json")
	name := fs.String("name", "image", "what the documents call the image")
	epoch := fs.Int64("epoch", 0, "creation time of the documents, seconds since 1970")
	if err := parse(fs, args, std, "in", "out"); err != nil {
		return err
	}
	d, err := bom.Generate(ctx, bom.Options{Archive: *in, Name: *name, Epoch: time.Unix(*epoch, 0).UTC()})
	if err != nil {
		return err
	}
	if d.Packages.Total == 0 {
		_, _ = fmt.Fprintln(std.err, "sbom: the image has no packages that any cataloguer knows")
	}
	packages, err := json.Marshal(d.Packages)
	if err != nil {
		return err
	}
	for file, raw := range map[string][]byte{
		"sbom.spdx.json": d.SPDX, "sbom.cdx.json": d.CycloneDX, "sbom.syft.json": d.Syft,
		"packages.json": append(packages, '\n'),
	} {
		if err := writeFile(filepath.Join(*out, file), raw); err != nil {
			return err
		}
	}
	return nil
}
