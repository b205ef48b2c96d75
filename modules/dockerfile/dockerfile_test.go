package dockerfile

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("x/Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const everything = `# syntax=docker/dockerfile:1
# escape=\
ARG GO=1.26
ARG BASE=golang-${GO}
FROM --platform=$BUILDPLATFORM ${BASE} AS Build
COPY . /src
RUN --mount=type=cache,target=/var/cache/go --mount=type=bind,from=tools,source=/bin,target=/tools \
    --mount=from=full,target=/full echo from=full, && go build
FROM \
  # a comment in between
  minimal \
  AS last
COPY --from=build /out /out
COPY --chown=1:1 \
     --from=age:1.26 /a /b
COPY --from=0 /x /y
FROM last
FROM scratch
`

func TestBasesFollowStagesAndArguments(t *testing.T) {
	f := parse(t, everything)
	if f.Syntax != "docker/dockerfile:1" {
		t.Errorf("syntax is %q", f.Syntax)
	}
	if got := f.Stages[0]; got.Name != "build" || got.From.Raw != "${BASE}" || got.From.Name != "golang-1.26" || got.From.Platform != "$BUILDPLATFORM" || got.From.Line != 5 {
		t.Errorf("first stage is %+v", got)
	}
	got, err := f.Bases("last", map[string]string{"GO": "1.25"})
	if err != nil {
		t.Fatal(err)
	}
	want := []BaseRef{
		{Ref: "golang-1.25", Line: 5, Instruction: "FROM", Platform: "$BUILDPLATFORM"},
		{Ref: "tools", Line: 7, Instruction: "RUN"},
		{Ref: "full", Line: 7, Instruction: "RUN"},
		{Ref: "minimal", Line: 9, Instruction: "FROM"},
		{Ref: "age:1.26", Line: 14, Instruction: "COPY"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	got, _ = f.Bases("last", map[string]string{"BUILDPLATFORM": "linux/arm64"})
	if got[0].Platform != "linux/arm64" || got[0].Ref != "golang-1.26" {
		t.Errorf("known arguments are not put in: %+v", got[0])
	}
}

func TestRewriteKeepsEveryLineWhereItIs(t *testing.T) {
	f := parse(t, everything)
	out, err := f.Rewrite("last", nil, func(ref string) (string, error) {
		return "base.internal/" + strings.NewReplacer(":", "-").Replace(ref) + "@sha256:" + strings.Repeat("a", 64), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d := "@sha256:" + strings.Repeat("a", 64)
	want := `# escape=\
#
ARG GO=1.26
ARG BASE=golang-${GO}
FROM --platform=$BUILDPLATFORM base.internal/golang-1.26` + d + ` AS Build
COPY . /src
RUN --mount=type=cache,target=/var/cache/go --mount=type=bind,from=base.internal/tools` + d + `,source=/bin,target=/tools \
    --mount=from=base.internal/full` + d + `,target=/full echo from=full, && go build
FROM base.internal/minimal` + d + ` AS last



COPY --from=build /out /out
COPY --chown=1:1 \
     --from=base.internal/age-1.26` + d + ` /a /b
COPY --from=0 /x /y
FROM last
FROM scratch
`
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestRewriteKeepsLineEndingsAndHeredocs(t *testing.T) {
	f := parse(t, "FROM \\\r\n full\r\nRUN <<EOF\r\nFROM nothing\r\nEOF\r\n")
	out, err := f.Rewrite("", nil, func(string) (string, error) { return "x", nil })
	if err != nil {
		t.Fatal(err)
	}
	if want := "FROM x\r\n\r\nRUN <<EOF\r\nFROM nothing\r\nEOF\r\n"; string(out) != want {
		t.Errorf("got %q", out)
	}
}

func TestRewriteGivesTheSpellersError(t *testing.T) {
	f := parse(t, "ARG X\nFROM full\n")
	_, err := f.Rewrite("", nil, func(string) (string, error) { return "", errors.New("no such base") })
	wantError(t, err, "x/Dockerfile:2", "no such base")
	for _, bad := range []string{"", "a b", "a\nb", "$X"} {
		_, err = f.Rewrite("", nil, func(string) (string, error) { return bad, nil })
		wantError(t, err, "x/Dockerfile:2", "is not a reference")
	}
}

func wantError(t *testing.T, err error, place, message string) {
	t.Helper()
	var e *artifact.Error
	if !errors.As(err, &e) {
		t.Fatalf("no error of ours: %v", err)
	}
	if e.Kind != artifact.KindUsage || e.Place != place || !strings.Contains(e.Error(), message) || e.Remedy == "" {
		t.Errorf("got kind %d place %q remedy %q: %v\nwant place %q and %q", e.Kind, e.Place, e.Remedy, e, place, message)
	}
}

func TestErrorsNameTheirLine(t *testing.T) {
	for _, c := range []struct{ name, text, place, message string }{
		{"empty", "", "x/Dockerfile:1", "no instructions"},
		{"only comments", "# hello\n", "x/Dockerfile:1", "no instructions"},
		{"unknown instruction", "FROM full\nRUNN x\n", "x/Dockerfile:2", "unknown instruction"},
		{"instruction before FROM", "RUN x\nFROM full\n", "x/Dockerfile:1", "before the first FROM"},
		{"no FROM", "ARG X=1\n", "x/Dockerfile:1", "no FROM"},
		{"unterminated heredoc", "FROM full\nRUN <<EOF\nx\n", "x/Dockerfile:2", "unterminated heredoc"},
		{"bad stage name", "FROM full AS 1x\n", "x/Dockerfile:1", "invalid name"},
		{"bad variable", "FROM full\nFROM ${X\n", "x/Dockerfile:2", ""},
		{"mount from a variable", "FROM full\nRUN --mount=from=$X,target=/x true\n", "x/Dockerfile:2", "variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("x/Dockerfile", []byte(c.text))
			wantError(t, err, c.place, c.message)
		})
	}
	for _, c := range []struct{ name, text, place, message string }{
		{"argument without value", "ARG X\nFROM $X\n", "x/Dockerfile:2", "names nothing"},
		{"copy from a variable", "ARG X=a\nFROM full\nCOPY --from=$X /a /b\n", "x/Dockerfile:3", "takes no variables"},
		{"stage that is not there", "FROM full\nCOPY --from=3 /a /b\n", "x/Dockerfile:2", "no stage 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, c.text).Bases("", nil)
			wantError(t, err, c.place, c.message)
		})
	}
}

func TestFrontend(t *testing.T) {
	for text, want := range map[string]string{
		"FROM full\n": " ",
		"# syntax=docker/dockerfile:1\nFROM full\n":                                      " ",
		"# syntax = docker.io/docker/dockerfile-upstream:master\nFROM full\n":            " ",
		"# syntax=docker/dockerfile@sha256:" + strings.Repeat("0", 64) + "\nFROM full\n": " ",
		"# syntax=docker/dockerfile-mine:1\nFROM full\n":                                 "docker/dockerfile-mine:1 x/Dockerfile:1",
		"# syntax=example.org/docker/dockerfile:1\nFROM full\n":                          "example.org/docker/dockerfile:1 x/Dockerfile:1",
		"#!/usr/bin/env x\n# syntax=example.org:5000/mine:1 more\nFROM full\n":           "example.org:5000/mine:1 x/Dockerfile:2",
	} {
		ref, place := parse(t, text).Frontend()
		if got := ref + " " + place; got != want {
			t.Errorf("%q: frontend %q, want %q", text, got, want)
		}
	}
}

func TestStagesAreFoundAsBuildKitFindsThem(t *testing.T) {
	f := parse(t, "FROM later\nCOPY --from=LATER /a /b\nFROM full AS later\nFROM Later\n")
	got, err := f.Bases("0", nil)
	if err != nil {
		t.Fatal(err)
	}
	// FROM sees only what is before it, COPY --from sees all; neither minds case.
	want := []BaseRef{{Ref: "later", Line: 1, Instruction: "FROM"}, {Ref: "full", Line: 3, Instruction: "FROM"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

// What a target is not made of is neither asked for nor changed.
func TestStagesNobodyWants(t *testing.T) {
	const text = "ARG KIND=a\nFROM nowhere:1 AS other\nCOPY --from=nowhere:2 / /\nFROM full AS kind-a\nFROM nowhere:3 AS kind-b\nFROM tools AS mounted\nFROM kind-${KIND} AS most\nRUN --mount=from=mounted,target=/t true\nFROM most\n"
	f := parse(t, text)
	for target, want := range map[string]string{"": "full tools ", "MOST": "full tools ", "other": "nowhere:1 nowhere:2 ", "4": "full tools "} {
		refs, err := f.Bases(target, nil)
		got := ""
		for _, r := range refs {
			got += r.Ref + " "
		}
		if err != nil || got != want {
			t.Errorf("target %q: %q, %v", target, got, err)
		}
	}
	out, err := f.Rewrite("", nil, func(ref string) (string, error) { return "base/" + ref, nil })
	if want := strings.NewReplacer("FROM full", "FROM base/full", "FROM tools", "FROM base/tools").Replace(text); err != nil || string(out) != want {
		t.Errorf("%s, %v", out, err)
	}
}

func TestContextPaths(t *testing.T) {
	for text, want := range map[string][]string{
		"FROM x\nCOPY a.txt ./dir/ /b/\n":                      {"a.txt", "dir"},
		"FROM x\nCOPY . /\n":                                   {"."},
		"FROM x\nCOPY --from=y a /\n":                          nil,
		"FROM x\nCOPY *.conf /\nADD ../up /\n":                 {"*.conf", "up"},
		"FROM x\nADD https://h/x git@h:y /in local.tar /\n":    {"in", "local.tar"},
		"ARG A\nFROM x\nARG A\nCOPY $A/x /\n":                  {"."},
		"FROM x\nRUN --mount=type=bind,source=src,target=/s x": {"src"},
		"FROM x\nRUN --mount=target=/s x":                      {"."},
		"FROM x\nRUN --mount=type=cache,target=/s x":           nil,
		"FROM x\nRUN --mount=type=tmpfs,target=/s,size=$X x":   {"."},
		"FROM x\nCOPY <<EOF /a\nhello\nEOF\n":                  nil,
	} {
		got := parse(t, text).ContextPaths()
		if len(got) == 0 {
			got = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// Whatever a Dockerfile says, Rewrite does not panic, keeps the number of
// lines and leaves no reference as it was.
func FuzzRewrite(f *testing.F) {
	seeds := []string{
		everything,
		"FROM a\r\nCOPY --from=b /x /y\r\n",
		"# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nFROM `\n a\n",
		"\xef\xbb\xbf# syntax=docker/dockerfile:1\nFROM a",
		"#!/usr/bin/env x\n# syntax=docker/dockerfile:1\nFROM a\n",
		"ARG A=b\nFROM $A\nRUN --mount=from=a,target=/a --mount=\"from=a,target=/b\" <<EOF\nfrom=a\nEOF\n",
		"FROM a\nONBUILD COPY --from=b / /\n",
		"FROM \"a\"\nCOPY \\\n#c\n --from=a \\\n\n / /\n",
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	const spelled = "registry.test/base@sha256:0000"
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("Dockerfile", data)
		if err != nil {
			return
		}
		refs, err := file.Bases("", nil)
		if err != nil {
			return
		}
		out, err := file.Rewrite("", nil, func(string) (string, error) { return spelled, nil })
		if err != nil {
			return
		}
		if bytes.Count(out, []byte("\n")) != bytes.Count(data, []byte("\n")) {
			t.Fatalf("lines moved:\n%q\n%q", data, out)
		}
		again, err := Parse("Dockerfile", out)
		if err != nil {
			t.Fatalf("the result cannot be read: %v\n%q", err, out)
		}
		if again.Syntax != "" {
			t.Fatalf("the syntax directive stayed: %q", out)
		}
		got, err := again.Bases("", nil)
		if err != nil || len(got) != len(refs) {
			t.Fatalf("%v: %+v became %+v", err, refs, got)
		}
		for i, r := range got {
			if r.Ref != spelled || r.Line != refs[i].Line {
				t.Fatalf("%+v became %+v in %q", refs[i], r, out)
			}
		}
	})
}

func TestFetches(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("FROM scratch\nARG V=1\nADD --checksum=sha256:"+strings.Repeat("0", 64)+
		" https://a.invalid/$V/x /x\nADD local http://b.invalid/y \\\n  /y/\nCOPY z /z\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Fetch{{"https://a.invalid/$V/x", "sha256:" + strings.Repeat("0", 64), 3}, {"http://b.invalid/y", "", 4}}
	if got := f.Fetches(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDemands(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("FROM scratch\nRUN --security=sandbox --network=none true\n"+
		"RUN --security=insecure true\nRUN --network=host true\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Demand{{"--security=insecure", 3}, {"--network=host", 4}}
	if got := f.Demands(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The image begins with the layers of what its last stage leads back to.
func TestStandsOn(t *testing.T) {
	t.Parallel()
	const text = "ARG GO=1.25\nFROM golang-${GO} AS build\nFROM minimal AS run\nCOPY --from=build /a /a\nFROM run\nFROM scratch AS empty\nFROM run AS last\n"
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"": "minimal", "build": "golang-1.26", "RUN": "minimal", "empty": ""} {
		got, ok, err := f.StandsOn(target, map[string]string{"GO": "1.26"})
		if err != nil || got.Ref != want || ok != (want != "") {
			t.Errorf("target %q stands on %q, %v, %v; want %q", target, got.Ref, ok, err, want)
		}
	}
}
