package core

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"

	"drydock/internal/frontendtest"
	"drydock/modules/artifact"
)

// pushFrontend puts a frontend among the images of a registry and gives the
// reference by which the engine is told it.
func pushFrontend(t *testing.T, addr, as string, img v1.Image, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(addr + "/" + as + ":x")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return BaseHost + "/" + as + "@" + d.String()
}

// BuildKit's own frontend, from an image, makes what the built-in one makes, in
// both tiers; frontends that ask for more are refused in words.
func TestExternalFrontend(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	addr, base := baseRegistry(t, root)
	img, err := frontendtest.BuildKit(t.Context(), t.TempDir(), os.Environ())
	theirs := pushFrontend(t, addr, frontendFolder+"test/dockerfile", img, err)
	elsewhere := pushFrontend(t, addr, "test/dockerfile", img, nil)
	script := busyboxRoot(t)
	if err := os.WriteFile(filepath.Join(script, "bin/tries"), []byte("#!/bin/sh\nexec >&2\ngrep : /proc/net/dev | grep -v lo: && echo a-device\nwget -T 2 -O - http://10.0.0.1/ && echo reached\nls /run/secrets\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err = frontendtest.Image(script, "/bin/tries")
	tries := pushFrontend(t, addr, frontendFolder+"test/tries", img, err)

	context := busyboxRoot(t)
	text := "FROM " + BaseHost + "/tools/busybox@" + base + " AS build\nARG WORD\nRUN echo built for $WORD > /made && chown 7:8 /made && cat /made\n" +
		"COPY etc/passwd /copied\nFROM scratch\nCOPY --from=build /made /copied /\nLABEL a=b\nENTRYPOINT [\"/made\"]\n"
	write := func(t *testing.T, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tier := range []string{TierNamespaces, TierContainer} {
		t.Run(tier, func(t *testing.T) {
			if tier == TierContainer && os.Geteuid() != 0 {
				t.Skip("without namespaces the engine runs as root")
			}
			c := startChild(t, ChildConfig{ImagesAddr: addr, Tier: tier})
			build := func(t *testing.T, source, word string) (outcome, string) {
				t.Helper()
				at := filepath.Join(t.TempDir(), "image.tar")
				out := do(t, c.Socket, task{
					Dir: context, Dockerfile: true, Source: source, Image: at,
					Opts: map[string]string{"build-arg:WORD": word, "build-arg:SOURCE_DATE_EPOCH": "1700000000"},
				})
				raw, _ := os.ReadFile(at) // not there where the build failed
				return out, digest.FromBytes(raw).String()
			}
			write(t, text)
			own, want := build(t, "", "sea "+tier)
			wantLogs(t, own, "built for sea "+tier)
			out, got := build(t, theirs, "sea "+tier)
			wantLogs(t, out)
			if got != want {
				t.Errorf("the external frontend made %s, the built-in one %s", got, want)
			}
			out, other := build(t, theirs, "land "+tier)
			wantLogs(t, out, "built for land "+tier)
			if other == want {
				t.Error("another argument made the same image")
			}
			out, _ = build(t, tries, "x")
			wantErr(t, out, "test/tries", "exit code: 3", "/run/secrets: No such file or directory")
			if strings.Contains(out.Err, "a-device") || strings.Contains(out.Err, "reached") {
				t.Errorf("the frontend saw a network: %s", out.Err)
			}
			out, _ = build(t, elsewhere, "x")
			wantErr(t, out, "unless the catalog lists it")
			out, _ = build(t, BaseHost+"/"+frontendFolder+"test/dockerfile:x", "x")
			wantErr(t, out, "unless the catalog lists it")
			out, _ = build(t, BaseHost+"/"+frontendFolder+"test/dockerfile@sha256:"+strings.Repeat("0", 64), "x")
			wantErr(t, out, "not found")
			write(t, "FROM "+addr+"/tools/busybox@"+base+"\n")
			out, _ = build(t, theirs, "x")
			wantErr(t, out, "it asks for the source docker-image://"+addr)
			write(t, "FROM "+BaseHost+"/tools/busybox@"+base+"\nRUN false\n")
			out, _ = build(t, theirs, "x")
			wantErr(t, out, "exit code: 1")
			write(t, "FROM scratch\nFETCH x\n")
			out, _ = build(t, theirs, "x")
			wantErr(t, out, "unknown instruction: FETCH")
		})
	}
}

// asked is a bridge that notes that it was asked.
type asked struct{ solves, looks int }

func (a *asked) Solve(context.Context, frontend.SolveRequest, string) (*frontend.Result, error) {
	a.solves++
	return &frontend.Result{}, nil
}

func (a *asked) Warn(context.Context, digest.Digest, string, frontend.WarnOpts) error { return nil }

func (a *asked) ResolveSourceMetadata(context.Context, *pb.SourceOp, sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	a.looks++
	return &sourceresolver.MetaResponse{}, nil
}

// What a frontend may not ask for, whatever its program is.
func TestFrontendGuard(t *testing.T) {
	definition := func(st llb.State) *pb.Definition {
		def, err := st.Marshal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return def.ToPB()
	}
	base := llb.Image(BaseHost + "/full@sha256:" + strings.Repeat("a", 64))
	own := definition(llb.Local("context"))
	operation := func(op *pb.Op) *pb.Definition {
		dt, err := op.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return &pb.Definition{Def: [][]byte{dt}}
	}
	for what, c := range map[string]struct {
		req    frontend.SolveRequest
		refuse string // "" is let through
	}{
		"a step on a base":     {frontend.SolveRequest{Definition: definition(base.Run(llb.Shlex("true")).Root())}, ""},
		"the build's context":  {frontend.SolveRequest{Definition: own}, ""},
		"a file of a web site": {frontend.SolveRequest{Definition: definition(llb.HTTP("https://example.invalid/x"))}, ""},
		"merged":               {frontend.SolveRequest{Definition: definition(llb.Merge([]llb.State{base, llb.Diff(llb.Scratch(), base)}))}, ""},
		"nothing":              {frontend.SolveRequest{}, ""},
		"a folder of the host": {frontend.SolveRequest{Definition: definition(llb.Local("root"))}, "the source local://root"},
		"one under a step":     {frontend.SolveRequest{Definition: definition(base.Run(llb.Shlex("true"), llb.AddMount("/x", llb.Local("root"))).Root())}, "the source local://root"},
		"an imported image":    {frontend.SolveRequest{Definition: definition(llb.OCILayout("x/y@sha256:" + strings.Repeat("a", 64)))}, "the source oci-layout://"},
		"a registry":           {frontend.SolveRequest{Definition: definition(llb.Image("127.0.0.1:5000/x"))}, "the source docker-image://127.0.0.1:5000/x"},
		"one called alike":     {frontend.SolveRequest{Definition: definition(llb.Image(BaseHost + ".example/x"))}, "the source docker-image://"},
		"a repository":         {frontend.SolveRequest{Definition: definition(llb.Git("https://example.invalid/x.git", "main"))}, "the source git://"},
		"a build by a file":    {frontend.SolveRequest{Definition: operation(&pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}})}, "a build described by a file"},
		"another frontend":     {frontend.SolveRequest{Frontend: "dockerfile.v0"}, "another frontend, dockerfile.v0"},
		"a source policy":      {frontend.SolveRequest{Definition: own, SourcePolicies: []*spb.Policy{{}}}, "other sources by a policy"},
	} {
		to := &asked{}
		g := &guardedBridge{FrontendLLBBridge: to, source: "theirs", own: map[digest.Digest]bool{}}
		for _, dt := range own.Def {
			g.own[digest.FromBytes(dt)] = true
		}
		_, err := g.Solve(t.Context(), c.req, "session")
		wantRefused(t, what, err, c.refuse, to.solves)
	}
	for id, refuse := range map[string]string{
		"docker-image://" + BaseHost + "/full@sha256:" + strings.Repeat("a", 64): "",
		"docker-image://docker.io/library/debian:12":                             "the source docker-image://docker.io",
		"git://example.invalid/x":                                                "the source git://",
	} {
		to := &asked{}
		g := &guardedBridge{FrontendLLBBridge: to, source: "theirs"}
		_, err := g.ResolveSourceMetadata(t.Context(), &pb.SourceOp{Identifier: id}, sourceresolver.Opt{})
		wantRefused(t, id, err, refuse, to.looks)
		_, err = g.ResolveSourceMetadata(t.Context(), &pb.SourceOp{Identifier: id}, sourceresolver.Opt{SourcePolicies: []*spb.Policy{{}}})
		wantRefused(t, id+" by a policy", err, "by a policy", 0)
	}
	if _, err := (withoutContainers{}).DefaultCacheManager(); err == nil {
		t.Error("a frontend can start containers")
	}
}

func wantRefused(t *testing.T, what string, err error, refuse string, asked int) {
	t.Helper()
	var e *artifact.Error
	switch {
	case refuse == "" && (err != nil || asked != 1):
		t.Errorf("%s: %v", what, err)
	case refuse != "" && (!errors.As(err, &e) || !strings.Contains(e.Message, refuse) || e.Kind != artifact.KindGate || asked != 0):
		t.Errorf("%s: got %v, want it refused for %q", what, err, refuse)
	}
}
