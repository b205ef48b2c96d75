package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/normalize"
)

func runNormalize(_ context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("normalize", flag.ContinueOnError)
	in := fs.String("in", "", "OCI archive to read")
	out := fs.String("out", "", "OCI archive to write")
	outJSON := fs.String("out-json", "", "file for what was written, as JSON")
	epoch := fs.Int64("epoch", 0, "the one time in the result, seconds since 1970")
	base := fs.String("base-layers", "", "diff ids of layers to keep as they are, separated by commas")
	platform := fs.String("platform", "", "platform the image must be for")
	labels, inherited := pairs{}, pairs{}
	fs.Var(labels, "label", "key=value to say of the image, as label and annotation; may be repeated")
	fs.Var(inherited, "inherited", "key=value of a label to leave out, since it speaks of the base; may be repeated")
	keepTraces := fs.Bool("keep-traces", false, "leave what package managers leave behind: logs, caches, lists")
	told := fs.String("history", "", "file with the history of the image, as JSON, in place of the archive's")
	maxBytes := fs.Int64("max-bytes", normalize.DefaultMaxBytes, "how much the layers may unpack to")
	if err := parse(fs, args, std, "in", "out"); err != nil {
		return err
	}
	o := normalize.Options{
		In: *in, Out: *out, Epoch: time.Unix(*epoch, 0).UTC(), MaxBytes: *maxBytes, Labels: labels, Inherited: inherited, KeepTraces: *keepTraces,
	}
	var err error
	if o.BaseLayers, err = digests(*base); err != nil {
		return err
	}
	if *told != "" {
		raw, err := os.ReadFile(*told)
		if err == nil {
			err = json.Unmarshal(raw, &o.History)
		}
		if err != nil {
			return fmt.Errorf("reading the history: %w", err)
		}
	}
	if *platform != "" {
		p, err := artifact.ParsePlatform(*platform)
		if err != nil {
			return err
		}
		o.Platform = &p
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	result, err := normalize.Run(o)
	if err != nil || *outJSON == "" {
		return err
	}
	return writeJSON(*outJSON, result)
}

// pairs is a flag.Value that collects key=value.
type pairs map[string]string

// String implements flag.Value.
func (p pairs) String() string { return fmt.Sprint(map[string]string(p)) }

// Set implements flag.Value.
func (p pairs) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("%q is not key=value", s)
	}
	p[k] = v
	return nil
}
