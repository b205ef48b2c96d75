package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/leaks"
	"drydock/pipeline/step/internal/normalize"
)

func runLeaks(_ context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("leaks", flag.ContinueOnError)
	in := fs.String("in", "", "OCI archive to look into")
	dir := fs.String("secrets", "", "folder of the secrets, each a file named by its id")
	base := fs.String("base-layers", "", "diff ids of layers not to look into, separated by commas")
	maxBytes := fs.Int64("max-bytes", normalize.DefaultMaxBytes, "how much the layers may unpack to")
	if err := parse(fs, args, std, "in", "secrets"); err != nil {
		return err
	}
	o := leaks.Options{In: *in, Secrets: map[string][]byte{}, MaxBytes: *maxBytes}
	var err error
	if o.Base, err = digests(*base); err != nil {
		return err
	}
	files, err := os.ReadDir(*dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if o.Secrets[f.Name()], err = os.ReadFile(filepath.Join(*dir, f.Name())); err != nil {
			return err
		}
	}
	found, err := leaks.Find(o)
	if err != nil {
		return err
	}
	return leaks.Refuse(found)
}

// digests reads a list separated by commas.
func digests(list string) ([]artifact.Digest, error) {
	var out []artifact.Digest
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		d, err := artifact.ParseDigest(s)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
