package catalog

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const goodProject = `version: 1
catalog: ../ops
images:
  - name: shop/web
    platforms: [linux/amd64]
    tests: {readOnlyRoot: true}
  - name: shop/job
    context: job
    dockerfile: Dockerfile.job
    platforms: [linux/amd64]
    matrix: {KIND: [a, b]}
    tests: {nonRoot: false, structure: [job/structure.yaml]}
    secrets: [{id: token, env: TOKEN}]
policy:
  staging:
    allowUnknown: false
    rules:
      vulnerabilities: {failOn: medium}
`

func projectFiles() fstest.MapFS {
	return fstest.MapFS{
		"Dockerfile":         {Data: []byte("FROM docker.io/library/golang:1.26-bookworm AS b\nCOPY . .\nFROM minimal\nCOPY --from=b /x /\nUSER 1\n")},
		".dockerignore":      {Data: []byte("*.md\n")},
		"job/Dockerfile.job": {Data: []byte("FROM full\nCOPY x /\n")},
		"job/structure.yaml": {Data: []byte("schemaVersion: 2.0.0\n")},
	}
}

// withStandIn is the small catalog with a base that stands for golang.
func withStandIn() fstest.MapFS {
	c := small()
	c["bases/full.yaml"] = &fstest.MapFile{Data: []byte("version: 1\nname: full\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\nstandsFor: [\"golang:1.26-*\", \"golang:1.*\"]\n")}
	return c
}

func loadProject(t *testing.T, text string) (*Catalog, error) {
	t.Helper()
	p, err := ReadProject("drydock.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	p.Exclude = []string{"out", "job/tmp"}
	return LoadProject(withStandIn(), "ops", p, projectFiles())
}

func TestProject(t *testing.T) {
	c, err := loadProject(t, goodProject)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ProjectImages(); !slices.Equal(got, []string{"shop/web", "shop/job"}) || len(c.Images) != 2 {
		t.Error("images:", got, len(c.Images))
	}
	web, _ := c.Image("shop/web")
	if web.ContextDir != "." || web.DockerfilePath != "Dockerfile" || !web.Tests.NonRoot || web.Place != "drydock.yaml:4" || web.File != "drydock.yaml" {
		t.Errorf("%+v", web)
	}
	if want := []string{"**/.git", "out", "job/tmp", "*.md"}; !slices.Equal(web.Ignore, want) {
		t.Error("ignored:", web.Ignore, "want", want)
	}
	if refs := web.Variants[0].Refs; refs[0].Base != "full" || refs[0].Spelling != "docker.io/library/golang:1.26-bookworm" || refs[1].Base != "minimal" {
		t.Error("refs:", refs)
	}
	job, _ := c.Image("shop/job")
	if job.Tests.NonRoot || len(job.Variants) != 2 || job.ContextDir != "job" || !slices.Contains(job.Ignore, "tmp") || slices.Contains(job.Ignore, "out") {
		t.Errorf("%+v", job)
	}
	stage, _ := c.Stage("staging")
	pol, ok := c.Policy(stage.Policy)
	if !ok || pol.AllowUnknown || pol.Rules.Vulnerabilities.FailOn != "medium" {
		t.Errorf("stage %+v policy %+v", stage, pol)
	}
	if own, _ := c.Policy("staging"); !own.AllowUnknown {
		t.Error("the catalog's own policy was changed")
	}
	if len(c.Tightened) != 2 || c.Tightened[1] != (Tightened{Stage: "staging", Rule: "vulnerabilities.failOn", Was: "high", Is: "medium", Place: "drydock.yaml:18"}) {
		t.Errorf("%+v", c.Tightened)
	}
}

// An image of the catalog stays when the project builds on it.
func TestProjectBuildsOnImagesOfTheCatalog(t *testing.T) {
	p, err := ReadProject("drydock.yaml", []byte("version: 1\nimages: [{name: web, platforms: [linux/amd64]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"Dockerfile": {Data: []byte("FROM app:b-1\nUSER 1\n")}}
	c, err := LoadProject(withStandIn(), "ops", p, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Image("app"); !ok || len(c.Images) != 2 {
		t.Error("images:", len(c.Images))
	}
}

func TestProjectErrors(t *testing.T) {
	for name, c := range map[string]struct{ old, text, want string }{
		"unknown field":      {"catalog: ../ops", "katalog: x", "drydock.yaml:2: unknown field katalog"},
		"unknown in image":   {"context: job", "contxt: job", "drydock.yaml:8: unknown field contxt"},
		"unknown in policy":  {"failOn: medium", "failOm: medium", "unknown field failOm"},
		"a waiver":           {"allowUnknown: false", "waivers: []", "drydock.yaml:16: unknown field waivers"},
		"newer":              {"version: 1", "version: 2", "drydock.yaml:1: version 2 is newer"},
		"no version":         {"version: 1\n", "", "no version"},
		"loosened":           {"failOn: medium", "failOn: critical", "drydock.yaml:18: stage staging: rule vulnerabilities.failOn: critical is no tightening of high"},
		"no such stage":      {"  staging:", "  moon:", `drydock.yaml:15: "moon" is no stage with a policy`},
		"the first stage":    {"  staging:", "  quarantine:", "is no stage with a policy"},
		"outside":            {"context: job", "context: ../job", "drydock.yaml:8: context ../job is outside the project"},
		"no Dockerfile":      {"Dockerfile.job", "Dockerfile.none", "drydock.yaml:9: there is no Dockerfile job/Dockerfile.none"},
		"a base's name":      {"name: shop/web", "name: minimal", "drydock.yaml:4: image minimal has the name of a base"},
		"the catalog's name": {"name: shop/web", "name: app", "drydock.yaml:4: image app is there twice, also in ops/images/app.yaml:2"},
		"a version inside":   {"context: job", "version: 1", "drydock.yaml:8: an image of a project has a version"},
		"own folder copied":  {"context: job\n    dockerfile: Dockerfile.job", "dockerfile: copies", "copies out"},
		"no images":          {goodProject[strings.Index(goodProject, "images:"):], "", "no images"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(goodProject, c.old, c.text, 1)
			if text == goodProject {
				t.Fatal("nothing replaced")
			}
			p, err := ReadProject("drydock.yaml", []byte(text))
			if err == nil {
				p.Exclude = []string{"out"}
				files := projectFiles()
				files["copies"] = &fstest.MapFile{Data: []byte("FROM full\nCOPY out/x /\n")}
				_, err = LoadProject(withStandIn(), "ops", p, files)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if err != nil && name != "the catalog's name" && strings.Contains(err.Error(), "reading catalog") {
				t.Error("it is not the catalog that is wrong:", err)
			}
		})
	}
}

func TestStandsFor(t *testing.T) {
	c := &Catalog{Bases: []Base{
		{Name: "go", StandsFor: []string{"golang:1.26.*", "golang:1.26-bookworm", "golang:1.26.*-bookworm"}},
		{Name: "wide", StandsFor: []string{"golang:*", "*.example:5000/base/static"}},
		{Name: "static", StandsFor: []string{"gcr.example/distroless/static*:nonroot"}},
		{Name: "twin", StandsFor: []string{"twice:1"}},
		{Name: "other", StandsFor: []string{"twice:1"}},
	}}
	for ref, want := range map[string]string{
		"golang:1.26.3": "go", "docker.io/library/golang:1.26-bookworm": "go", "index.docker.io/library/golang:1.26.1-bookworm@sha256:" + strings.Repeat("a", 64): "go",
		"golang:1.27": "wide", "golang": "wide", "golang:1.26-alpine": "", "golang@sha256:" + strings.Repeat("a", 64): "", "my/golang:1.26.3": "",
		"r.example:5000/base/static": "wide", "gcr.example/distroless/static:nonroot": "static", "gcr.example/distroless/static-debian12:nonroot": "",
	} {
		got, err := c.standIn(ref)
		if got != want || (err == nil) == (want == "") {
			t.Errorf("%s: %q %v, want %q", ref, got, err, want)
		}
	}
	if _, err := c.standIn("twice:1"); err == nil || !strings.Contains(err.Error(), "both stand for") {
		t.Error("two that stand for one:", err)
	}
}
