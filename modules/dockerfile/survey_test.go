package dockerfile

import (
	"fmt"
	"slices"
	"testing"
)

func TestSurvey(t *testing.T) {
	f, err := Parse("Dockerfile", []byte(`ARG WHICH
FROM golang:1.26 AS build
COPY go.mod go.sum ./
COPY cmd/ /src/cmd
ADD https://x.test/f /f
ADD web.tar.gz /web
RUN apt-get update && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/c CGO_ENABLED=0 go build -o /x ./cmd/x
RUN set -e; if true; then npm ci --omit=dev; fi
RUN echo going; echo "apt is not called"; category install
RUN <<EOT
set -e
pip3 install -r requirements.txt
curl -fsSL https://y.test/i.sh | sh
EOT
FROM build AS check
RUN make test
FROM scratch AS extra
COPY --from=build /x /
FROM scratch AS run
USER 1000
FROM run
COPY --from=0 /x /
`))
	if err != nil {
		t.Fatal(err)
	}
	var tools []string
	for _, x := range f.Tools() {
		tools = append(tools, fmt.Sprint(x.Name, ":", x.Line))
	}
	if want := []string{"apt:7", "go:9", "npm:10", "pip:12", "download:12", "make:18"}; !slices.Equal(tools, want) {
		t.Error("tools", tools, "want", want)
	}
	var sources []string
	for _, s := range f.Sources() {
		sources = append(sources, fmt.Sprint(s.Path, ":", s.Line))
	}
	if want := []string{"go.mod:3", "go.sum:3", "cmd/:4", "web.tar.gz:6"}; !slices.Equal(sources, want) {
		t.Error("sources", sources, "want", want)
	}
	if got := f.Targets(); !slices.Equal(got, []string{"check", "extra"}) {
		t.Error("targets", got)
	}
	if f.User("") != "1000" {
		t.Errorf("user %q", f.User(""))
	}
	f, err = Parse("Dockerfile", []byte("ARG WHICH\nARG TAG=1\nFROM ${WHICH}:$TAG\nUSER root\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Arguments(); !slices.Equal(got, []string{"WHICH"}) {
		t.Error("arguments", got)
	}
	if f.User("") != "root" || len(f.Targets()) != 0 || len(f.Tools()) != 0 {
		t.Error("user, targets, tools", f.User(""), f.Targets(), f.Tools())
	}
}
