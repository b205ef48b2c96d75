package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func testApp() *cli.App { return newApp(streams{nil, io.Discard, io.Discard, false}, nil) }

func TestFlagsMayStandAnywhere(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "run",
		"--fail-fast":                          "run --fail-fast",
		"--image nginx --json":                 "run --image nginx --json",
		"--state /s plan":                      "plan --state /s",
		"promote a b --stage staging":          "promote --stage staging a b",
		"promote a --json b":                   "promote --json a b",
		"registry --data d serve --listen :1":  "registry serve --data d --listen :1",
		"plan --changed":                       "plan --changed=auto",
		"plan --changed=main --json":           "plan --changed=main --json",
		"--help":                               "--help",
		"frobnicate":                           "frobnicate",
		"base update full --engine embedded":   "base update --engine embedded full",
		"promote --stage s -- --not-a-flag x":  "promote --stage s -- --not-a-flag x",
		"run --trigger branch --progress json": "run --trigger branch --progress json",
	} {
		got := strings.Join(arrange(testApp(), strings.Fields(in)), " ")
		if got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Flags can stand before the verb only if a name means the same to all verbs.
func TestAFlagNameMeansTheSameEverywhere(t *testing.T) {
	takes := map[string]bool{}
	level := slices.Clone(testApp().Commands)
	for len(level) > 0 {
		c := level[0]
		level = append(level[1:], c.Subcommands...)
		for _, f := range c.Flags {
			_, isBool := f.(*cli.BoolFlag)
			for _, n := range f.Names() {
				if before, seen := takes[n]; seen && before == isBool {
					t.Errorf("--%s takes a value in one verb and none in another", n)
				}
				takes[n] = !isBool
			}
		}
	}
	if len(takes) < 10 {
		t.Fatalf("only %d flags seen", len(takes))
	}
}

func TestEveryVerbHasHelp(t *testing.T) {
	level := slices.Clone(testApp().Commands)
	for len(level) > 0 {
		c := level[0]
		level = append(level[1:], c.Subcommands...)
		if c.Usage == "" || (c.Action == nil && len(c.Subcommands) == 0) {
			t.Errorf("%s has no usage or does nothing", c.Name)
		}
		names := []string{}
		for _, f := range c.Flags {
			names = append(names, f.Names()[0])
		}
		if len(c.Subcommands) == 0 && !c.Hidden {
			for _, want := range []string{"json", "state", "cache", "data", "keys", "out", "catalog", "progress"} {
				if !slices.Contains(names, want) {
					t.Errorf("%s has no --%s", c.Name, want)
				}
			}
		}
	}
}
