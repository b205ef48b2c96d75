package provenance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	prov "github.com/in-toto/attestation/go/predicates/provenance/v1"
	statement "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"drydock/modules/artifact"
)

func digest(c string) artifact.Digest { return artifact.Digest("sha256:" + strings.Repeat(c, 64)) }

func input() Input {
	return Input{
		Image: "web", Variant: "go1.25", Platform: artifact.Platform{OS: "linux", Architecture: "arm64"},
		Dockerfile: File{Path: "docker/Dockerfile.web", Digest: digest("a")}, Context: digest("b"),
		Target: "final", Args: map[string]string{"VERSION": "1", "A": "<&>"}, Epoch: 1700000000, Trigger: "branch",
		Source:   Source{URI: "https://git.example.com/team/web", Revision: strings.Repeat("c", 40), Ref: "refs/heads/main", Dirty: true},
		Engine:   Engine{Kind: "embedded", Tier: "T1", Version: "0.33.0"},
		Hermetic: true, Gaps: []string{"z", "a"},
		Materials: []artifact.Material{
			{Ecosystem: "go", URL: "go/example.com/x/@v/v1.0.0.zip", Digest: digest("2"), PURL: "pkg:golang/example.com/x@v1.0.0", Public: true},
			{Ecosystem: "debian", URL: "debian/pool/main/x/x_1_arm64.deb", Digest: digest("1"), Size: 3},
			{Ecosystem: "debian", URL: "debian/pool/main/x/x_1_arm64.deb", Digest: digest("1"), Step: "another step"},
			{Ecosystem: "npm", URL: "npm/left-pad", Size: 1},
		},
		Bases:      []Base{{Name: "debian-minimal", Digest: digest("d"), Lock: digest("e")}},
		Byproducts: []Byproduct{{Name: "junit.xml", Digest: digest("f")}},
		Version:    "1.2.3",
	}
}

// TestPredicateIsSLSA reads the predicate back through in-toto's own types,
// which refuse fields they do not know.
func TestPredicateIsSLSA(t *testing.T) {
	in := input()
	in.Run = &Run{InvocationID: "https://ci.example.com/job/1", Started: time.Unix(1, 5), Finished: time.Unix(60, 0)}
	for name, in := range map[string]Input{
		"full": in, "least": {Image: "web", Trigger: "local", Engine: Engine{Kind: "dagger", Version: "0.21.7"}},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := Predicate(in)
			if err != nil {
				t.Fatal(err)
			}
			var p prov.Provenance
			if err := protojson.Unmarshal(raw, &p); err != nil {
				t.Fatalf("%v\n%s", err, raw)
			}
			if err := p.Validate(); err != nil {
				t.Errorf("%v\n%s", err, raw)
			}
			var body structpb.Struct
			if err := protojson.Unmarshal(raw, &body); err != nil {
				t.Fatal(err)
			}
			st := statement.Statement{
				Type: statement.StatementTypeUri, PredicateType: artifact.PredicateProvenance, Predicate: &body,
				Subject: []*statement.ResourceDescriptor{{Name: "web", Digest: map[string]string{"sha256": digest("0").Hex()}}},
			}
			if err := st.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPredicateSaysWhatWasHanded(t *testing.T) {
	raw, err := Predicate(input())
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		BuildDefinition struct {
			BuildType          string
			ExternalParameters struct {
				Image, Variant, Platform, Trigger string
				Args                              map[string]string
				Source                            map[string]string
			}
			InternalParameters struct {
				Engine          map[string]string
				Hermetic, Dirty bool
				Gaps            []string
			}
			ResolvedDependencies []struct {
				Name, URI   string
				Digest      map[string]string
				Annotations map[string]any
			}
		}
		RunDetails struct {
			Builder  struct{ ID string }
			Metadata map[string]string
		}
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	var deps []string
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		deps = append(deps, fmt.Sprint(d.Name, " ", d.URI, " ", len(d.Digest), " ", d.Annotations))
	}
	want := []string{
		"source git+https://git.example.com/team/web@refs/heads/main 1 map[]",
		"base:debian-minimal  1 map[lock:" + string(digest("e")) + "]",
		" debian/pool/main/x/x_1_arm64.deb 1 map[ecosystem:debian]",
		"pkg:golang/example.com/x@v1.0.0 go/example.com/x/@v/v1.0.0.zip 1 map[ecosystem:go public:true]",
		" npm/left-pad 0 map[ecosystem:npm unverified:true]",
	}
	if strings.Join(deps, "\n") != strings.Join(want, "\n") {
		t.Errorf("dependencies:\n%s\nwant:\n%s", strings.Join(deps, "\n"), strings.Join(want, "\n"))
	}
	in := p.BuildDefinition.InternalParameters
	if !in.Hermetic || !in.Dirty || in.Engine["tier"] != "T1" || fmt.Sprint(in.Gaps) != "[a z]" {
		t.Errorf("%+v", in)
	}
	ex := p.BuildDefinition.ExternalParameters
	if ex.Platform != "linux/arm64" || ex.Args["A"] != "<&>" || ex.Source["revision"] == "" || ex.Trigger != "branch" {
		t.Errorf("%+v", ex)
	}
	if p.RunDetails.Builder.ID != BuilderLocal || !strings.HasPrefix(p.RunDetails.Metadata["invocationId"], "urn:sha256:") || len(p.RunDetails.Metadata) != 1 {
		t.Errorf("%+v", p.RunDetails)
	}
}

func TestPredicateIsDeterministic(t *testing.T) {
	a, err := Predicate(input())
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	in.Materials[0], in.Materials[3] = in.Materials[3], in.Materials[0]
	in.Gaps[0], in.Gaps[1] = in.Gaps[1], in.Gaps[0]
	b, err := Predicate(in)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("%s\n%s\n%v", a, b, err)
	}
	if in.Gaps[0] != "a" || in.Materials[0].Ecosystem != "npm" {
		t.Error("the input was changed")
	}
	in.Epoch++
	if c, err := Predicate(in); err != nil || bytes.Equal(a, c) {
		t.Error("another input, the same predicate")
	}
}

func TestPredicateRefusesHoles(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"no image":                 func(in *Input) { in.Image = "" },
		"no engine":                func(in *Input) { in.Engine = Engine{} },
		"no trigger":               func(in *Input) { in.Trigger = "" },
		"a material without a URL": func(in *Input) { in.Materials[0].URL = "" },
	} {
		in := input()
		change(&in)
		if _, err := Predicate(in); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestParseIsTheInverse: another build needs no more than the predicate.
func TestParseIsTheInverse(t *testing.T) {
	in := input()
	in.Materials = in.Materials[:2]
	in.Materials[0].Path, in.Materials[0].Size = "example.com/x/@v/v1.0.0.zip", 7
	in.Materials[1].Path = "debian/pool/main/x/x_1_arm64.deb"
	in.Folder, in.Lock, in.Absent = "ops/catalog", File{Path: "locks/web.json", Digest: digest("9")}, []string{"go b", "go a"}
	raw, err := Predicate(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	got.Byproducts = in.Byproducts
	if again, err := Predicate(got); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("%v\n%s\n%s", err, again, raw)
	}
	if _, err := Parse([]byte(strings.Replace(string(raw), BuildType, "https://example.com/other", 1))); err == nil {
		t.Error("another build type was read")
	}
	if _, err := Parse([]byte(strings.Replace(string(raw), digest("1").Hex(), "zz", 1))); err == nil {
		t.Error("a digest that is none was read")
	}
}

func TestWhatCanBeDoneAgain(t *testing.T) {
	fine := input()
	fine.Source.Dirty, fine.Gaps = false, nil
	if why := fine.Reproducible(); why != "" {
		t.Error(why)
	}
	for want, change := range map[string]func(*Input){
		"dirty":        func(i *Input) { i.Source.Dirty = true },
		"no commit":    func(i *Input) { i.Source.Revision = "" },
		"not hermetic": func(i *Input) { i.Hermetic = false },
		"gap":          func(i *Input) { i.Gaps = []string{"a gap"} },
	} {
		in := fine
		change(&in)
		if why := in.Reproducible(); !strings.Contains(why, want) {
			t.Errorf("%s: %q", want, why)
		}
	}
	twice := Input{Materials: []artifact.Material{{Ecosystem: "go", Path: "x", Digest: digest("1")}, {Ecosystem: "go", Path: "x", Digest: digest("2")}}}
	if path, found := twice.Ambiguous(); !found || path != "go x" {
		t.Errorf("%q %v", path, found)
	}
	if _, found := fine.Ambiguous(); found {
		t.Error("nothing is there twice")
	}
}
