// Package image builds images: a context and a Dockerfile in, one archive per
// platform out that is the same bytes whoever builds it, and the layout that
// joins the platforms.
package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

const (
	// dockerfileName is what the rewritten Dockerfile is called in the context
	// the engine sees; nothing else can have this name.
	dockerfileName = ".drydock.Dockerfile"
	// BuildArgEpoch is the build argument for the time a build is to believe in.
	BuildArgEpoch = "SOURCE_DATE_EPOCH"
	// BuildArgName is the one for the name its materials are filed under.
	BuildArgName = "DRYDOCK_BUILD"
	// buildArgFrontend is the one for the image of the frontend.
	buildArgFrontend = "DRYDOCK_FRONTEND"
	// buildArgCacheMounts is the Dockerfile frontend's own, for the name space
	// of RUN --mount=type=cache.
	buildArgCacheMounts = "BUILDKIT_CACHE_MOUNT_NS"
)

// Source is one image to build for one platform.
type Source struct {
	Name       string         // names the build in the materials
	ContextDir string         // on this host; "" builds from the Dockerfile alone
	Ignore     []string       // .dockerignore patterns; what they exclude is never sent and changes no key
	Dockerfile []byte         // with every FROM already a digest
	History    []wire.History // of the image, for an engine that tells none; nil for one that does
	Frontend   string         // image that reads the Dockerfile, as the embedded engine spells it; "" is the built-in one
	Target     string         // stage; "" is the last
	User       string         // who the image runs as in place of what the Dockerfile says; "" leaves it
	Args       map[string]string
	Platform   artifact.Platform
	Epoch      int64             // seconds; every time in the result
	BaseLayers []artifact.Digest // diff ids of the base's layers, kept as the bytes they are
	Labels     map[string]string // said of the image, as labels and as annotations
	Inherited  map[string]string // labels that speak of what it builds on and not of it
	Secrets    map[string]string // by the id RUN --mount=type=secret names; part of no layer and no key
	Private    []string          // ids of those that the image may not hold
	SSH        string            // path of the agent's socket for RUN --mount=type=ssh; part of no key; "" is none

	KeepTraces  bool   // logs and caches of package managers stay in the layers
	CacheMounts string // names a set of cache mounts of its own; "" is the one all builds share
}

// Built is one platform's archive, still in the engine, and what it holds.
type Built struct {
	wire.Image
	Tar *dagger.File // OCI archive
}

// Build builds s and normalizes the result. The engine caches both by content.
func Build(ctx context.Context, c *dagger.Client, stepBin string, s Source) (*Built, error) {
	tarball := container(c, s).AsTarball()
	args := []string{"normalize", "--in", "/in/image.tar", "--out", "/out/image.tar",
		"--out-json", "/out/image.json", "--epoch", strconv.FormatInt(s.Epoch, 10)}
	if s.Platform.OS != "" {
		args = append(args, "--platform", s.Platform.String())
	}
	if len(s.BaseLayers) > 0 {
		args = append(args, "--base-layers", joinDigests(s.BaseLayers))
	}
	for _, k := range sortedKeys(s.Inherited) {
		args = append(args, "--inherited", k+"="+s.Inherited[k])
	}
	for _, k := range sortedKeys(s.Labels) {
		args = append(args, "--label", k+"="+s.Labels[k])
	}
	if s.KeepTraces {
		args = append(args, "--keep-traces")
	}
	files := map[string]*dagger.File{"/in/image.tar": tarball}
	if s.History != nil {
		told, err := json.Marshal(s.History)
		if err != nil {
			return nil, err
		}
		files["/in/history.json"] = c.File("history.json", string(told))
		args = append(args, "--history", "/in/history.json")
	}
	run := steprun.Container(c, steprun.Call{Binary: stepBin, Args: args, Files: files})
	raw, err := run.File("/out/image.json").Contents(ctx)
	if err != nil {
		return nil, steprun.Explain(ctx, "building image", s.Name, err)
	}
	built := &Built{Tar: run.File("/out/image.tar")}
	if err := json.Unmarshal([]byte(raw), &built.Image); err != nil {
		return nil, fmt.Errorf("reading what the normalize step wrote: %w", err)
	}
	return built, unleaked(ctx, c, stepBin, s, built)
}

// secretsDir is where the step that looks for secrets has them.
const secretsDir = "/run/secrets"

// unleaked refuses an image that holds what its build was trusted with. An
// image found clean is not looked at again for other values: they reach no
// layer that was not built with them.
func unleaked(ctx context.Context, c *dagger.Client, stepBin string, s Source, built *Built) error {
	if len(s.Private) == 0 {
		return nil
	}
	call := steprun.Call{
		Binary: stepBin, Args: []string{"leaks", "--in", "/in/image.tar", "--secrets", secretsDir},
		Files: map[string]*dagger.File{"/in/image.tar": built.Tar}, Secrets: map[string]*dagger.Secret{},
	}
	if len(s.BaseLayers) > 0 {
		call.Args = append(call.Args, "--base-layers", joinDigests(s.BaseLayers))
	}
	for _, id := range s.Private {
		call.Secrets[secretsDir+"/"+id] = c.SetSecret(id, s.Secrets[id])
	}
	_, err := steprun.Container(c, call).Sync(ctx)
	return steprun.Explain(ctx, "looking for secrets in image", s.Name, err)
}

// Export writes the archive to a file of this host.
func (b *Built) Export(ctx context.Context, path string) error {
	if _, err := b.Tar.Export(ctx, path); err != nil {
		return steprun.Explain(ctx, "exporting image archive", path, err)
	}
	return nil
}

// container is the image as the engine builds it from the Dockerfile.
func container(c *dagger.Client, s Source) *dagger.Container {
	dir := c.Directory()
	if s.ContextDir != "" {
		// The frontend applies .dockerignore only to a context it fetches itself,
		// so it is applied here, and the file is left out with what it names.
		exclude := append(append([]string{}, s.Ignore...), ".dockerignore", dockerfileName+"*")
		dir = c.Host().Directory(s.ContextDir, dagger.HostDirectoryOpts{Exclude: exclude})
	}
	dir = dir.WithNewFile(dockerfileName, string(s.Dockerfile)).
		// COPY . must not carry our file into the image.
		WithNewFile(dockerfileName+".dockerignore", dockerfileName+"\n"+dockerfileName+".dockerignore\n")
	opts := dagger.DirectoryDockerBuildOpts{
		Dockerfile: dockerfileName, Target: s.Target,
		BuildArgs: []dagger.BuildArg{{Name: BuildArgEpoch, Value: strconv.FormatInt(s.Epoch, 10)}},
	}
	if s.Platform.OS != "" {
		opts.Platform = dagger.Platform(s.Platform.String())
	}
	if s.Name != "" {
		opts.BuildArgs = append(opts.BuildArgs, dagger.BuildArg{Name: BuildArgName, Value: s.Name})
	}
	if s.CacheMounts != "" {
		opts.BuildArgs = append(opts.BuildArgs, dagger.BuildArg{Name: buildArgCacheMounts, Value: s.CacheMounts})
	}
	if s.Frontend != "" {
		opts.BuildArgs = append(opts.BuildArgs, dagger.BuildArg{Name: buildArgFrontend, Value: s.Frontend})
	}
	for _, k := range sortedKeys(s.Args) {
		if k == buildArgFrontend {
			continue // the catalog's list says which there are
		}
		opts.BuildArgs = append(opts.BuildArgs, dagger.BuildArg{Name: k, Value: s.Args[k]})
	}
	for _, id := range sortedKeys(s.Secrets) {
		opts.Secrets = append(opts.Secrets, c.SetSecret(id, s.Secrets[id]))
	}
	if s.SSH != "" {
		opts.SSH = c.Host().UnixSocket(s.SSH)
	}
	if s.User == "" {
		return dir.DockerBuild(opts)
	}
	return dir.DockerBuild(opts).WithUser(s.User)
}

func joinDigests(ds []artifact.Digest) string {
	out := make([]string, len(ds))
	for i, d := range ds {
		out[i] = string(d)
	}
	return strings.Join(out, ",")
}
