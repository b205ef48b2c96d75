package main

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nothing"}, "unknown command"},
		{[]string{"normalize"}, "--in is required"},
		{[]string{"sbom", "--in", "x"}, "--out is required"},
		{[]string{"scan", "--sbom", "x", "--db", "y"}, "--out is required"},
		{[]string{"test", "--spec", "x"}, "--in is required"},
		{[]string{"vulndb"}, "import or build"},
		{[]string{"vulndb", "burn"}, "unknown command"},
		{[]string{"vulndb", "import", "--in", "x", "--out", "y", "--digest", "md5:1"}, "not a sha256 digest"},
		{[]string{"normalize", "--in", "x", "--out", "y", "extra"}, "unexpected argument"},
		{[]string{"normalize", "--nope"}, "not defined"},
		{[]string{"normalize", "--in", "x", "--out", "y", "--base-layers", "tag"}, "not a sha256 digest"},
		{[]string{"normalize", "--in", "x", "--out", "y", "--platform", "amd64"}, "os/architecture"},
	} {
		err := run(t.Context(), c.args, streams{new(bytes.Buffer), new(bytes.Buffer)})
		if artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: exit %d, %v", c.args, artifact.ExitCode(err), err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), nil, streams{&out, &out}); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "normalize") {
		t.Errorf("help: %v\n%s", err, out.String())
	}
}
