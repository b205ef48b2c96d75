package catalog

import (
	"os"
	"testing"

	"drydock/modules/sandbox/suite"

	"gopkg.in/yaml.v3"
)

// The shipped catalog loads, and what it prints loads into the same things.
func TestShippedCatalogLoads(t *testing.T) {
	c, err := Load(os.DirFS("."), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berths", "crane", "harbour", "httpbin", "nginx", "redis", "tomcat"} {
		img, ok := c.Image(name)
		if !ok {
			t.Fatalf("no image %s", name)
		}
		if len(img.Tests.Services) == 0 || len(img.StructurePaths) == 0 || !img.Tests.NonRoot {
			t.Errorf("%s is not tested enough: %+v", name, img.Tests)
		}
	}
	if img, _ := c.Image("crane"); len(img.Platforms) != 2 || !img.Variants[0].Refs[0].Build {
		t.Errorf("crane is not cross-compiled for two platforms: %+v", img.Variants)
	}
	if img, _ := c.Image("httpbin"); len(img.Variants) != 2 || img.Variants[0].Refs[0].Base != "golang-1.25" {
		t.Errorf("httpbin is no family: %+v", img.Variants)
	}
	if _, err := yaml.Marshal(c); err != nil {
		t.Fatal(err)
	}
}

// The shipped structure tests are ones the sandbox reads.
func TestShippedStructureTests(t *testing.T) {
	c, err := Load(os.DirFS("."), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range c.Images {
		for _, file := range img.StructurePaths {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := suite.Parse(data, file); err != nil {
				t.Error(err)
			}
		}
	}
}

// Staging admits what is not known and lists the platforms with static tests
// only; production does neither.
func TestShippedPolicies(t *testing.T) {
	c, err := Load(os.DirFS("."), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	staging, _ := c.Policy("staging")
	production, _ := c.Policy("production")
	if staging == nil || production == nil {
		t.Fatal("a policy is missing")
	}
	if !staging.AllowUnknown || len(staging.Rules.Tests.StaticOnly) != 1 {
		t.Errorf("staging: %+v", staging)
	}
	if production.AllowUnknown || len(production.Rules.Tests.StaticOnly) != 0 || !production.Rules.Provenance.Hermetic {
		t.Errorf("production: %+v", production)
	}
}
