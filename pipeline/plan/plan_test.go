package plan

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"drydock/catalog"
	"drydock/modules/artifact"
)

var update = flag.Bool("update", false, "write the goldens anew")

const (
	mirrorsYAML = "version: 1\n"
	stagesYAML  = `version: 1
stages:
  - {name: quarantine, registry: embedded}
  - {name: staging, registry: embedded, from: quarantine, policy: p}
  - {name: production, registry: embedded, from: staging, policy: p}
`
	policyYAML  = "version: 1\nname: p\n"
	fullYAML    = "version: 1\nname: full\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\n"
	minimalYAML = "version: 1\nname: minimal\nkind: debian\nvariant: minimal\nplatforms: [linux/amd64, linux/arm64]\n"
)

// load makes a catalog of images: name to Dockerfile, and lines added to its
// YAML after a bar.
func load(t testing.TB, images map[string]string) *catalog.Catalog {
	t.Helper()
	files := fstest.MapFS{}
	put := func(name, text string) { files[name] = &fstest.MapFile{Data: []byte(text)} }
	put("mirrors.yaml", mirrorsYAML)
	put("stages.yaml", stagesYAML)
	put("policies/p.yaml", policyYAML)
	put("bases/full.yaml", fullYAML)
	put("bases/minimal.yaml", minimalYAML)
	for name, text := range images {
		docker, extra, _ := strings.Cut(text, "|")
		if extra == "" {
			extra = "platforms: [linux/amd64]"
		}
		put("images/"+name+".yaml", "version: 1\nname: "+name+"\n"+extra+"\n")
		put("images/"+name+"/Dockerfile", docker)
	}
	c, err := catalog.Load(files, "cat")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func several(t testing.TB) *catalog.Catalog {
	return load(t, map[string]string{
		"app":    "FROM --platform=$BUILDPLATFORM full AS b\nFROM minimal\nCOPY --from=b / /\n|platforms: [linux/amd64, linux/arm64]",
		"child":  "FROM parent:2\nCOPY --from=app / /\n",
		"parent": "ARG V\nFROM full\n|platforms: [linux/amd64]\nmatrix: {V: [1, 2]}",
		"alone":  "FROM minimal\n",
	})
}

func ids(p *Plan) (out []string) {
	for _, i := range p.Images {
		out = append(out, i.ID())
	}
	return out
}

func mirrors() []Mirror {
	return []Mirror{{Ecosystem: "debian", URL: "http://deb.test/debian", Source: "/etc/apt/sources.list"}, {Ecosystem: "go", URL: "https://go.test", Public: true, Source: "GOPROXY"}}
}

func TestGoldens(t *testing.T) {
	for name, in := range map[string]Input{
		"all":            {Mirrors: mirrors()},
		"one":            {Select: []string{"child"}, Target: "production", Trigger: Branch},
		"change-request": {Trigger: ChangeRequest, Changed: []string{"parent", "child"}, Target: "production"},
		"dirty":          {Dirty: map[string]string{"parent": "images/parent/Dockerfile is modified"}},
		"nothing":        {Changed: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			in.Catalog = several(t)
			p, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			sound(t, p)
			var text bytes.Buffer
			if err := p.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			js, err := p.JSON()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.Bytes())
			golden(t, name+".json", js)
			back, err := Parse(js)
			if err != nil || !reflect.DeepEqual(back, p) {
				t.Errorf("read back it differs: %v\n%+v\n%+v", err, back, p)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is now\n%s", file, got)
	}
}

// sound checks what holds for every plan: ids are unique, every need is there
// before the node that has it.
func sound(t *testing.T, p *Plan) {
	t.Helper()
	seen := map[string]bool{}
	for _, n := range p.Nodes {
		if seen[n.ID] {
			t.Errorf("node %s is there twice", n.ID)
		}
		for _, need := range n.Needs {
			if !seen[need] {
				t.Errorf("node %s needs %s, which is not before it", n.ID, need)
			}
		}
		seen[n.ID] = true
	}
}

func TestHowFar(t *testing.T) {
	c := several(t)
	for _, trigger := range []Trigger{Local, Branch, Tag, Schedule, ChangeRequest} {
		for _, target := range []string{"", "quarantine", "staging", "production"} {
			for _, dirty := range []map[string]string{nil, {"alone": "x"}} {
				p, err := Build(Input{Catalog: c, Trigger: trigger, Target: target, Dirty: dirty, Select: []string{"alone"}})
				if err != nil {
					t.Fatal(err)
				}
				last := p.Images[0].Stages[len(p.Images[0].Stages)-1]
				want := target
				if want == "" {
					want = "staging"
				}
				if trigger == ChangeRequest || dirty != nil {
					want = "quarantine"
				}
				if last != want {
					t.Errorf("%s to %q, dirty %v: goes to %s", trigger, target, dirty, last)
				}
				promotes := slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Kind == KindPromote })
				if promotes != (want != "quarantine") {
					t.Errorf("%s to %q, dirty %v: promotes %v", trigger, target, dirty, promotes)
				}
				if held := p.Images[0].Held != ""; held != (trigger == ChangeRequest || dirty != nil) {
					t.Errorf("%s, dirty %v: held %q", trigger, dirty, p.Images[0].Held)
				}
			}
		}
	}
}

func TestSelect(t *testing.T) {
	c := several(t)
	for _, tc := range []struct {
		sel, changed []string
		want         []string
	}{
		{[]string{"al*"}, nil, []string{"alone"}},
		{[]string{"parent"}, nil, []string{"parent:1", "parent:2"}},
		{[]string{"parent:2"}, nil, []string{"parent:2"}},
		{[]string{"*:?"}, nil, []string{"parent:1", "parent:2"}},
		{[]string{"*"}, []string{"alone"}, []string{"alone"}},
		{[]string{"app"}, []string{"alone"}, nil},
		{nil, []string{}, nil},
		{[]string{"child"}, nil, []string{"parent:2", "app", "child"}},
	} {
		p, err := Build(Input{Catalog: c, Select: tc.sel, Changed: tc.changed})
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(p); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%v changed %v: got %v, want %v", tc.sel, tc.changed, got, tc.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	circle := load(t, map[string]string{"a": "FROM b\n", "b": "FROM c\n", "c": "FROM a\n"})
	self := load(t, map[string]string{"a": "FROM full\nCOPY --from=a / /\n"})
	crossed := load(t, map[string]string{"a": "FROM --platform=$BUILDPLATFORM full\n"})
	for _, tc := range []struct {
		name           string
		in             Input
		place, message string
		remedy         string
	}{
		{"circle", Input{Catalog: circle}, "cat/images/a.yaml:2", "a -> b -> c -> a", "base"},
		{"circle from inside", Input{Catalog: circle, Select: []string{"c"}}, "cat/images/c.yaml:2", "c -> a -> b -> c", "base"},
		{"on itself", Input{Catalog: self}, "cat/images/a.yaml:2", "a -> a", "base"},
		{"no match", Input{Catalog: several(t), Select: []string{"alone", "chidl"}}, "--image chidl", "no image", "did you mean child?"},
		{"no match at all", Input{Catalog: several(t), Select: []string{"zzz*"}}, "--image zzz*", "no image", "there are alone, app, child, parent:1, parent:2"},
		{"empty glob", Input{Catalog: several(t), Select: []string{""}}, "--image", "empty", "glob"},
		{"trigger", Input{Catalog: several(t), Trigger: "push"}, "--trigger", `"push"`, "change-request"},
		{"target", Input{Catalog: several(t), Target: "prod"}, "prod", "no such stage", "quarantine, staging, production"},
		{"no images", Input{Catalog: load(t, map[string]string{"a": "FROM full\n"}), Select: []string{"b"}}, "--image b", "no image", "a"},
		{"build platform", Input{Catalog: crossed, Platform: artifact.Platform{OS: "linux", Architecture: "arm64"}}, "cat/images/a/Dockerfile:1", "full is not there for linux/arm64", "add the platform"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Build(tc.in)
			if artifact.ExitCode(err) != artifact.ExitUsage {
				t.Fatalf("exit code %d: %v", artifact.ExitCode(err), err)
			}
			var e *artifact.Error
			if !errors.As(err, &e) {
				t.Fatalf("no error of ours: %v", err)
			}
			if e.Place != tc.place || !strings.Contains(e.Message, tc.message) || !strings.Contains(e.Remedy, tc.remedy) {
				t.Errorf("got %q %q remedy %q", e.Place, e.Message, e.Remedy)
			}
		})
	}
}

func TestParseRefusesNewer(t *testing.T) {
	for _, text := range []string{`{"version":2}`, `{`, `{"version":1,"nodes":[{"platform":"x"}]}`} {
		if _, err := Parse([]byte(text)); artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) == 0 {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// many is a catalog of 300 variants: 30 families of 10, each family on the one
// before it.
func many(tb testing.TB) *catalog.Catalog {
	images := map[string]string{}
	for i := range 30 {
		from := "full"
		if i > 0 {
			from = fmt.Sprintf("f%02d:${V}", i-1)
		}
		images[fmt.Sprintf("f%02d", i)] = "ARG V\nFROM " + from + "\n|platforms: [linux/amd64]\nmatrix: {V: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}"
	}
	return load(tb, images)
}

func BenchmarkBuild300(b *testing.B) {
	c := many(b)
	b.ResetTimer()
	for range b.N {
		p, err := Build(Input{Catalog: c})
		if err != nil || len(p.Images) != 300 {
			b.Fatal(len(p.Images), err)
		}
	}
}

func TestManyIsFast(t *testing.T) {
	r := testing.Benchmark(BenchmarkBuild300)
	if ms := r.NsPerOp() / 1e6; ms >= 100 {
		t.Errorf("planning 300 variants takes %d ms, 100 are allowed", ms)
	}
}
