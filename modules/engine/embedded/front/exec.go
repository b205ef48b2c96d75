//go:build linux

package front

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/util/system"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerExecFields are the fields that run commands and read what they said.
func containerExecFields() map[string]field {
	output := func(name string) field {
		return on("", func(ctx context.Context, k *call, c *container) (any, error) { return k.output(ctx, c, name) })
	}
	return map[string]field{
		"withExec": on("args:l! useEntrypoint:b stdin:s redirectStdin:s redirectStdout:s redirectStderr:s expect:s "+
			"expand:b noInit:b insecureRootCapabilities:b experimentalPrivilegedNesting:b", withExec),
		"stdout":         output(metaStdout),
		"stderr":         output(metaStderr),
		"combinedOutput": output(metaCombined),
		"exitCode": on("", func(ctx context.Context, k *call, c *container) (any, error) {
			text, err := k.output(ctx, c, metaExitCode)
			if err != nil {
				return nil, err
			}
			return strconv.Atoi(strings.TrimSpace(text))
		}),
	}
}

// output is what the last command wrote.
func (s *Server) output(ctx context.Context, c *container, name string) (string, error) {
	if c.last == nil {
		return "", usage("no command has been set", "call withExec first")
	}
	var buf strings.Builder
	f := &file{state: *c.last, path: "/" + name, platform: c.platform}
	err := s.copyOut(ctx, f, &limited{w: &buf, left: maxContents, name: name})
	return buf.String(), err
}

// withExec is one command: a new root file system, new contents of the
// writable mounts, and what it wrote.
func withExec(_ context.Context, k *call, c *container) (any, error) {
	if k.flag("insecureRootCapabilities") || k.flag("experimentalPrivilegedNesting") {
		return nil, notHere("a command with more privileges than its container (insecureRootCapabilities, experimentalPrivilegedNesting of Container.withExec)")
	}
	args, err := c.command(k)
	if err != nil {
		return nil, err
	}
	opts, err := c.runOptions(k, args)
	if err != nil {
		return nil, err
	}
	run := c.fs.Run(opts...)
	d := c.clone()
	d.fs = llb.NewState(run.Root().Output())
	for i, m := range d.mounts {
		if m.persists() {
			d.mounts[i].source.state = run.GetMount(m.target)
		}
	}
	meta := run.GetMount(metaDir)
	d.last = &meta
	for _, r := range []struct{ arg, name string }{{"redirectStdout", metaStdout}, {"redirectStderr", metaStderr}} {
		to, err := c.expand(k, k.str(r.arg))
		if err != nil {
			return nil, err
		}
		if d, err = d.redirect(to, r.name); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// persists says whether what a command writes there is kept for the next one.
func (m mountPoint) persists() bool {
	return !m.readonly && m.cache == "" && !m.tmpfs && m.secret == nil && m.socket == nil
}

// redirectedMode is that of files a command's output was redirected to.
var redirectedMode = 0o600

// redirect copies what the command wrote into a file of the container.
func (c *container) redirect(p, name string) (*container, error) {
	if p == "" {
		return c, nil
	}
	p = c.abs(p)
	return c.change(p, func(st llb.State, at string) (llb.State, error) {
		return copyFileTo(st, at, &file{state: *c.last, path: "/" + name}, put{mode: &redirectedMode}), nil
	})
}

// command is what to run, as Dagger decides it.
func (c *container) command(k *call) ([]string, error) {
	args := k.strs("args")
	if len(args) == 0 {
		args = c.image.Config.Cmd
	}
	if k.flag("useEntrypoint") {
		args = append(append([]string(nil), c.image.Config.Entrypoint...), args...)
	}
	if len(args) == 0 {
		return nil, usage("no command has been set", "give withExec arguments, or the container default arguments")
	}
	out := make([]string, len(args))
	for i, a := range args {
		var err error
		if out[i], err = c.expand(k, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// defaultPath is PATH where a container has none.
func defaultPath(p ocispecs.Platform) string { return system.DefaultPathEnv(p.OS) }

func (c *container) runOptions(k *call, args []string) ([]llb.RunOption, error) {
	cwd := c.image.Config.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	opts := []llb.RunOption{
		llb.Args(args), llb.Dir(cwd), llb.Platform(c.platform),
		llb.WithCustomName("exec " + shorten(strings.Join(args, " "), 200)),
		llb.AddMount(metaDir, llb.Scratch()),
	}
	if c.image.Config.User != "" {
		opts = append(opts, llb.User(c.image.Config.User))
	}
	if _, ok := lookupEnv(c.image.Config.Env, "PATH"); !ok {
		opts = append(opts, llb.AddEnv("PATH", defaultPath(c.platform)))
	}
	if len(c.bindings) > 0 {
		opts = append(opts, llb.AddEnv(bindingsEnv, c.bound()))
	}
	for _, pair := range c.image.Config.Env {
		name, value, _ := strings.Cut(pair, "=")
		opts = append(opts, llb.AddEnv(name, value))
	}
	codes, err := validExitCodes(k.str("expect"))
	if err != nil {
		return nil, err
	}
	if codes != nil {
		opts = append(opts, llb.ValidExitCodes(codes...))
	}
	for _, s := range c.secretEnv {
		opts = append(opts, llb.AddSecretWithDest(s.secret.id, nil, llb.SecretAsEnvName(s.name)))
	}
	for i, s := range c.built {
		at := fmt.Sprintf("%s%d", builtDir, i)
		opts = append(opts, llb.AddSecretWithDest(s.id, &at, llb.SecretFileOpt(0, 0, 0o400), llb.SecretOptional))
	}
	for _, m := range c.mounts {
		opts = append(opts, m.option())
	}
	return c.withStdin(k, opts)
}

// withStdin adds the mount from which the executor feeds the command.
func (c *container) withStdin(k *call, opts []llb.RunOption) ([]llb.RunOption, error) {
	text := k.str("stdin")
	from, err := c.expand(k, k.str("redirectStdin"))
	switch {
	case err != nil:
		return nil, err
	case text != "" && from != "":
		return nil, usage("cannot set both stdin and redirectStdin", "")
	case text != "":
		st := llb.Scratch().File(llb.Mkfile("/stdin", os.FileMode(0o400), []byte(text)), llb.WithCustomName("write stdin"))
		return append(opts, llb.AddMount(stdinPath, st, llb.SourcePath("/stdin"), llb.Readonly)), nil
	case from != "":
		mount, err := c.stdinFrom(c.abs(from))
		return append(opts, mount), err
	}
	return opts, nil
}

// stdinFrom is the mount of a file that a command reads, wherever the command
// would find it: secrets and cache volumes are not the engine's to read before.
func (c *container) stdinFrom(p string) (llb.RunOption, error) {
	m := c.deepest(p)
	switch {
	case m != nil && m.secret != nil:
		to := stdinPath
		return llb.AddSecretWithDest(m.secret.id, &to, llb.SecretFileOpt(0, 0, 0o400)), nil
	case m != nil && m.cache != "":
		of := *m
		of.target, of.source.path = stdinPath, path.Join("/", m.source.path, strings.TrimPrefix(p, m.target))
		return of.option(), nil
	}
	dir, at, err := c.locate(p)
	if err != nil {
		return nil, err
	}
	return llb.AddMount(stdinPath, dir.state, llb.SourcePath(at), llb.Readonly), nil
}

// option is the mount as BuildKit wants it.
func (m mountPoint) option() llb.RunOption {
	var opts []llb.MountOption
	if m.source.path != "" && m.source.path != "/" {
		opts = append(opts, llb.SourcePath(m.source.path))
	}
	switch {
	case m.tmpfs:
		return llb.AddMount(m.target, llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(m.size)))
	case m.secret != nil:
		uid, gid := 0, 0
		if m.owner != nil {
			uid, gid = m.owner.uid, m.owner.gid
		}
		return llb.AddSecretWithDest(m.secret.id, &m.target, llb.SecretFileOpt(uid, gid, m.mode))
	case m.socket != nil:
		uid, gid := m.owner.ids()
		return llb.AddSSHSocket(llb.SSHID(m.socket.id()), llb.SSHSocketTarget(m.target), llb.SSHSocketOpt(m.target, int(uid), int(gid), 0o600))
	case m.cache != "":
		opts = append(opts, llb.AsPersistentCacheDir(m.cache, m.sharing))
	case m.readonly:
		opts = append(opts, llb.Readonly)
	}
	return llb.AddMount(m.target, m.source.state, opts...)
}

// validExitCodes are the codes an expectation allows; nil: only 0. Codes of
// signals (128 to 191) are never allowed, as in Dagger.
func validExitCodes(expect string) ([]int, error) {
	from := 0
	switch expect {
	case "", "SUCCESS":
		return nil, nil
	case "FAILURE":
		from = 1
	case "ANY":
	default:
		return nil, usage(fmt.Sprintf("%q is not a return type", expect), "use SUCCESS, FAILURE or ANY")
	}
	var codes []int
	for code := from; code < 256; code++ {
		if code < 128 || code > 191 {
			codes = append(codes, code)
		}
	}
	return codes, nil
}
