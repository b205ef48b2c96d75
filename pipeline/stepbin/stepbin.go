// Package stepbin finds the step program: beside the main program, in the
// cache, or built once from the source the main program came from.
package stepbin

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

// Name is what the step program is called beside the main program and in the
// cache.
const Name = "drydock-step"

const (
	op      = "finding the step program"
	module  = "drydock"
	program = "pipeline/step" // its package, below the module
	keep    = 3               // how many built programs stay in the cache
	// waitDelay is how long the compiler may take to end once interrupted.
	waitDelay = 5 * time.Second
)

// Options says where to look.
type Options struct {
	Cache      string   // the cache directory; built programs go to step/ below it
	Arch       string   // the engine's GOARCH; "" is this host's
	Executable string   // the main program's path; beside it is looked first
	Dir        string   // where to look for the module's source; "" is the current directory
	Environ    []string // for the go command; PATH is read from it
	Progress   func(string)
}

// Find returns the path of the step program for the engine's architecture.
// When nothing changed it reads the source the program is made of, about a
// megabyte, and neither runs the compiler nor reads the program.
func Find(ctx context.Context, o Options) (string, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if o.Executable != "" {
		for _, name := range []string{Name + "-" + o.Arch, Name} {
			p := filepath.Join(filepath.Dir(o.Executable), name)
			if fits(p, o.Arch) {
				return p, nil
			}
		}
	}
	root, err := source(o)
	if err != nil {
		return "", err
	}
	key, err := sourceKey(root, o.Arch)
	if err != nil {
		return "", &artifact.Error{Kind: artifact.KindFault, Op: op, Place: root, Err: err, Remedy: "restore the source: git checkout"}
	}
	dir := filepath.Join(o.Cache, "step", key)
	built := filepath.Join(dir, Name)
	if fits(built, o.Arch) {
		return built, nil
	}
	if err := build(ctx, o, root, built); err != nil {
		return "", err
	}
	prune(filepath.Join(o.Cache, "step"), key)
	return built, nil
}

// fits says whether there is a Linux program for arch at path.
func fits(path, arch string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	machines := map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV,
		"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "386": elf.EM_386, "arm": elf.EM_ARM,
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false // it wants a dynamic linker, and its container is empty
		}
	}
	return f.Machine == machines[arch]
}

// source is the directory of the module the program was built from: where the
// compiler says it was, else the one that holds the current directory.
func source(o Options) (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if root := filepath.Dir(filepath.Dir(filepath.Dir(file))); isModule(root) {
			return root, nil
		}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if isModule(d) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	return "", &artifact.Error{
		Kind: artifact.KindUsage, Op: op,
		Message: fmt.Sprintf("there is no %s for linux/%s beside the program and no source of Drydock to build it from", Name, o.Arch),
		Remedy:  fmt.Sprintf("build it beside the program: CGO_ENABLED=0 GOOS=linux GOARCH=%s go build -o %s ./%s", o.Arch, Name, program),
	}
}

func isModule(dir string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(program))); err != nil || !info.IsDir() {
		return false
	}
	for _, l := range strings.Split(string(raw), "\n") {
		if f := strings.Fields(l); len(f) == 2 && f[0] == "module" {
			return f[1] == module
		}
	}
	return false
}

// build compiles the program to a file that appears whole or not at all.
func build(ctx context.Context, o Options, root, built string) error {
	gocmd, err := goCommand(o.Environ)
	if err != nil {
		return err
	}
	tmp, err := wholefile.Begin(filepath.Dir(built), wholefile.Options{Mode: 0o755, DirMode: 0o755, Pattern: ".build-*"})
	if err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "building the step program", Err: err, Remedy: "make the cache directory writable"}
	}
	defer tmp.Discard()
	_ = tmp.Close() // go build writes it
	if o.Progress != nil {
		o.Progress("building the step program, once (a few minutes the first time)")
	}
	cmd := exec.CommandContext(ctx, gocmd, "build", "-ldflags", "-s -w", "-o", tmp.Name(), "./"+program)
	cmd.Dir = root
	cmd.Env = append(append([]string{}, o.Environ...), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.Arch, "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "building the step program", Place: root,
			Message: last(strings.TrimSpace(string(out)), 1000), Err: err,
			Remedy: "see that the Go module mirror answers: go mod download"}
	}
	if err := tmp.Commit(built); err != nil {
		return fmt.Errorf("building the step program: %w", err)
	}
	return nil
}

// goCommand finds go in the PATH given, else where this program's own Go is.
func goCommand(environ []string) (string, error) {
	var path, goroot string
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
		if v, ok := strings.CutPrefix(kv, "GOROOT="); ok && v != "" {
			goroot = filepath.Join(v, "bin")
		}
	}
	name := "go"
	if runtime.GOOS == "windows" {
		name = "go.exe"
	}
	for _, dir := range append(filepath.SplitList(path), goroot) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); dir != "" && err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", &artifact.Error{
		Kind: artifact.KindUsage, Op: "building the step program", Message: "there is no go command in PATH",
		Remedy: fmt.Sprintf("install Go, or put a %s built elsewhere beside the program", Name),
	}
}

func last(s string, n int) string {
	if len(s) > n {
		s = s[len(s)-n:]
	}
	return s
}

// prune removes built programs but the newest few. Failing to is no error.
func prune(dir, current string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	type old struct {
		name string
		at   time.Time
	}
	var all []old
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && e.Name() != current {
			all = append(all, old{e.Name(), info.ModTime()})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].at.After(all[j].at) })
	for i, o := range all {
		if i >= keep-1 {
			_ = os.RemoveAll(filepath.Join(dir, o.name))
		}
	}
}
