package dockerfile

import (
	"strings"
	"testing"
)

func TestMountInRuns(t *testing.T) {
	in := `FROM base/full@sha256:aa AS build
RUN --mount=type=cache,target=/c apt-get update \
 && true
FROM build AS more
  run <<EOF
apt-get update
EOF
FROM scratch
COPY --from=more / /
FROM base/minimal@sha256:bb
RUN ["/x"]
`
	f, err := Parse("Dockerfile", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	out, err := f.MountInRuns(map[string]bool{"base/full@sha256:aa": true}, "type=bind,source=s,target=/t")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(in, "RUN --mount=type=cache", "RUN --mount=type=bind,source=s,target=/t --mount=type=cache", 1)
	want = strings.Replace(want, "  run <<EOF", "  run --mount=type=bind,source=s,target=/t <<EOF", 1)
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	again, err := Parse("Dockerfile", out)
	if err != nil || len(again.code) != len(f.code) {
		t.Errorf("the result does not parse as before: %v", err)
	}
	if _, err := f.MountInRuns(nil, "a b"); err == nil {
		t.Error("a mount with a space was taken")
	}
}
