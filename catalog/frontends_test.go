package catalog

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"drydock/modules/artifact"
)

const (
	frontendDigest = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	frontendsText  = "version: 1\nfrontends:\n  - syntax: example.org/mine:1\n    image: tools/mine@" + frontendDigest + "\n"
)

func withFrontends(list, dockerfile string) fstest.MapFS {
	files := small()
	if list != "" {
		files[FrontendsFile] = &fstest.MapFile{Data: []byte(list)}
	}
	for name := range files {
		if strings.Contains(name, "/Dockerfile") {
			files[name] = &fstest.MapFile{Data: append([]byte(dockerfile+"\n"), files[name].Data...)}
		}
	}
	return files
}

func TestFrontends(t *testing.T) {
	for line, want := range map[string]string{
		"#":                              "",
		"# syntax=docker/dockerfile:1.7": "",
		"# syntax=example.org/mine:1":    "tools/mine",
		"# syntax=example.org/mine:1@" + frontendDigest: "tools/mine",
	} {
		c, err := Load(withFrontends(frontendsText, line), "cat")
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, img := range c.Images {
			got := ""
			if f := img.Frontend; f != nil {
				got = f.Repository()
				if f.Digest() != frontendDigest || f.Place != "cat/frontends.yaml:3" {
					t.Errorf("%s: got %+v", line, f)
				}
			}
			if got != want {
				t.Errorf("%s: read by %q, want %q", line, got, want)
			}
		}
		if len(c.Images) == 0 {
			t.Error("no image was read")
		}
	}
}

func TestFrontendsRefused(t *testing.T) {
	mine := "# syntax=example.org/mine:1"
	for _, c := range []struct{ list, line, place, message string }{
		{"", mine, "Dockerfile:1", "names the frontend example.org/mine:1, which the catalog does not list"},
		{frontendsText, "# syntax=example.org/mine:2", "Dockerfile:1", "does not list"},
		{frontendsText, "# syntax=example.org/mine", "Dockerfile:1", "does not list"},
		{frontendsText, "#!/bin/x\n# syntax=mine:1", "Dockerfile:2", "does not list"},
		{frontendsText, mine + "@sha256:" + strings.Repeat("f", 64), "Dockerfile:1", "the catalog has that frontend as " + frontendDigest},
		{frontendsText + "  - syntax: example.org/mine:1\n    image: other@" + frontendDigest + "\n", mine, "cat/frontends.yaml:5", "is there twice, also in cat/frontends.yaml:3"},
		{"version: 1\nfrontends:\n  - syntax: docker/dockerfile:1-labs\n    image: x@" + frontendDigest + "\n", "#", "cat/frontends.yaml:3", "is built in"},
		{"version: 1\nfrontends:\n  - syntax: mine:1\n    image: mine:1\n", "#", "cat/frontends.yaml:4", "is not path@sha256"},
		{"version: 1\nfrontends:\n  - syntax: mine:1 x\n    image: mine@" + frontendDigest + "\n", "#", "cat/frontends.yaml:3", "is not what a # syntax= line names"},
		{"version: 1\nfrontends:\n  - syntax: mine:1\n    tag: x\n", "#", "cat/frontends.yaml:4", "unknown field tag"},
		{"version: 2\n", "#", "cat/frontends.yaml:1", "newer"},
	} {
		_, err := Load(withFrontends(c.list, c.line), "cat")
		var e *artifact.Error
		if !errors.As(err, &e) || !strings.HasSuffix(e.Place, c.place) || !strings.Contains(err.Error(), c.message) || e.Remedy == "" {
			t.Errorf("%q with %q: got %v", c.line, c.list, err)
		}
	}
}
