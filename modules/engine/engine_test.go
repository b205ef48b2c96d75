package engine

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
)

func TestMain(m *testing.M) {
	if handled, exit := Child(os.Args); handled {
		os.Exit(exit)
	}
	if spec := os.Getenv(helperEnv); spec != "" {
		os.Exit(helperRun(spec))
	}
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	runner := envRunnerHost + "=tcp://127.0.0.1:1"
	tests := []struct {
		name    string
		kind    string
		environ []string
		want    string // kind, or
		message string // part of the error
	}{
		{"nothing given", KindAuto, nil, KindEmbedded, ""},
		{"zero value", "", nil, KindEmbedded, ""},
		{"session", KindAuto, []string{"DAGGER_SESSION_PORT=1234", "DAGGER_SESSION_TOKEN=t"}, KindDagger, ""},
		{"session without token", KindAuto, []string{"DAGGER_SESSION_PORT=1234"}, "", "without DAGGER_SESSION_TOKEN"},
		{"session with a bad port", KindAuto, []string{"DAGGER_SESSION_PORT=x", "DAGGER_SESSION_TOKEN=t"}, "", "not a port"},
		{"runner and client", KindAuto, []string{runner, envCLIBin + "=/x/dagger"}, KindDagger, ""},
		{"runner without client", KindAuto, []string{runner}, "", "no client is downloaded"},
		{"dagger asked for, none there", KindDagger, nil, "", "names none"},
		{"embedded asked for", KindEmbedded, []string{runner}, KindEmbedded, ""},
		{"unset by an empty value", KindAuto, []string{runner, envRunnerHost + "="}, KindEmbedded, ""},
		{"unknown", "sail", nil, "", "no such kind"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := choose(Config{Kind: tc.kind, Environ: tc.environ})
			if tc.message == "" {
				if err != nil || got != tc.want {
					t.Fatalf("got %q, %v; want %q", got, err, tc.want)
				}
				return
			}
			var e *artifact.Error
			if !errors.As(err, &e) || e.Kind != artifact.KindUsage || e.Remedy == "" || !strings.Contains(err.Error(), tc.message) {
				t.Fatalf("got %v, want a usage error with a remedy that says %q", err, tc.message)
			}
		})
	}
}

func TestImageRef(t *testing.T) {
	d := artifact.Digest("sha256:" + strings.Repeat("ab", 32))
	embedded := &Engine{Kind: KindEmbedded, images: "127.0.0.1:5000"}
	if got := embedded.ImageRef("bases/a", d); got != "base.drydock.internal/bases/a@"+string(d) {
		t.Errorf("embedded: %s", got)
	}
	other := &Engine{Kind: KindDagger, images: "127.0.0.1:5000"}
	if got := other.ImageRef("bases/a", d); got != "127.0.0.1:5000/bases/a@"+string(d) {
		t.Errorf("Dagger Engine: %s", got)
	}
}

func TestConnectNeedsCache(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the embedded engine needs Linux")
	}
	_, err := Connect(t.Context(), Config{Kind: KindEmbedded})
	if artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("got %v", err)
	}
}

func TestConnectNoSession(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := Connect(ctx, Config{Environ: []string{"DAGGER_SESSION_PORT=1", "DAGGER_SESSION_TOKEN=t"}})
	if artifact.ExitCode(err) != artifact.ExitFault || len(artifact.Remedies(err)) == 0 {
		t.Errorf("got %v", err)
	}
}

// connect starts an embedded engine for one test.
func connect(t *testing.T, cfg Config) *Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the engine: left out by -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the embedded engine needs Linux")
	}
	cfg.Kind, cfg.CacheDir, cfg.Environ = KindEmbedded, t.TempDir(), os.Environ()
	e, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestEmbedded(t *testing.T) {
	e := connect(t, Config{})
	if !e.Hermetic || e.Kind != KindEmbedded || e.Tier == "" || e.Version == "" {
		t.Errorf("got %+v", e)
	}
	if s, err := e.Client.File("a", "text").Contents(t.Context()); err != nil || s != "text" {
		t.Errorf("got %q, %v", s, err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	_, err := e.Client.File("a", "text").Contents(t.Context())
	if artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("after closing: %v", err)
	}
}

func TestEvents(t *testing.T) {
	var events []Event
	e := connect(t, Config{Progress: func(ev Event) { events = append(events, ev) }})
	dir := e.Client.Directory().WithNewFile("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	ctr := dir.DockerBuild(dagger.DirectoryDockerBuildOpts{BuildArgs: []dagger.BuildArg{{Name: "DRYDOCK_BUILD", Value: "web"}}})
	if _, err := ctr.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	var began, ended bool
	for _, ev := range events {
		if ev.Build == "web" && strings.Contains(ev.Name, "COPY Dockerfile /") {
			began = began || ev.Kind == EventStarted
			ended = ended || ev.Kind == EventDone && began
		}
	}
	if !began || !ended {
		t.Errorf("the copy did not begin (%v) and end (%v): %+v", began, ended, events)
	}
}

func TestExplain(t *testing.T) {
	e := connect(t, Config{})
	_, err := e.Client.Directory().WithNewFile("Dockerfile", "FROM scratch\nFLY\n").DockerBuild().Sync(t.Context())
	var explained *artifact.Error
	if !errors.As(Explain("building web", err), &explained) {
		t.Fatalf("got %v", err)
	}
	if explained.Kind != artifact.KindUsage || explained.Place != "Dockerfile:2" {
		t.Errorf("got %+v", explained)
	}
	err = e.Client.Container().ExportImage(t.Context(), "x")
	if !errors.As(Explain("exporting", err), &explained) || !strings.Contains(explained.Error(), "Container.exportImage") || !strings.Contains(explained.Remedy, "Dagger Engine") {
		t.Errorf("got %+v", explained)
	}
	if Explain("x", nil) != nil {
		t.Error("explaining no error gave one")
	}
	if err := Explain("x", context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
