// Package scan finds known vulnerabilities in an image's packages, as a step
// of the engine, and finds the database to do it with.
package scan

import (
	"context"
	"encoding/json"
	"fmt"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun"
)

// DB is a vulnerability database ready for use: unpacked, verified, indexed.
type DB struct {
	Dir      string            // holds vulnerability.db, read-only by convention
	Database artifact.Database // Source and Digest at least
}

// Run scans the packages of a syft JSON document. It never reaches a network
// and never judges the database's age: that is policy's business.
func Run(ctx context.Context, c *dagger.Client, stepBin string, syft *dagger.File, db DB) (*artifact.ScanReport, error) {
	run := steprun.Container(c, steprun.Call{
		Binary: stepBin,
		Args: []string{"scan", "--sbom", "/in/sbom.syft.json", "--db", "/db", "--out", "/out/scan.json",
			"--db-digest", string(db.Database.Digest), "--db-source", db.Database.Source},
		Files: map[string]*dagger.File{"/in/sbom.syft.json": syft},
		Dirs:  map[string]*dagger.Directory{"/db": c.Host().Directory(db.Dir)},
	})
	raw, err := run.File("/out/scan.json").Contents(ctx)
	if err != nil {
		return nil, steprun.Explain(ctx, "scanning", "", err)
	}
	report := new(artifact.ScanReport)
	if err := json.Unmarshal([]byte(raw), report); err != nil {
		return nil, fmt.Errorf("reading what the scan step wrote: %w", err)
	}
	return report, nil
}
