//go:build linux

package front

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// hostSeen marks a look at the host that noCache asks for, so that what it saw
// is what its id means, in the session that made it.
func hostSeen(prepare func(*call) error) func(*call) error {
	return func(c *call) error {
		if c.flag("noCache") && !c.has("seen") {
			c.args["seen"] = rand.Text()
		}
		return prepare(c)
	}
}

// hostWorkdir makes sure that the client said what its working directory is.
func hostWorkdir(c *call) error {
	if !filepath.IsAbs(c.workdir) {
		return usage(fmt.Sprintf("%s.%s: the client did not say what its working directory is", c.typ, c.field), "")
	}
	return nil
}

// seenOnce answers a look at the host as the session saw it first with these
// arguments, as a Dagger Engine does.
func seenOnce[T any](ctx context.Context, c *call, look func() (T, error)) (T, error) {
	return remembered(ctx, c.memo, c.seenKey(), look)
}

func (c *call) seenKey() string {
	return keyOf("host", c.field, c.str("path"), c.str("name"), c.workdirOf(), c.strs("include"), c.strs("exclude"), c.flag("gitignore"), c.str("seen"))
}

// workdirOf is the working directory where the answer follows from it.
func (c *call) workdirOf() string {
	if c.field == "findUp" {
		return c.workdir
	}
	return ""
}

// hostDirectory is a directory as the session saw it first, or for noCache now.
func hostDirectory(ctx context.Context, c *call, _ *hostObject) (any, error) {
	seen, err := seenOnce(ctx, c, func() (seenTree, error) { return c.seeDirectory(ctx, c.str("path")) })
	if err != nil {
		return nil, err
	}
	c.take(ctx, seen)
	return &directory{state: seen.state, path: "/", platform: c.platform}, nil
}

func (c *call) seeDirectory(ctx context.Context, p string) (seenTree, error) {
	if err := mustBe(p, true); err != nil {
		return seenTree{}, err
	}
	var keep func(string, bool) bool
	if c.flag("gitignore") {
		ignored, err := hostIgnores(p)
		if err != nil {
			return seenTree{}, hostFault("reading .gitignore files of "+p, err)
		}
		if ignored("", true) {
			return seenTree{}, usage(fmt.Sprintf("%s: no such file or directory: a .gitignore file above it leaves it out", p), "")
		}
		keep = func(name string, dir bool) bool { return !ignored(name, dir) }
	}
	seen, err := c.host.directory(ctx, p, c.strs("include"), c.strs("exclude"), keep)
	return seen, hostFault("reading host directory "+p, err)
}

// hostFile is a file as the session saw it first, or for noCache now.
func hostFile(ctx context.Context, c *call, _ *hostObject) (any, error) {
	p := c.str("path")
	seen, err := seenOnce(ctx, c, func() (seenTree, error) {
		if err := mustBe(p, false); err != nil {
			return seenTree{}, err
		}
		seen, err := c.host.file(ctx, p)
		return seen, hostFault("reading host file "+p, err)
	})
	if err != nil {
		return nil, err
	}
	c.take(ctx, seen)
	return &file{state: seen.state, path: "/" + filepath.Base(p), platform: c.platform, artifact: artifact{path: p, stamp: seen.stamp}}, nil
}

// take reads a tree in while the query goes on, which answers when it is in: a
// later query has it as it was, whatever becomes of it on the host.
func (c *call) take(ctx context.Context, seen seenTree) {
	c.behind.Go(func() error {
		err := c.hold(ctx, seen)
		if err != nil {
			c.memo.forget(c.seenKey()) // the next query looks anew
		}
		return err
	})
}

// hold has the engine keep a tree until the session ends. BuildKit would write
// the next state of the same place into a tree that nobody holds.
func (s *Server) hold(ctx context.Context, seen seenTree) error {
	_, err := remembered(ctx, s.memo, keyOf("held", seen.digest), func() (gateway.Reference, error) {
		gw, err := remembered(ctx, s.memo, heldKey, func() (gateway.Client, error) { return s.holdingBuild(ctx) })
		if err != nil {
			return nil, err
		}
		ref, err := solveState(ctx, gw, seen.state, s.platform)
		if err != nil && ctx.Err() == nil {
			s.memo.forget(heldKey)
		}
		return ref, s.solveError(err)
	})
	return err
}

var heldKey = keyOf("holding")

// holdingBuild begins a build that ends with the session and until then holds
// what it has solved.
func (s *Server) holdingBuild(ctx context.Context) (gateway.Client, error) {
	begun, ended := make(chan gateway.Client, 1), make(chan error, 1)
	go func() {
		ended <- s.build(s.life, job{}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
			begun <- gw
			<-ctx.Done()
			return gateway.NewResult(), nil
		})
	}()
	select {
	case gw := <-begun:
		return gw, nil
	case err := <-ended:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// seenTree is what was seen of the host.
type seenTree struct {
	state  llb.State
	digest string
	stamp  string // of a file
}

// hostFindUp looks for a name in the working directory and above it.
func hostFindUp(ctx context.Context, c *call, _ *hostObject) (any, error) {
	found, err := seenOnce(ctx, c, func() (string, error) { return findUp(c.workdir, c.str("name")) })
	if err != nil || found == "" {
		return nil, err
	}
	return found, nil
}

func findUp(from, name string) (string, error) {
	if name == "" || filepath.Base(name) != name {
		return "", usage(fmt.Sprintf("Host.findUp: %q is not a file name", name), "")
	}
	for dir := from; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return filepath.Rel(from, filepath.Join(dir, name))
		}
		if dir == filepath.Dir(dir) {
			return "", nil
		}
	}
}

// mustBe checks what a host path is before anything is read.
func mustBe(p string, dir bool) error {
	st, err := os.Stat(p)
	switch {
	case os.IsNotExist(err):
		return usage(fmt.Sprintf("%s: no such file or directory", p), "")
	case err != nil:
		return hostFault("reading "+p, err)
	case dir && !st.IsDir():
		return usage(fmt.Sprintf("%s is not a directory", p), "")
	case !dir && !st.Mode().IsRegular():
		return usage(fmt.Sprintf("%s is not a regular file", p), "")
	}
	return nil
}
