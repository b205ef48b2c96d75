package main

import (
	"context"
	"flag"
	"os"

	"drydock/pipeline/step/internal/compare"
)

func runCompare(_ context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	was := fs.String("was", "", "OCI archive of the image as it was; layers that are the same may be missing")
	now := fs.String("now", "", "OCI archive of the image built again")
	out := fs.String("out", "", "file for how they differ, as JSON")
	if err := parse(fs, args, std, "was", "now", "out"); err != nil {
		return err
	}
	diff, err := compare.Run(compare.Options{Was: *was, Now: *now, Work: os.TempDir()})
	if err != nil {
		return err
	}
	return writeJSON(*out, diff)
}
