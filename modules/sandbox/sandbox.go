// Package sandbox tests images as black boxes: what their files and
// configuration say, and what they do when they run, confined by our own init.
package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/sandbox/suite"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

const (
	specPath  = "/.drydock/tests.json"
	imagePath = "/.drydock/image.tar"
)

// Spec is what is asked of an image and how it is run while it is asked.
type Spec struct {
	suite.Suite
	NonRoot      bool     // the image must not run as root; a test of its own
	ReadOnlyRoot bool     // nothing but /tmp and Writable can be written
	Writable     []string // directories that are writable all the same, empty ones
	StaticOnly   string   // why the engine cannot execute this platform; "" when it can
	// UnsafePrivileged starts the init with every capability, so that it can
	// leave the network and remount what it takes privileges to. An engine whose
	// steps are not hermetic (a Dagger Engine) needs it; nothing of the image
	// runs before the init has given all of it up.
	UnsafePrivileged bool
}

// Test runs spec against the OCI archive tar of one platform.
func Test(ctx context.Context, c *dagger.Client, stepBin string, tar *dagger.File, spec Spec, p artifact.Platform) (*artifact.TestReport, error) {
	request, err := json.Marshal(suite.Request{
		Version: wire.Version, Suite: spec.Suite, Platform: p, StaticOnly: spec.StaticOnly,
		NonRoot: spec.NonRoot, ReadOnlyRoot: spec.ReadOnlyRoot, Writable: spec.Writable,
	})
	if err != nil {
		return nil, fmt.Errorf("writing the tests for the step: %w", err)
	}
	specFile := c.Directory().WithNewFile("tests.json", string(request)).File("tests.json")
	args := []string{"test", "--spec", specPath, "--in", imagePath, "--out", "-"}
	var run *dagger.Container
	if spec.StaticOnly != "" {
		run = steprun.Container(c, steprun.Call{
			Binary: stepBin, Args: args, Files: map[string]*dagger.File{specPath: specFile, imagePath: tar},
		})
	} else {
		run = initialized(c, stepBin, tar, specFile, spec, p).
			WithExec(append([]string{steprun.Program}, args...), dagger.ContainerWithExecOpts{InsecureRootCapabilities: spec.UnsafePrivileged})
	}
	out, err := run.Stdout(ctx)
	if err != nil {
		return nil, steprun.Explain(ctx, "testing image", p.String(), err)
	}
	report := new(artifact.TestReport)
	if err := json.Unmarshal([]byte(lastLine(out)), report); err != nil {
		return nil, fmt.Errorf("reading what the test step wrote: %w", err)
	}
	return report, nil
}

// initialized is the image's own container with the step program as its init.
// It begins as root to take privileges away, its own first; the tests run as
// the user the image names.
func initialized(c *dagger.Client, stepBin string, tar, specFile *dagger.File, spec Spec, p artifact.Platform) *dagger.Container {
	ctr := container(c, p).Import(tar).
		WithMountedFile(steprun.Program, c.Host().File(stepBin)).
		WithMountedFile(specPath, specFile).
		WithMountedFile(imagePath, tar).
		WithEnvVariable(steprun.NetworkVariable, "none").
		WithUser("0").WithWorkdir("/")
	if !spec.ReadOnlyRoot {
		return ctr
	}
	for _, dir := range append([]string{"/tmp", "/var/tmp"}, spec.Writable...) {
		ctr = ctr.WithMountedTemp(dir)
	}
	return ctr
}

func container(c *dagger.Client, p artifact.Platform) *dagger.Container {
	if p.OS == "" {
		return c.Container()
	}
	return c.Container(dagger.ContainerOpts{Platform: dagger.Platform(p.String())})
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
