package dockerfile

import (
	"strings"
	"testing"
)

func TestCopyFetched(t *testing.T) {
	const text = `ARG V=1.2
FROM full AS build
ARG V
ENV DIR=/opt
ADD --checksum=sha256:abc --chown=1:2 \
    https://files.example/a/b-${V}.tgz?x=1 "$DIR/"
ADD --chmod=644 http://mirror.drydock.internal/go/x.mod /go.mod
ADD local.tar https://git.example/team/repo.git#main /src/
RUN true
`
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []Added
	out, err := f.CopyFetched(map[string]string{"V": "1.3"}, func(a Added) (string, error) {
		got = append(got, a)
		return "127.0.0.1:5000/fetched/x@sha256:0", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Added{
		{Place: "Dockerfile:5", URL: "https://files.example/a/b-1.3.tgz?x=1", Name: "b-1.3.tgz", Checksum: "sha256:abc"},
		{Place: "Dockerfile:7", URL: "http://mirror.drydock.internal/go/x.mod", Name: "x.mod"},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("added %+v", got)
	}
	lines := strings.Split(string(out), "\n")
	for n, line := range map[int]string{
		4: `COPY --from=127.0.0.1:5000/fetched/x@sha256:0 --chown=1:2 --chmod=0600 ["/b-1.3.tgz","\"$DIR/\""]`,
		5: "",
		6: `COPY --from=127.0.0.1:5000/fetched/x@sha256:0 --chmod=644 ["/x.mod","/go.mod"]`,
		7: "ADD local.tar https://git.example/team/repo.git#main /src/",
		8: "RUN true",
	} {
		if lines[n] != line {
			t.Errorf("line %d is %q", n+1, lines[n])
		}
	}
	if _, err := Parse("Dockerfile", out); err != nil {
		t.Error(err)
	}
}

// What cannot be copied in an ADD's place is refused at its line.
func TestCopyFetchedRefused(t *testing.T) {
	for _, add := range []string{
		"ADD https://files.example/a local /x/",
		"ADD --unpack=true https://files.example/a.tgz /x/",
		"ADD https://files.example/$FROM_THE_BASE /x/",
		"ADD https://files.example/ /x/",
	} {
		f, err := Parse("Dockerfile", []byte("FROM full\n"+add+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.CopyFetched(nil, func(Added) (string, error) { return "ref", nil })
		if err == nil || !strings.Contains(err.Error(), "Dockerfile:2") {
			t.Errorf("%s: %v", add, err)
		}
	}
}

func TestCutInRuns(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("FROM full\nRUN true\n  run --network=host a \\\n  b\nRUN --network=none c\nRUN <<X\nRUN d\nX\n"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := f.CutInRuns()
	want := "FROM full\nRUN --network=none true\n  run --network=host a \\\n  b\nRUN --network=none c\nRUN --network=none <<X\nRUN d\nX\n"
	if err != nil || string(out) != want {
		t.Errorf("%q, %v", out, err)
	}
}

func TestReachesOut(t *testing.T) {
	for line, want := range map[string]bool{
		"RUN true":                                 false,
		"ADD https://files.example/a /":            false,
		"ADD local /":                              false,
		"RUN --network=none true":                  false,
		"ADD https://git.example/a.git /":          true,
		"ADD https://git.example/a#main /":         true,
		"ADD git@git.example:a/b.git /":            true,
		"ADD ssh://git@git.example/a /":            true,
		"ADD $WHAT /":                              true,
		"RUN --network=host true":                  true,
		"RUN --security=insecure --network=none x": true,
	} {
		f, err := Parse("Dockerfile", []byte("FROM full\n"+line+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.ReachesOut(); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
