package catalog

import (
	"os"
	"testing"

	"gopkg.in/yaml.v3"
)

// The shipped catalog loads, and what it prints loads into the same things.
func TestShippedCatalogLoads(t *testing.T) {
	c, err := Load(os.DirFS("."), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"crane", "httpbin", "nginx", "redis"} {
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
	staging, _ := c.Policy("staging")
	production, _ := c.Policy("production")
	if staging == nil || production == nil || !staging.AllowUnknown || production.AllowUnknown {
		t.Errorf("staging allows unknown and production does not: %+v %+v", staging, production)
	}
	if len(staging.Rules.Tests.StaticOnly) != 1 {
		t.Errorf("staging lists the platforms with static tests only: %+v", staging.Rules.Tests)
	}
	if _, err := yaml.Marshal(c); err != nil {
		t.Fatal(err)
	}
}
