package sandbox

import (
	"bytes"
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"drydock/modules/artifact"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestJUnit(t *testing.T) {
	t.Parallel()
	r := &artifact.TestReport{Version: 1, Passed: 1, Failed: 1, Skipped: 1, Results: []artifact.TestResult{
		{Name: "answers", Kind: "service", Status: "passed", Seconds: 0.25},
		{Name: `says "<&>"`, Kind: "command", Status: "failed", Message: "exit code 1, want 0\nstdout: \x1b[31mred\x00 \xff", Seconds: 1.5},
		{Name: "other platform", Kind: "command", Status: "skipped", Message: "the engine executes linux/amd64"},
	}}
	got := JUnit("nginx linux/amd64", r)
	if !bytes.Equal(got, JUnit("nginx linux/amd64", r)) {
		t.Error("two renderings differ")
	}
	golden := filepath.Join("testdata", "junit.xml")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var back junitSuites
	if err := xml.Unmarshal(got, &back); err != nil || back.Failures != 1 || len(back.Suites[0].Cases) != 3 {
		t.Errorf("read back %+v, %v", back, err)
	}
}
