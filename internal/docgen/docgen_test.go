package docgen

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func app() *cli.App {
	out := &cli.StringFlag{Name: "out", Aliases: []string{"o"}, Value: "out", Usage: "`DIR` for a|b", EnvVars: []string{"X_OUT"}}
	return &cli.App{
		Name: "ship", Usage: "carry things", UsageText: "ship [verb]", Description: "Exit codes: 0.",
		Commands: []*cli.Command{
			{
				Name: "load", Usage: "put things\non board", ArgsUsage: "THING...", Aliases: []string{"l"}, Description: "Long words.",
				Flags: []cli.Flag{
					out,
					&cli.BoolFlag{Name: "json", Usage: "as JSON"},
					&cli.StringSliceFlag{Name: "image", Usage: "only `NAME`"},
					&cli.IntFlag{Name: "jobs", Value: 4, Usage: "at once"},
					&cli.BoolFlag{Name: "secret", Hidden: true},
				},
				Subcommands: []*cli.Command{{Name: "heavy", Usage: "with a crane"}},
			},
			{Name: "ghost", Hidden: true},
		},
	}
}

func TestMarkdown(t *testing.T) {
	got := Markdown(app())
	path := filepath.Join("testdata", "ship.md")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := Diff(path, got); d != "" {
		t.Error(d)
	}
	for _, hidden := range []string{"ghost", "secret"} {
		if strings.Contains(got, hidden) {
			t.Errorf("%s is hidden but shown", hidden)
		}
	}
}

func TestDiffNamesTheLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, line := range map[string]string{"a\nc\n": ":2:", "a\nb\nc\n": ":3:", "a\n": ":2:"} {
		if d := Diff(path, want); !strings.Contains(d, line) || !strings.Contains(d, "mage docs") {
			t.Errorf("%q: %q", want, d)
		}
	}
	if d := Diff(path, "a\nb\n"); d != "" {
		t.Error(d)
	}
	if d := Diff(path+"none", ""); d == "" {
		t.Error("a missing file is no difference")
	}
}
