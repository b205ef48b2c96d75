package main

import (
	"context"
	"flag"
	"path/filepath"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/vuln"
)

// runVulnDB has two commands of its own.
func runVulnDB(_ context.Context, args []string, std streams) error {
	if len(args) == 0 {
		return usage("vulndb: want import or build")
	}
	switch args[0] {
	case "import":
		return importDB(args[1:], std)
	case "build":
		return buildDB(args[1:], std)
	}
	return usage("vulndb: unknown command %q", args[0])
}

func importDB(args []string, std streams) error {
	fs := flag.NewFlagSet("vulndb import", flag.ContinueOnError)
	in := fs.String("in", "", "archive or database file")
	checksum := fs.String("digest", "", "what the archive must be")
	out := fs.String("out", "", "directory for vulnerability.db and database.json")
	limit := fs.Int64("max-bytes", vuln.MaxDatabase, "how much the archive may unpack to")
	if err := parse(fs, args, std, "in", "out"); err != nil {
		return err
	}
	var want artifact.Digest
	if *checksum != "" {
		d, err := artifact.ParseDigest(*checksum)
		if err != nil {
			return err
		}
		want = d
	}
	d, err := vuln.Import(*in, want, *out, *limit)
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(*out, wire.DatabaseFile), d)
}

func buildDB(args []string, std streams) error {
	fs := flag.NewFlagSet("vulndb build", flag.ContinueOnError)
	debs := fs.String("debs", "", "directory of binary packages whose changelogs are read")
	distro := fs.String("distro", "", "what they belong to, as in \"debian 12\"")
	built := fs.Int64("built", 0, "when they were fetched, seconds since 1970")
	out := fs.String("out", "", "directory for vulnerability.db, knowledge.json and database.json")
	if err := parse(fs, args, std, "debs", "distro", "out"); err != nil {
		return err
	}
	d, err := vuln.FromChangelogs(vuln.Build{Debs: *debs, Distro: *distro, Built: time.Unix(*built, 0).UTC(), Out: *out})
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(*out, wire.DatabaseFile), d)
}
