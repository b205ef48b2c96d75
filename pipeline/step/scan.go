package main

import (
	"context"
	"flag"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/vuln"
)

func runScan(ctx context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("scan", flag.ContinueOnError)
	sbom := fs.String("sbom", "", "syft JSON to read")
	db := fs.String("db", "", "directory with vulnerability.db")
	digest := fs.String("db-digest", "", "digest of vulnerability.db, when it is known")
	source := fs.String("db-source", "", "where the database came from")
	out := fs.String("out", "", "file for the report")
	if err := parse(fs, args, std, "sbom", "db", "out"); err != nil {
		return err
	}
	o := vuln.Options{SBOM: *sbom, DB: *db, Source: *source}
	if *digest != "" {
		d, err := artifact.ParseDigest(*digest)
		if err != nil {
			return err
		}
		o.Digest = d
	}
	report, err := vuln.Scan(ctx, o)
	if err != nil {
		return err
	}
	return writeJSON(*out, report)
}
