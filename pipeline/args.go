package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// changedAuto is what a bare --changed means: the base the CI names, else the
// default branch.
const changedAuto = "auto"

// arrange puts arguments into the order urfave/cli reads: the verb (and its
// sub-verbs), then flags, then the rest. So flags may stand before the verb
// and after arguments, and a line without a verb is one for run. After "--"
// nothing is moved.
func arrange(app *cli.App, args []string) []string {
	verbs, flags, rest := []string{}, []string{}, []string{}
	level := app.Commands
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i:]...)
			i = len(args)
		case len(a) > 1 && a[0] == '-':
			if a == "--changed" || a == "-changed" {
				a += "=" + changedAuto
			}
			flags = append(flags, a)
			if i+1 < len(args) && !strings.Contains(a, "=") && takesValue(app, verbs, strings.TrimLeft(a, "-")) {
				i++
				flags = append(flags, args[i])
			}
		default:
			if c := commandNamed(level, a); c != nil && len(rest) == 0 {
				verbs = append(verbs, a)
				level = c.Subcommands
				continue
			}
			rest = append(rest, a)
		}
	}
	if len(verbs) == 0 && !onlyAsks(flags) && len(rest) == 0 {
		verbs = []string{"run"}
	}
	return append(append(verbs, flags...), rest...)
}

// onlyAsks reports whether the flags ask about the program itself.
func onlyAsks(flags []string) bool {
	for _, f := range flags {
		switch f {
		case "--help", "-h", "--version", "-v":
			return true
		}
	}
	return false
}

func commandNamed(cs []*cli.Command, name string) *cli.Command {
	for _, c := range cs {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesValue reports whether the flag eats the next argument. The verb may
// not be known yet when flags stand first, so every verb's flags are asked:
// a flag name means the same thing everywhere (a test holds that).
func takesValue(app *cli.App, verbs []string, name string) bool {
	var level []*cli.Command
	level = append(level, app.Commands...)
	for len(level) > 0 {
		c := level[0]
		level = append(level[1:], c.Subcommands...)
		for _, f := range c.Flags {
			for _, n := range f.Names() {
				if n == name {
					_, isBool := f.(*cli.BoolFlag)
					return !isBool
				}
			}
		}
	}
	return false
}
