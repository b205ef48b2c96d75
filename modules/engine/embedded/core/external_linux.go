package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	bkexec "github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"

	"drydock/modules/artifact"
)

// isExternal says whether a reference is a frontend that this program put among
// the bases, by its digest. A name proves nothing about who chose it, but only
// what the catalog lists is ever put there.
func isExternal(source string) bool {
	rest, ok := strings.CutPrefix(source, BaseHost+"/"+frontendFolder)
	_, pinned, _ := strings.Cut(rest, "@")
	_, err := artifact.ParseDigest(pinned)
	return ok && err == nil
}

// externalFrontend runs a frontend from an image: BuildKit's gateway.v0, whose
// protocol goes over the process's standard input and output. What it may do
// is what a Dockerfile may: the process is a step without any network, it
// starts no containers, and what it asks to be built has no sources but the
// bases, the build's own inputs and what the gateway fetches.
type externalFrontend struct{ workers worker.Infos }

var _ frontend.Frontend = externalFrontend{}

// Solve runs the frontend that opt names.
func (f externalFrontend) Solve(ctx context.Context, b frontend.FrontendLLBBridge, exec bkexec.Executor, opt map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	run, err := gateway.NewGatewayFrontend(withoutContainers{f.workers}, nil)
	if err != nil {
		return nil, err
	}
	guard := &guardedBridge{FrontendLLBBridge: b, source: opt[frontend.KeySource], own: map[digest.Digest]bool{}}
	for _, def := range inputs {
		for _, dt := range def.GetDef() {
			guard.own[digest.FromBytes(dt)] = true
		}
	}
	if imports := opt["cache-imports"]; imports != "" {
		if err := json.Unmarshal([]byte(imports), &guard.imports); err != nil {
			return nil, fmt.Errorf("reading cache-imports: %w", err)
		}
	}
	process := &frontendProcess{Executor: exec}
	res, err := run.Solve(ctx, guard, process, opt, inputs, sid, sm)
	if err != nil {
		if process.failed != nil && errors.Is(err, process.failed) { // else it said itself what is wrong
			err = fmt.Errorf("%w: %s", err, process.errs.String())
		}
		return nil, fmt.Errorf("frontend %s: %w", guard.source, err)
	}
	return res, nil
}

// withoutContainers keeps a frontend from starting containers beside the build:
// they would be no steps, with no record of what they did.
type withoutContainers struct{ worker.Infos }

// DefaultCacheManager is what BuildKit makes such containers with.
func (withoutContainers) DefaultCacheManager() (cache.Manager, error) {
	return nil, errors.New("an external frontend may start no containers of its own")
}

// frontendProcess is the executor for the frontend's process.
type frontendProcess struct {
	bkexec.Executor
	errs   tail  // the end of what it complained
	failed error // how it ended
}

// Run starts it without network. The mount BuildKit adds tells a frontend what
// it was itself made of, which none needs.
func (p *frontendProcess) Run(ctx context.Context, id string, root bkexec.Mount, _ []bkexec.Mount, info bkexec.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	info.Meta.NetMode = pb.NetMode_NONE
	info.Stderr = unclosed{&p.errs}
	var rec resourcestypes.Recorder
	rec, p.failed = p.Executor.Run(ctx, id, root, nil, info, started)
	return rec, p.failed
}

// unclosed is a stream whose end nobody waits for.
type unclosed struct{ io.Writer }

// Close does nothing.
func (unclosed) Close() error { return nil }

// guardedBridge holds what a frontend asks for to what a Dockerfile may. The
// parser checked the Dockerfile for that; this one's reading of it nobody did.
type guardedBridge struct {
	frontend.FrontendLLBBridge
	source  string
	own     map[digest.Digest]bool // operations of the build's inputs
	imports []frontend.CacheOptionsEntry
}

func (g *guardedBridge) refuse(what string) error {
	return &artifact.Error{
		Kind: artifact.KindGate, Op: "running the frontend", Place: g.source,
		Message: "it asks for " + what + ", which no build is given (rule " + mirrorOnly + ")",
		Remedy:  "use a frontend that keeps to the build's bases and context, or the built-in one",
	}
}

// Solve builds what the frontend made of the file.
func (g *guardedBridge) Solve(ctx context.Context, req frontend.SolveRequest, sid string) (*frontend.Result, error) {
	if req.Frontend != "" {
		return nil, g.refuse("another frontend, " + req.Frontend)
	}
	if len(req.SourcePolicies) > 0 {
		return nil, g.refuse("other sources by a policy")
	}
	req.CacheImports = g.imports // those the build was given, whatever it names
	for _, dt := range req.Definition.GetDef() {
		if g.own[digest.FromBytes(dt)] {
			continue
		}
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("reading what frontend %s asks for: %w", g.source, err)
		}
		if err := g.check(&op); err != nil {
			return nil, err
		}
	}
	return g.FrontendLLBBridge.Solve(ctx, req, sid)
}

// check refuses operations that bring in more than steps and bases.
func (g *guardedBridge) check(op *pb.Op) error {
	switch o := op.Op.(type) {
	case nil: // the last one of a definition only names the result
		return nil
	case *pb.Op_Exec, *pb.Op_File, *pb.Op_Merge, *pb.Op_Diff:
		return nil
	case *pb.Op_Source:
		return g.checkSource(o.Source)
	case *pb.Op_Build:
		return g.refuse("a build described by a file")
	}
	return g.refuse("an unknown operation")
}

// checkSource lets bases pass and what the worker fetches through the gateway.
func (g *guardedBridge) checkSource(s *pb.SourceOp) error {
	id := s.GetIdentifier()
	if isWeb(id) || strings.HasPrefix(id, srctypes.DockerImageScheme+"://"+BaseHost+"/") {
		return nil
	}
	return g.refuse("the source " + id)
}

// ResolveSourceMetadata looks up an image.
func (g *guardedBridge) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	if len(opt.SourcePolicies) > 0 {
		return nil, g.refuse("other sources by a policy")
	}
	if err := g.checkSource(op); err != nil {
		return nil, err
	}
	return g.FrontendLLBBridge.ResolveSourceMetadata(ctx, op, opt)
}
