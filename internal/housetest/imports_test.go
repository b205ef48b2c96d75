package housetest

import (
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "drydock"

// floors: a room imports only rooms of lower floors. floorExceptions are the
// pairs of one floor that may.
var floors = map[string]int{
	"artifact": 0, "wholefile": 0,
	"policy": 1, "dockerfile": 1, "jail": 1, "registry": 1, "mirror": 1, "sign": 1, "provenance": 1, "secret": 1,
	"engine":  2,
	"steprun": 3, "base": 3, "image": 3, "sbom": 3, "scan": 3, "sandbox": 3,
	"promote": 4, "admit": 4,
}

var floorExceptions = map[[2]string]bool{
	{"sign", "registry"}: true,
	{"image", "base"}:    true,
	{"scan", "sbom"}:     true,
	// steprun is how the rooms of this floor run the step program.
	{"image", "steprun"}: true, {"sbom", "steprun"}: true, {"scan", "steprun"}: true, {"sandbox", "steprun"}: true, {"base", "steprun"}: true,
}

// confined names import paths (and everything below them) that only some
// folders may import.
var confined = []struct {
	imports []string
	only    []string
}{
	{[]string{"github.com/anchore/syft", "github.com/anchore/grype", "github.com/anchore/stereoscope"}, []string{"pipeline/step"}},
	{[]string{"github.com/sigstore"}, []string{"modules/sign"}},
	{[]string{"github.com/moby/buildkit"}, []string{"modules/engine/embedded"}},
	{[]string{"github.com/urfave/cli"}, []string{"pipeline", "internal/docgen"}},
	{[]string{"github.com/sigstore/cosign/v2/cmd", "github.com/sigstore/cosign/v3/cmd"}, nil}, // 70 MB more
	{[]string{"modernc.org/sqlite"}, nil},                                                     // grype registers the same driver
	{[]string{"dagger.io/dagger/dag"}, nil},
}

// parserOnly are BuildKit's packages modules/dockerfile may use.
var parserOnly = []string{
	"github.com/moby/buildkit/frontend/dockerfile/parser",
	"github.com/moby/buildkit/frontend/dockerfile/instructions",
	"github.com/moby/buildkit/frontend/dockerfile/shell",
	"github.com/moby/buildkit/frontend/dockerfile/linter",
	"github.com/moby/buildkit/frontend/dockerfile/command",
}

func TestImports(t *testing.T) {
	none(t, "imports", importViolations(repository(t).sources(t)))
}

func TestImportsSeenFailing(t *testing.T) {
	seen(
		t, importViolations(fixture(t, "imports.txtar").sources(t)),
		"modules/artifact/a.go:4: artifact may import the standard library only",
		"modules/dockerfile/d.go:5: only modules/engine/embedded may import github.com/moby/buildkit/solver",
		"modules/engine/e.go:4: engine (floor 2) may not import base (floor 3)",
		"modules/engine/e.go:5: only modules/engine/embedded may import github.com/moby/buildkit/client",
		"modules/mirror/m.go:4: modules may not import drydock/catalog",
		"modules/mirror/m.go:5: modules may not import drydock/pipeline/report",
		"modules/mirror/m.go:6: mirror (floor 1) may not import registry (floor 1)",
		"modules/shed/s.go:1: shed has no floor",
		"pipeline/line/l.go:4: only pipeline/step may import github.com/anchore/syft/syft",
		"pipeline/line/l.go:5: only modules/sign may import github.com/sigstore/cosign/v2/pkg/cosign",
		"modules/sign/s.go:5: nobody may import github.com/sigstore/cosign/v2/cmd/cosign/cli/sign",
		"pipeline/step/s.go:5: nobody may import modernc.org/sqlite",
		"pipeline/line/l.go:6: testing outside a test",
	)
}

func importViolations(sources []source) []string {
	var out []string
	unknown := map[string]bool{}
	for _, s := range sources {
		room, inModules := roomOf(s.dir)
		if _, ok := floors[room]; inModules && !ok && !unknown[room] {
			unknown[room] = true
			out = append(out, fmt.Sprintf("%s:1: %s has no floor in this test", s.name, room))
			continue
		}
		for imported, at := range s.imports() {
			if v := confinedViolation(s, imported); v != "" {
				out = append(out, at+": "+v)
			}
			if inModules {
				if v := floorViolation(s, room, imported); v != "" {
					out = append(out, at+": "+v)
				}
			}
			if imported == "testing" && !s.test && !strings.HasSuffix(s.dir, "test") {
				out = append(out, at+": testing outside a test")
			}
		}
	}
	return out
}

func roomOf(dir string) (string, bool) {
	rest, ok := strings.CutPrefix(dir, "modules/")
	room, _, _ := strings.Cut(rest, "/")
	return room, ok
}

func below(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }

func confinedViolation(s source, imported string) string {
	if s.dir == "modules/dockerfile" && slices.Contains(parserOnly, imported) {
		return ""
	}
	for _, c := range confined {
		if !slices.ContainsFunc(c.imports, func(p string) bool { return below(imported, p) }) {
			continue
		}
		if slices.ContainsFunc(c.only, func(dir string) bool { return below(s.dir, dir) }) {
			continue
		}
		if len(c.only) == 0 {
			return "nobody may import " + imported
		}
		return fmt.Sprintf("only %s may import %s", strings.Join(c.only, " and "), imported)
	}
	return ""
}

func floorViolation(s source, room, imported string) string {
	ours := below(imported, module)
	if !ours {
		first, _, _ := strings.Cut(imported, "/")
		if floors[room] == 0 && !s.test && strings.Contains(first, ".") {
			return room + " may import the standard library only"
		}
		return ""
	}
	dir := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
	other, inModules := roomOf(dir)
	if !inModules {
		if below(dir, "pipeline") || below(dir, "catalog") {
			return "modules may not import " + imported
		}
		return ""
	}
	// A test may try its room on what a neighbour of its floor really makes.
	neighbour := strings.HasSuffix(s.name, "_test.go") && floors[other] == floors[room]
	if other == room || floors[other] < floors[room] || neighbour || floorExceptions[[2]string{room, other}] {
		return ""
	}
	return fmt.Sprintf("%s (floor %d) may not import %s (floor %d)", room, floors[room], other, floors[other])
}

// What the main program links, through whomever: the scanners stay in the step
// program, cosign's command line nowhere.
func TestLinked(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this machine")
	}
	if _, ok := repository(t)["pipeline/main.go"]; !ok {
		t.Fatal("no main program")
	}
	none(t, "main program", linkedViolations(list(t, "./pipeline"),
		"github.com/anchore/syft", "github.com/anchore/grype", "github.com/sigstore/cosign/v2/cmd"))
	step := list(t, "./pipeline/step")
	none(t, "step program", linkedViolations(step, "github.com/moby/buildkit/solver", "github.com/sigstore/cosign"))
	if slices.Contains(step, "modernc.org/sqlite") { // grype's driver registers the same name
		t.Error("step program: links modernc.org/sqlite beside grype")
	}
}

func TestLinkedSeenFailing(t *testing.T) {
	seen(t, linkedViolations([]string{"fmt", "github.com/anchore/syft/syft", "github.com/anchore/syfter"}, "github.com/anchore/syft"),
		"links github.com/anchore/syft/syft")
}

func list(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	cmd.Dir = root(t)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v\n%s", pkg, err, errs.String())
	}
	return strings.Fields(string(out))
}

func linkedViolations(deps []string, banned ...string) []string {
	var out []string
	for _, d := range deps {
		for _, b := range banned {
			if below(d, b) {
				out = append(out, "links "+d)
			}
		}
	}
	return out
}

// The four rooms that are pure: they get what they work on, they fetch nothing.
func TestPure(t *testing.T) {
	none(t, "pure rooms", pureViolations(repository(t).sources(t)))
}

func TestPureSeenFailing(t *testing.T) {
	seen(
		t, pureViolations(fixture(t, "pure.txtar").sources(t)),
		"modules/policy/p.go:3: policy may not import net/http", "pipeline/plan/p.go:4: plan may not import os/exec", "pipeline/plan/p.go:5: plan may not import os",
	)
}

func pureViolations(sources []source) []string {
	banned := map[string][]string{
		"modules/policy":  {"os", "net", "os/exec", "io/ioutil"},
		"pipeline/plan":   {"os", "net", "os/exec", "io/ioutil"},
		"pipeline/report": {"net", "os/exec", "io/ioutil"}, // it writes the file it is told to
		"catalog":         {"net", "os/exec", "io/ioutil"}, // it reads the folder it is given
	}
	var out []string
	for _, s := range sources {
		if s.test {
			continue
		}
		for imported, at := range s.imports() {
			for _, b := range banned[s.dir] {
				if imported == b || (b == "net" && strings.HasPrefix(imported, "net/") && imported != "net/url" && imported != "net/netip") {
					out = append(out, fmt.Sprintf("%s: %s may not import %s", at, path.Base(s.dir), imported))
				}
			}
		}
	}
	return out
}
