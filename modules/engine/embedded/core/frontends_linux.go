package core

import (
	"context"

	"github.com/distribution/reference"
	bkexec "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"

	"drydock/modules/artifact"
)

func frontends(workers *worker.Controller) map[string]frontend.Frontend {
	df := forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build)
	return map[string]frontend.Frontend{
		"dockerfile.v0": df,
		"gateway.v0":    &syntaxFrontend{dockerfile: df, external: externalFrontend{workers.Infos()}},
	}
}

// syntaxFrontend stands where BuildKit would run a frontend from an image
// ("# syntax=…"). The Dockerfile frontend is built in, those the catalog lists
// are run; any other image would be a build tool nobody reviewed.
type syntaxFrontend struct{ dockerfile, external frontend.Frontend }

var _ frontend.Frontend = (*syntaxFrontend)(nil)

// Solve builds with the built-in frontend or a listed one, or refuses.
func (f *syntaxFrontend) Solve(ctx context.Context, b frontend.FrontendLLBBridge, exec bkexec.Executor, opt map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	source := opt[frontend.KeySource]
	if isExternal(source) {
		return f.external.Solve(ctx, b, exec, opt, inputs, sid, sm)
	}
	if !builtinSyntax(source) {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "loading the frontend", Place: source,
			Message: "a frontend from an image is not run unless the catalog lists it; docker/dockerfile is built in",
			Remedy:  "remove the # syntax line, or write # syntax=docker/dockerfile:1",
		}
	}
	return f.dockerfile.Solve(ctx, b, exec, opt, inputs, sid, sm)
}

// builtinSyntax reports whether the reference is some version of the
// Dockerfile frontend, from whatever registry.
func builtinSyntax(source string) bool {
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return false
	}
	return reference.Path(named) == "docker/dockerfile"
}
