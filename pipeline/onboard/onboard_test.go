package onboard

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

func tree(files ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		out[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return out
}

func ops() *catalog.Catalog {
	amd, arm := artifact.Platform{OS: "linux", Architecture: "amd64"}, artifact.Platform{OS: "linux", Architecture: "arm64"}
	return &catalog.Catalog{Bases: []catalog.Base{
		{Name: "golang-1.26", Kind: "debian", Variant: "full", Go: "1.26", Packages: []string{"apt"}, Platforms: []artifact.Platform{amd}, StandsFor: []string{"golang:1.26"}, File: "bases/golang-1.26.yaml"},
		{Name: "minimal", Kind: "debian", Variant: "minimal", User: "65532", Platforms: []artifact.Platform{amd, arm}, StandsFor: []string{"gcr.example/distroless/static:nonroot"}, File: "bases/minimal.yaml"},
		{Name: "static", Kind: "debian", Variant: "static", Platforms: []artifact.Platform{amd}, File: "bases/static.yaml", StandsFor: []string{"gcr.example/distroless/static-debian12"}},
		{Name: "full", Kind: "debian", Variant: "full", Packages: []string{"apt"}, Platforms: []artifact.Platform{amd}, File: "bases/full.yaml", StandsFor: []string{"debian:12"}},
	}, Images: []catalog.Image{{Name: "taken"}}}
}

func propose(t *testing.T, files fstest.MapFS) *Proposal {
	t.Helper()
	p, err := Propose(Input{
		Files: files, Name: "Shop.Front", Catalog: ops(), Spec: "../ops",
		Mirror: func(e string) string {
			return map[string]string{"go": "https://go.test", "debian": "http://deb.test"}[e]
		},
		Ignored: func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(f string) bool { return !strings.HasPrefix(f, "tmp/") })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const goFile = "FROM --platform=$BUILDPLATFORM golang:1.26 AS b\nARG TARGETARCH\nCOPY go.mod ./\nCOPY . .\nRUN GOARCH=$TARGETARCH go build -o /x .\nFROM gcr.example/distroless/static:nonroot\nCOPY --from=b /x /\n"

func TestPropose(t *testing.T) {
	p := propose(t, tree(
		"go.mod", "module x\n", "main.go", "package main\n",
		"build/Dockerfile", goFile,
		"svc/api/Dockerfile", "FROM golang:1.26\nCOPY svc/api/main.go /x/\nRUN apt-get install -y git && pip install x\nUSER 1\n", "svc/api/main.go", "",
		"svc/web/web.Dockerfile", "FROM node:20-alpine AS b\nCOPY package.json ./\nCOPY dist /d\nRUN npm ci\nADD https://x.test/f /f\nUSER node\n", "svc/web/package.json", "{}",
		"taken/Containerfile", "FROM full\nUSER 1\n",
		"svc/Dockerfile.arg", "ARG WHAT\nFROM $WHAT\n",
		"Dockerfile.j2", "FROM {{ base }}\n", "Dockerfile.md", "# text\n", "bad/Dockerfile", "FETCH x\n",
		"vendor/x/Dockerfile", "FROM full\n", "node_modules/y/Dockerfile", "FROM full\n", "a/testdata/Dockerfile", "FROM full\n",
		".devcontainer/Dockerfile", "FROM full\n", "tmp/Dockerfile", "FROM full\n", "sub/.git", "gitdir: x\n", "sub/Dockerfile", "FROM full\n",
	))
	got := map[string]Image{}
	for _, i := range p.Images {
		got[i.Name] = i
	}
	for name, want := range map[string]struct {
		context, file string
		ready         bool
		platforms     int
		problem       string
	}{
		"shop-front": {".", "build/Dockerfile", true, 2, ""},
		"api":        {".", "svc/api/Dockerfile", true, 1, ""},
		"web-web":    {"svc/web", "web.Dockerfile", false, 1, "dist is not in the repository"},
		"taken-app":  {"taken", "Containerfile", true, 1, ""},
		"svc-arg":    {"svc", "Dockerfile.arg", false, 1, "depends on a build argument"},
	} {
		img, ok := got[name]
		if !ok || img.Context != want.context || img.Dockerfile != want.file || img.Ready != want.ready || len(img.Platforms) != want.platforms {
			t.Errorf("%s: %v %+v", name, ok, img)
		}
		text := ""
		for _, x := range img.Problems {
			text += x.Place + " " + x.Message
		}
		if want.problem == "" && text != "" || !strings.Contains(text, want.problem) {
			t.Errorf("%s: problems %q, want %q", name, text, want.problem)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d images", len(got))
	}
	skipped := map[string]string{}
	for _, s := range p.Skipped {
		skipped[s.Path] = s.Why
	}
	for file, why := range map[string]string{
		"Dockerfile.j2": "template", "vendor/x/Dockerfile": "vendored", "a/testdata/Dockerfile": "test data", ".devcontainer/Dockerfile": "for tools",
		"tmp/Dockerfile": "git ignores", "sub": "a repository of its own", "bad/Dockerfile": "FETCH",
	} {
		if !strings.Contains(skipped[file], why) {
			t.Errorf("%s left out as %q, want %q", file, skipped[file], why)
		}
	}
	needs := ""
	for _, b := range p.Bases {
		needs += b.Ref + "=" + b.Base + "[" + b.File + "] " + b.Propose
	}
	for _, want := range []string{"golang:1.26=golang-1.26", "node:20-alpine=[bases/node-20-slim.yaml]", `node: "20"`, `standsFor: ["node:20-alpine"]   # Debian in place of Alpine`} {
		if !strings.Contains(needs, want) {
			t.Errorf("bases %s\nwant %s", needs, want)
		}
	}
	tools := map[string]string{}
	for _, e := range p.Ecosystems {
		tools[e.Tool] = e.Mirror
	}
	if tools["go"] != "https://go.test" || tools["apt"] != "http://deb.test" || len(tools) != 4 {
		t.Error(tools)
	}
	if len(p.Downloads) != 1 || p.Downloads[0].Checksum || p.Downloads[0].Place != "svc/web/web.Dockerfile:5" {
		t.Errorf("%+v", p.Downloads)
	}
	if !strings.Contains(p.Project, "  # - name: web-web\n") || !strings.Contains(p.Project, "platforms: [linux/amd64, linux/arm64]") || !strings.Contains(p.Project, "catalog: ../ops\n") {
		t.Error(p.Project)
	}
}

// What another catalog could have for a reference.
func TestProposeBase(t *testing.T) {
	for ref, want := range map[string]string{
		"golang:1.26-bookworm":                        `bases/golang-1.26.yaml standsFor: ["golang:1.26-bookworm"]`,
		"docker.io/library/golang:1.26-alpine":        "apk in RUN will not work",
		"golang:1.22":                                 "bases/golang-1.22.yaml version: 1\nname: golang-1.22",
		"debian:bookworm":                             `bases/full.yaml standsFor: ["debian:bookworm"]`,
		"gcr.example/distroless/base-debian12:latest": `bases/minimal.yaml standsFor:`,
		"quay.example/org/tool:v1@sha256:abc":         "image: org/tool@sha256:abc",
		"debian:trixie-slim":                          "bases/debian-trixie.yaml version: 1\nname: debian-trixie\nkind: debian\nvariant: full\nsuite: trixie   #",
		"debian:13.1":                                 `suite: trixie`,
		"debian":                                      `bases/full.yaml standsFor: ["debian:latest"]   # latest moves`,
		"node:22-bookworm-slim":                       "bases/node-22-slim.yaml version: 1\nname: node-22-slim\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\npackages: [apt]\nnode: \"22\"\n",
		"node:lts":                                    `standsFor: ["node:lts"]   # lts names no version`,
		"mirror.example/library/node:22":              `node: "22"`,
		"mirror.example/mine/node:22":                 "image: mine/node@sha256:…",
		"gcr.example/distroless/static-debian13":      `bases/static.yaml standsFor:`,
		"gcr.example/distroless/cc:nonroot":           `bases/minimal.yaml standsFor:`,
		"busybox:musl":                                "image: library/busybox@sha256:…", // files are taken from it
	} {
		file, text := proposeBase(ops(), newNeed(ref))
		if !strings.Contains(file+" "+text, want) {
			t.Errorf("%s: %s %s\nwant %s", ref, file, text, want)
		}
	}
}

// What a build argument says of FROM is guessed where its name tells, and shown.
func TestProposeArguments(t *testing.T) {
	p := propose(t, tree("Dockerfile", "ARG ARCH\nARG BUILDER=placeholder\nFROM ${BUILDER} AS b\nRUN CGO_ENABLED=1 go build\nFROM gcr.example/distroless/static:latest-$ARCH\nCOPY --from=b /x /\nUSER 1\n",
		"cgo/Dockerfile", "FROM golang:1.26\nENV CGO_ENABLED=1\nRUN go build\nUSER 1\n"))
	var out strings.Builder
	if err := p.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"gcr.example/distroless/static:latest-amd64", "FROM is written ${BUILDER}: args:", "bases/golang-1.26.yaml:\n  | packages: [..., gcc, libc6-dev]",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if !strings.Contains(p.Project, "  #   # args: {BUILDER: …}   what it builds on") {
		t.Error(p.Project)
	}
	if !strings.Contains(p.Project, "  #   args: {ARCH: amd64}   # FROM needs it\n") {
		t.Error(p.Project)
	}
}

// A yarn.lock names the registry itself.
func TestProposeRegistries(t *testing.T) {
	files := tree("Dockerfile", "FROM full\nCOPY . .\nRUN yarn install --frozen-lockfile\nUSER 1\n", "package.json", "{}",
		"yarn.lock", "a@1:\n  version \"1.0.0\"\n  resolved \"https://registry.example/a/-/a-1.0.0.tgz#0\"\nb@1:\n  resolved \"https://registry.example/b/-/b-1.0.0.tgz#0\"\n")
	p := propose(t, files)
	if got := p.Images[0].Problems; len(got) != 1 || got[0].Place != "yarn.lock" || !strings.Contains(got[0].Remedy, "standsFor: {registry.example/: npm}") {
		t.Errorf("%+v", got)
	}
	delete(files, "yarn.lock")
	if p := propose(t, files); len(p.Images[0].Problems) != 0 {
		t.Errorf("%+v", p.Images[0].Problems)
	}
}

// When no image can be planned, the file lists them all: whoever plans is told.
func TestProposeWithNothingReady(t *testing.T) {
	p := propose(t, tree("Dockerfile", "FROM node:20\nUSER 1\n"))
	if strings.Contains(p.Project, "# - name") || !strings.Contains(p.Project, "  - name: shop-front\n") {
		t.Error(p.Project)
	}
}

func TestProposeFindsNothing(t *testing.T) {
	_, err := Propose(Input{Files: tree("README.md", "x", "vendor/Dockerfile", "FROM full\n"), Catalog: ops()})
	if artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "vendor/Dockerfile") {
		t.Error(err)
	}
}

// Two that would have one name are told apart.
func TestNames(t *testing.T) {
	p := propose(t, tree("a/x/Dockerfile", "FROM full\nUSER 1\n", "b/x/Dockerfile", "FROM full\nUSER 1\n", "a/x/f", "", "b/x/f", ""))
	if p.Images[0].Name == p.Images[1].Name {
		t.Error(p.Images[0].Name)
	}
}

// What RUN calls decides what is proposed, and taking a proposal leaves the rest
// of a base's file alone.
func TestAddBases(t *testing.T) {
	p := propose(t, tree(
		"a/Dockerfile", "FROM golang:1.26 AS b\nRUN make x\nFROM alpine:3.21\nCOPY --from=b /x /x\n",
		"b/Dockerfile", "FROM golang:1.24-alpine AS b\nRUN git describe && CGO_ENABLED=1 go build\nFROM node:20\nRUN npm ci\nCOPY --from=b /x /x\nUSER 1\n",
		"c/Dockerfile", "FROM golang:1.23-alpine AS b\nRUN apk add git\nFROM full\nCOPY --from=b /x /x\nUSER 1\n",
	))
	if len(p.Images[0].Problems) == 0 || !strings.Contains(p.Images[0].Problems[0].Message, "has not all that RUN calls: make") {
		t.Errorf("%+v", p.Images[0].Problems)
	}
	cat := tree(
		"bases/golang-1.26.yaml", "name: golang-1.26\npackages: [apt] # few\nstate: active\n",
		"bases/minimal.yaml", "name: minimal\nstandsFor:\n  - x:1 # why\n",
	)
	got, err := p.AddBases(cat)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got.Files["bases/golang-1.26.yaml"]); text != "name: golang-1.26\npackages: [apt, make] # few\nstate: active\n" {
		t.Error(text)
	}
	if text := string(got.Files["bases/golang-1.24-git.yaml"]); !strings.Contains(text, "packages: [apt, git]\ngo: \"1.24\"") || !strings.Contains(text, `standsFor: ["golang:1.24-alpine"]`) {
		t.Error(text)
	}
	if text := string(got.Files["bases/node-20.yaml"]); !strings.Contains(text, "packages: [apt, make, git, g++, libc6-dev, python3]\nnode: \"20\"") {
		t.Error(text)
	}
	if len(got.Left) != 2 { // Alpine with its own packages, and alpine where no base is like it
		t.Errorf("%+v", got.Left)
	}
	cat["bases/golang-1.26.yaml"].Data = []byte("packages:\n  - apt\n")
	if _, err := p.AddBases(cat); artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "golang-1.26.yaml") {
		t.Error(err)
	}
	for have, want := range map[string]string{
		"a: 1\nstandsFor: [x]\nb: 2\n":            "a: 1\nstandsFor: [x, \"y\"]\nb: 2\n",
		"a: 1\nstandsFor: []\n":                   "a: 1\nstandsFor: [\"y\"]\n",
		"standsFor:\n  # first\n  - x\n":          "",
		"a: 1\nstandsFor:\n    - x # why\nb: 2\n": "a: 1\nstandsFor:\n    - \"y\"\n    - x # why\nb: 2\n",
		"a: 1": "a: 1\nstandsFor: [\"y\"]\n",
	} {
		if text, ok := standFor(have, `"y"`); text != want || ok != (want != "") {
			t.Errorf("%q: %q", have, text)
		}
	}
}

// Where the last stage copies what is not there, the target that does not is
// meant; where two may be, nobody guesses.
func TestChooseTarget(t *testing.T) {
	const file = "FROM full AS base\nCOPY main.go /\nFROM base AS run\nUSER 1\nFROM base AS release\nCOPY dist/x_$TARGETARCH /\nUSER 1\n"
	p := propose(t, tree("Dockerfile", file, "main.go", ""))
	if p.Images[0].Target != "run" || !strings.Contains(p.Project, "    target: run ") || len(p.Images[0].Problems) != 0 {
		t.Errorf("%+v\n%s", p.Images[0], p.Project)
	}
	p = propose(t, tree("Dockerfile", "FROM full AS other\nUSER 1\n"+file, "main.go", ""))
	if p.Images[0].Target != "" || len(p.Images[0].Problems) != 1 {
		t.Errorf("%+v", p.Images[0])
	}
	p = propose(t, tree("Dockerfile", file, "main.go", "", "dist/x_amd64", ""))
	if p.Images[0].Target != "" || len(p.Images[0].Problems) != 0 {
		t.Errorf("%+v", p.Images[0])
	}
}

// An image that would be root gets a user, and one that copies what a release
// makes first waits while others can be built.
func TestProposeUserAndMissing(t *testing.T) {
	p := propose(t, tree("Dockerfile", "FROM full\nRUN true\n", "Dockerfile.release", "FROM full\nCOPY dist/x /\nUSER 1\n"))
	if !strings.Contains(p.Project, "    user: \"65532:65532\"   # ") || strings.Count(p.Project, "user:") != 1 {
		t.Error(p.Project)
	}
	if !strings.Contains(p.Project, "# Not yet: it copies what is not in the repository, dist/x.\n  # - name: shop-front-release\n") {
		t.Error(p.Project)
	}
	p = propose(t, tree("Dockerfile", "FROM full\nCOPY dist/x /\nUSER 1\n"))
	if strings.Contains(p.Project, "#   - name") || strings.Contains(p.Project, "Not yet") {
		t.Error(p.Project)
	}
}

// What Debian has of a program stands in for upstream's image of it, and where its
// version is another, words say so.
func TestProposeProgram(t *testing.T) {
	cat := ops()
	cat.Bases = append(cat.Bases,
		catalog.Base{Name: "nginx-1.22", Kind: "debian", Variant: "minimal", Packages: []string{"nginx"}, File: "bases/nginx-1.22.yaml"},
		catalog.Base{Name: "jre-17", Kind: "debian", Variant: "minimal", Packages: []string{"openjdk-17-jre-headless"}, File: "bases/jre-17.yaml"},
		catalog.Base{Name: "python-3.11", Kind: "debian", Variant: "minimal", Packages: []string{"python3"}, File: "bases/python-3.11.yaml"})
	for _, c := range []struct{ file, want string }{
		{"FROM nginx:stable-alpine-slim@sha256:abc\nCOPY x /usr/share/nginx/html\n", `bases/nginx-1.22.yaml standsFor: ["nginx:stable-alpine-slim"]   # Debian's: as www-data`},
		{"FROM nginx:stable\n", "stable names no version, this is 1.22"},
		{"FROM nginx:1.22\nRUN apt-get update\n", "packages: [apt, nginx]\nstandsFor: [\"nginx:1.22\"]"},
		{"FROM nginx:1.27\n", "# Debian bookworm has nginx 1.22, not 1.27: this is upstream's image, mirrored.\nversion: 1\nname: nginx-1-27\nkind: oci"},
		{"FROM python:3.11-slim\nRUN pip install x\n", "bases/python-3.11-slim.yaml version: 1\nname: python-3.11-slim\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\n" +
			"packages: [apt, python-is-python3, python3-pip, python3-venv]\nenv: {LANG: C.UTF-8, PIP_BREAK_SYSTEM_PACKAGES: \"1\"}\nstandsFor: [\"python:3.11-slim\"]   # Debian's"},
		{"FROM python:3.11.4\nRUN pip install x && make\n", "name: python-3.11-full\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\npackages: [apt, python-is-python3, python3-pip, python3-venv, g++,"},
		{"FROM python:3\nCOPY x /\n", `bases/python-3.11.yaml standsFor: ["python:3"]`},
		{"FROM python:3.9-slim\nRUN pip install x\n", "# Debian bookworm has python 3.11, not 3.9-slim:"},
		{"FROM python:3.11-alpine\nRUN apk add x\n", "# Its RUN calls apk, which no Debian base has:"},
		{"FROM eclipse-temurin:17-jre\nCOPY x /\n", `bases/jre-17.yaml standsFor: ["eclipse-temurin:17-jre"]`},
		{"FROM openjdk:17-jdk-slim\nRUN javac x\n", "packages: [apt, ca-certificates-java, openjdk-17-jdk-headless]\nenv: {JAVA_HOME: /usr/lib/jvm/java-17-openjdk-amd64"},
		{"FROM openjdk:11\nRUN javac x\n", "# Debian bookworm has openjdk 17, not 11:"},
		{"FROM gcr.example/distroless/static-debian13\n", "# Debian bookworm in place of trixie"},
	} {
		f, err := dockerfile.Parse("Dockerfile", []byte(c.file))
		if err != nil {
			t.Fatal(err)
		}
		refs, err := f.Bases("", nil)
		if err != nil {
			t.Fatal(err)
		}
		file, text := proposeBase(cat, wanted(f, refs[0]))
		if got := file + " " + text; !strings.Contains(got, c.want) {
			t.Errorf("%s%q\nwant %q", c.file, got, c.want)
		}
	}
}

// A repository says itself how its images are built.
func TestSaid(t *testing.T) {
	const two = "FROM full AS ship\nCOPY app /\nUSER 1\nFROM ship AS dev\nRUN true\n"
	bake := "# all\nvariable \"BASE\" {\n  default = \"full\"\n}\ntarget \"common\" {\n  args = {\n    WHAT = \"full\"\n  }\n}\n" +
		"target \"a\" {\n  inherits = [\"common\"]\n  context = \"src\"\n  dockerfile = \"../x.Dockerfile\"\n}\n" +
		"target \"b\" {\n  context = \"src\"\n  dockerfile = \"../x.Dockerfile\"\n  args = { // of b\n    WHAT = \"${BASE}\"\n    MORE = BASE\n  }\n}\n"
	p := propose(t, tree(
		"svc/one/Dockerfile", two, "svc/two/app", "", "svc/docker-compose.yml",
		"services:\n  one:\n    build:\n      context: ${DIR:-two}\n      dockerfile: ../one/Dockerfile\n      target: ship\n      args: [A=1, \"B=${NONE}\"]\n  away:\n    build: https://git.test/x.git\n  up:\n    build: ../../..\n",
		"x.Dockerfile", "ARG WHAT\nFROM $WHAT\nCOPY y /\nUSER 1\n", "src/y", "", "docker-bake.hcl", bake,
		"p/Dockerfile", "ARG IMAGE=placeholder\nARG VER\nFROM ${IMAGE} AS b\nFROM ${VER:-full}\nUSER 1\n", "q/Dockerfile", "ARG WHOLE=x\nARG GO=x\nFROM $GO AS b\nFROM $WHOLE\nCOPY --from=b /x /\nUSER 1\n", "go.mod", "module x\n\ngo 1.26.3\n",
		"Makefile", "RUNTIME ?= full\nbuild:\n\tdocker build \\\n\t  --build-arg IMAGE=$(RUNTIME) --build-arg 'VER=x$(shell date)' .\nMINOR := $(shell $(GO) list -f '{{.Module.GoVersion}}')\nmore:\n\tdocker build --build-arg WHOLE=$(X) --build-arg=GO=golang:$(MINOR) .\nX = a$(shell true)\n",
	))
	got := map[string]Image{}
	for _, i := range p.Images {
		got[i.Name] = i
	}
	// its context is not above its Dockerfile, which cannot be named from there
	if one := got["one"]; one.Target != "ship" || len(one.Args) != 0 || one.Context != "svc/one" || len(one.Problems) != 2 || one.Problems[0].Message != "svc/docker-compose.yml says that its context is svc/two, where the Dockerfile is not" {
		t.Errorf("%+v", one)
	}
	if a, b := got["a"], got["b"]; a.Args["WHAT"] != "full" || len(a.Args) != 1 || b.Args["MORE"] != "full" || b.Args["WHAT"] != "full" || !a.Ready || !b.Ready {
		t.Errorf("%+v\n%+v", a, b)
	}
	made := got["p"]
	if made.Args["IMAGE"] != "full" || len(made.Args) != 1 || !made.Ready || len(made.Arguments) != 0 || len(made.Problems) != 1 ||
		!strings.Contains(made.Problems[0].Message, "only make knows, x$(shell") {
		t.Errorf("%+v", made)
	}
	if q := got["q"]; q.Args["GO"] != "golang:1.26" || q.Ready || len(q.Choices) != 1 || q.Choices[0] != "WHOLE" || slices.ContainsFunc(p.Bases, func(b Base) bool { return b.Ref == "x" }) {
		t.Errorf("%+v", q)
	}
	if len(got) != 5 || !strings.Contains(p.Project, "target: ship   # svc/docker-compose.yml says so") {
		t.Errorf("%d images\n%s", len(got), p.Project)
	}
	if out := bakeJSON("docker-bake.json", []byte(`{"target":{"z":{"dockerfile":"z/Dockerfile","args":{"A":"1","B":null}}}}`)); len(out) != 1 || out[0].dockerfile != "z/Dockerfile" || len(out[0].args) != 1 {
		t.Errorf("%+v", out)
	}
}

// A Dockerfile for another platform alone is not built for ours, and one for
// Windows not at all.
func TestProposeOnly(t *testing.T) {
	const cross = "FROM --platform=$BUILDPLATFORM golang:1.26 AS b\nRUN GOARCH=arm64 go build\nFROM minimal\nCOPY --from=b /x /\n"
	p := propose(t, tree("Dockerfile", "FROM full\nUSER 1\n", "Dockerfile.arm64", "FROM golang:1.26\nRUN go build\nFROM minimal\n", "cross/Dockerfile-aarch64", cross,
		"Dockerfile.amd64", "FROM minimal\n", "Dockerfile.windows", "FROM x\n", "w/Dockerfile", "FROM mcr.example/windows/servercore:1\n", "windows-exporter.Dockerfile", "FROM full\nUSER 1\n"))
	got := map[string]Image{}
	for _, i := range p.Images {
		got[i.Name] = i
	}
	if arm := got["shop-front-arm64"]; arm.Ready || len(arm.Problems) != 1 || arm.Platforms[0].Architecture != "arm64" {
		t.Errorf("%+v", arm)
	}
	if x := got["cross-aarch64"]; !x.Ready || len(x.Platforms) != 1 || x.Platforms[0].Architecture != "arm64" {
		t.Errorf("%+v", x)
	}
	if x := got["shop-front-amd64"]; len(x.Platforms) != 1 || x.Platforms[0] != built {
		t.Errorf("%+v", x)
	}
	for _, s := range p.Skipped {
		if s.Why != "for Windows" {
			t.Errorf("%+v", s)
		}
	}
	if len(got) != 5 || len(p.Skipped) != 2 || !strings.Contains(p.Project, "# Not yet: it is for linux/arm64") {
		t.Errorf("%d images, %+v\n%s", len(got), p.Skipped, p.Project)
	}
}

// A tiny image nothing runs on may be Debian's smallest base.
func TestProposeTiny(t *testing.T) {
	cat := ops()
	cat.Bases[1].Packages = []string{"ca-certificates", "libc6"}
	file, text := proposeBase(cat, need{ref: "quay.example/p/busybox-linux-amd64:latest", want: "quay.example/p/busybox-linux-amd64:latest", name: "quay.example/p/busybox-linux-amd64", tag: "latest", from: true})
	if file != "bases/minimal.yaml" || !strings.Contains(text, "without a shell") {
		t.Error(file, text)
	}
}

// An upstream image by its digest is a base only where a mirror has images.
func TestProposeUpstream(t *testing.T) {
	files := tree("Dockerfile", "FROM quay.example/org/tool:v1@sha256:abc\nUSER 1\n")
	for mirror, left := range map[string]int{"": 1, "http://oci.test": 0} {
		in := Input{Files: files, Name: "x", Catalog: ops(), Spec: "../ops", Mirror: func(string) string { return mirror }}
		p, err := Propose(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.AddBases(fstest.MapFS{})
		if err != nil || len(got.Left) != left || len(got.Files) != 1-left {
			t.Errorf("%q: %v %+v", mirror, err, got)
		}
		if i := p.Ecosystems[0]; i.Name != "oci" || i.Tool != "FROM" || (i.Remedy == "") != (mirror != "") {
			t.Errorf("%q: %+v", mirror, i)
		}
		in.Catalog.Bases = append(in.Catalog.Bases, catalog.Base{Name: "tool-v1", Kind: "oci", StandsFor: []string{"quay.example/org/tool:v1"}})
		if p, err = Propose(in); err != nil || p.Images[0].Ready != (mirror != "") {
			t.Errorf("%q: %v %+v", mirror, err, p.Images[0])
		}
	}
}
