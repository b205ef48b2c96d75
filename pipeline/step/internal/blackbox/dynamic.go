package blackbox

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/sandbox/suite"
)

const (
	maxOutput   = 4 << 20 // of a command, each stream
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// CommandTimeout is how long a command may run when nothing else is said.
const CommandTimeout = 2 * time.Minute

// Runner runs the tests that execute something, in the container it is in.
type Runner struct {
	Image   *Image
	Request *suite.Request
	User    User
}

// Run runs every command and service test, one after the other, each in a
// session of its own that is gone when the test ends.
func (r *Runner) Run(ctx context.Context) []artifact.TestResult {
	becomeReaper()
	var out []artifact.TestResult
	timed := func(name, kind string, test func() problems) {
		start := time.Now()
		res := test().result(name, kind)
		reapAll()
		res.Seconds = float64(time.Since(start).Milliseconds()) / 1000
		out = append(out, res)
	}
	for _, t := range r.Request.Suite.Commands {
		timed(t.Name, kindCommand, func() problems { return r.command(ctx, t) })
	}
	for _, t := range r.Request.Suite.Services {
		timed(t.Name, kindService, func() problems { return r.service(ctx, t) })
	}
	return out
}

// Unrun reports every test that would execute something with one status.
func Unrun(req *suite.Request, failed bool, why string) []artifact.TestResult {
	status := statusSkipped
	if failed {
		status = statusFailed
	}
	var out []artifact.TestResult
	for _, t := range req.Suite.Commands {
		out = append(out, artifact.TestResult{Name: t.Name, Kind: kindCommand, Status: status, Message: why})
	}
	for _, t := range req.Suite.Services {
		out = append(out, artifact.TestResult{Name: t.Name, Kind: kindService, Status: status, Message: why})
	}
	return out
}

// Report counts results.
func Report(results []artifact.TestResult, c artifact.Confinement, static bool) *artifact.TestReport {
	r := &artifact.TestReport{Version: 1, StaticOnly: static, Results: results, Confinement: c}
	if r.Results == nil {
		r.Results = []artifact.TestResult{}
	}
	for _, t := range results {
		switch t.Status {
		case statusPassed:
			r.Passed++
		case statusFailed:
			r.Failed++
		default:
			r.Skipped++
		}
	}
	return r
}

// environ is the image's environment with the test's on top. A value may use
// variables set before it.
func (r *Runner) environ(extra []suite.KeyValue) []string {
	order := []string{"PATH", "HOME"}
	values := map[string]string{"PATH": defaultPath, "HOME": r.User.Home}
	set := func(k, v string) {
		if _, ok := values[k]; !ok {
			order = append(order, k)
		}
		values[k] = v
	}
	for _, kv := range r.Image.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		set(k, v)
	}
	for _, kv := range append(append([]suite.KeyValue{}, r.Request.Suite.GlobalEnvVars...), extra...) {
		set(kv.Key, os.Expand(kv.Value, func(name string) string { return values[name] }))
	}
	out := make([]string, len(order))
	for i, k := range order {
		out[i] = k + "=" + values[k]
	}
	return out
}

// find is the file a command names, by the test's own PATH.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, d := range strings.Split(list, ":") {
			p := path.Join(d, name)
			if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("there is no program %q in the image's PATH", name)
}

// workdir is where the image starts its processes.
func (r *Runner) workdir() string {
	if info, err := os.Stat(r.Image.Config.Workdir); r.Image.Config.Workdir != "" && err == nil && info.IsDir() {
		return r.Image.Config.Workdir
	}
	return "/"
}

// command runs one command test.
func (r *Runner) command(ctx context.Context, t suite.Command) problems {
	var p problems
	env := r.environ(t.EnvVars)
	for _, argv := range t.Setup {
		if o := r.exec(ctx, argv, env); o.err != nil {
			p.add("setup %q: %v", strings.Join(argv, " "), o.err)
			return p
		} else if o.code != 0 {
			p.add("setup %q ended with exit code %d\n%s%s", strings.Join(argv, " "), o.code, o.stdout, o.stderr)
			return p
		}
	}
	o := r.exec(ctx, append([]string{t.Command}, t.Args...), env)
	if o.err != nil {
		p.add("%v", o.err)
	} else {
		if o.code != t.ExitCode {
			p.add("exit code %d, want %d\nstdout: %s\nstderr: %s", o.code, t.ExitCode, excerpt(o.stdout), excerpt(o.stderr))
		}
		match(&p, "stdout", o.stdout, t.ExpectedOutput, t.ExcludedOutput)
		match(&p, "stderr", o.stderr, t.ExpectedError, t.ExcludedError)
	}
	for _, argv := range t.Teardown {
		if o := r.exec(ctx, argv, env); o.err != nil {
			p.add("teardown %q: %v", strings.Join(argv, " "), o.err)
		} else if o.code != 0 {
			p.add("teardown %q ended with exit code %d\n%s%s", strings.Join(argv, " "), o.code, o.stdout, o.stderr)
		}
	}
	return p
}

// outcome is how a command ended.
type outcome struct {
	stdout, stderr string
	code           int
	err            error // it could not be run to its end
}

func (r *Runner) exec(ctx context.Context, argv, env []string) outcome {
	limit := r.Request.CommandLimit.Or(CommandTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %s", limit))
	defer cancel()
	stdout, stderr := &tail{keep: maxOutput}, &tail{keep: maxOutput}
	pr, err := start(argv, env, r.workdir(), stdout, stderr)
	if err != nil {
		return outcome{err: err}
	}
	select {
	case <-pr.done:
	case <-ctx.Done():
		pr.kill()
		<-pr.done
		return outcome{err: fmt.Errorf("%w\nstdout: %s\nstderr: %s", context.Cause(ctx), excerpt(stdout.String()), excerpt(stderr.String()))}
	}
	return outcome{stdout: stdout.String(), stderr: stderr.String(), code: pr.code}
}
