package containertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drydock/modules/jail"
)

// Runtime starts containers over one root file system. Nothing one writes to
// its root is seen by another.
type Runtime interface {
	Name() string
	// Run starts a container, waits for its end and removes it. The error is
	// that of starting it; how its process ended is in the result.
	Run(ctx context.Context, c Container) (Result, error)
	// Close ends what the runtime needs.
	Close() error
}

// spawner starts what must end with this process. Its thread stays: what ends
// with the thread that started it would end with any that a probe gives up.
var spawner = sync.OnceValue(jail.NewSpawner)

// Inside private namespaces whatever a runtime mounts and starts ends with the
// first process, however it ends.
func private(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
	}, args...)...)
}

// result runs cmd to its end.
func result(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := spawner().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	r.Code = cmd.ProcessState.ExitCode()
	return r, nil
}

var _, _ Runtime = (*runc)(nil), (*docker)(nil)

// runc is the Runtime without a daemon.
type runc struct {
	root, dir string
	count     atomic.Int64
}

// Runc uses runc over root, keeping its state in dir. It needs to be root.
func Runc(root, dir string) (Runtime, error) {
	for _, program := range []string{"runc", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, err
		}
	}
	return &runc{root: root, dir: dir}, os.MkdirAll(dir, 0o711)
}

func (r *runc) Name() string { return "runc" }
func (r *runc) Close() error { return nil }

// start is run in private namespaces: bundle, id and lower directory follow.
const start = `set -e
cd "$1"
mkdir upper work merged
mount -t overlay overlay -o "lowerdir=$3,upperdir=upper,workdir=work" merged
exec runc --root "$1/state" run "$2"`

func (r *runc) Run(ctx context.Context, c Container) (Result, error) {
	id := fmt.Sprintf("drydock-test-%d-%d", os.Getpid(), r.count.Add(1))
	s, err := spec(c, id)
	if err != nil {
		return Result{}, err
	}
	bundle := filepath.Join(r.dir, id)
	if err := os.Mkdir(bundle, 0o711); err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(bundle)
	defer removeCgroups(id)
	b, err := json.Marshal(s)
	if err != nil {
		return Result{}, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		return Result{}, err
	}
	return result(private(ctx, "sh", "-c", start, "sh", bundle, id, r.root))
}

// removeCgroups removes what a killed runc left.
func removeCgroups(id string) {
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + id)
	for _, dir := range append(left, "/sys/fs/cgroup/"+id) {
		_ = os.Remove(dir)
	}
}

// docker is the Runtime of a daemon of our own.
type docker struct {
	command []string
	mu      sync.Mutex // is held while the daemon is started again
	daemon  *exec.Cmd
	ended   chan struct{} // is closed when the daemon has ended
	socket  string
	log     string   // its file
	env     []string // of the client
	starts  atomic.Int64
	count   atomic.Int64
}

const dockerImage = "drydock-test:latest"

// Docker starts docker's daemon with its state in dir and root as its only
// image; environ is where the client finds its PATH. It needs to be root.
func Docker(ctx context.Context, root, dir string, environ []string) (Runtime, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, err
	}
	daemon, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o711); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &docker{socket: filepath.Join(dir, "run", "docker.sock"), log: log.Name()}
	// the version lets a newer client talk to Debian's daemon
	d.env = append(slices.Clip(environ), "DOCKER_HOST=unix://"+d.socket, "DOCKER_API_VERSION=1.41", "DOCKER_CONFIG="+dir)
	d.command = []string{
		daemon, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "run"),
		"--pidfile", filepath.Join(dir, "run", "pid"), "--host", "unix://" + d.socket, "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--ip-forward=false", "--ip-masq=false",
	}
	if err := d.start(ctx, log); err != nil {
		return nil, err
	}
	load := exec.CommandContext(ctx, "sh", "-c", `tar -C "$1" --xattrs --xattrs-include="*" -c . | docker import - "$2"`, "sh", root, dockerImage)
	load.Env = d.env
	if out, err := load.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("importing the root file system: %w: %s", err, out), d.Close())
	}
	return d, nil
}

// start starts the daemon and waits until it answers.
func (d *docker) start(ctx context.Context, log *os.File) error {
	// what one that was killed left would be taken for one that runs
	run := filepath.Dir(d.socket)
	if err := errors.Join(os.RemoveAll(run), os.Mkdir(run, 0o711)); err != nil {
		return err
	}
	d.daemon = private(context.WithoutCancel(ctx), d.command...)
	d.daemon.Stdout, d.daemon.Stderr = log, log
	if err := spawner().Start(d.daemon); err != nil {
		return err
	}
	d.starts.Add(1)
	d.ended = make(chan struct{})
	go func(daemon *exec.Cmd, ended chan struct{}) {
		_ = daemon.Wait() // its state says it
		close(ended)
	}(d.daemon, d.ended)
	if err := d.ready(ctx); err != nil {
		return errors.Join(fmt.Errorf("docker's daemon does not start: %w: %s", err, d.state()), d.Close())
	}
	return nil
}

// again starts a daemon that ended anew, as a machine's service manager would,
// and says on standard error what the ended one said last.
func (d *docker) again(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.ended:
	default:
		return nil
	}
	fmt.Fprintln(os.Stderr, d.state(), "It is started again.")
	log, err := os.OpenFile(d.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	return d.start(ctx, log)
}

func tail(s string) string { return s[max(0, len(s)-600):] }

func (d *docker) ready(ctx context.Context) error {
	end := time.Now().Add(30 * time.Second)
	for {
		cmd := exec.CommandContext(ctx, "docker", "info", "--format", "{{.ServerVersion}}")
		cmd.Env = d.env
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("it ended: %s", d.daemon.ProcessState)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("no answer: %w: %s", err, out)
		}
	}
}

func (d *docker) Name() string { return "docker" }

func (d *docker) Run(ctx context.Context, c Container) (Result, error) {
	starts := d.starts.Load()
	r, err := d.run(ctx, c)
	if r.Code != 125 {
		return r, err
	}
	if aerr := d.again(ctx); aerr != nil || d.starts.Load() == starts {
		return r, errors.Join(err, aerr)
	}
	return d.run(ctx, c)
}

func (d *docker) run(ctx context.Context, c Container) (Result, error) {
	name := fmt.Sprintf("drydock-test-%d", d.count.Add(1))
	args := []string{"run", "--rm", "--name", name, "--network", "none"}
	if c.HostNetwork {
		args[len(args)-1] = "host"
	}
	for _, o := range []struct {
		on   bool
		flag string
	}{{c.SeccompUnconfined, "seccomp=unconfined"}, {c.SystemPathsUnconfined, "systempaths=unconfined"}, {c.NoNewPrivileges, "no-new-privileges"}} {
		if o.on {
			args = append(args, "--security-opt", o.flag)
		}
	}
	for _, name := range c.AddCapabilities {
		args = append(args, "--cap-add", strings.TrimPrefix(name, "CAP_"))
	}
	for _, kv := range c.Env {
		args = append(args, "--env", kv)
	}
	for _, b := range c.Binds {
		bind := b.Source + ":" + b.Dest
		if b.ReadOnly {
			bind += ":ro"
		}
		args = append(args, "--volume", bind)
	}
	if c.Dir != "" {
		args = append(args, "--workdir", c.Dir)
	}
	if c.User != "" {
		args = append(args, "--user", c.User)
	}
	cmd := exec.CommandContext(ctx, "docker", append(append(args, dockerImage), c.Args...)...)
	cmd.Env = d.env
	r, err := result(cmd)
	if ctx.Err() != nil {
		remove := exec.Command("docker", "rm", "--force", name)
		remove.Env = d.env
		_ = remove.Run()
	}
	if err == nil && r.Code == 125 { // docker-run(1): the daemon's own error
		d.mu.Lock()
		defer d.mu.Unlock()
		err = fmt.Errorf("docker run: %s\n%s", r.Stderr, d.state())
	}
	return r, err
}

// state is what there is to say of the daemon.
func (d *docker) state() string {
	said, _ := os.ReadFile(d.log)
	select {
	case <-d.ended:
		return fmt.Sprintf("docker's daemon ended: %s; it said last: %s", d.daemon.ProcessState, tail(string(said)))
	default:
		return "docker's daemon runs; it said last: " + tail(string(said))
	}
}

// Close asks the daemon to end, and kills it if it does not.
func (d *docker) Close() error {
	// unshare passes no signal on; its child is the daemon
	kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", d.daemon.Process.Pid, d.daemon.Process.Pid))
	var pid int
	if n, _ := fmt.Sscan(string(kids), &pid); n == 1 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	select {
	case <-d.ended:
	case <-time.After(15 * time.Second):
		_ = d.daemon.Process.Kill()
		<-d.ended
	}
	return nil
}
