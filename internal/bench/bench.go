// Package bench measures what the project promises about itself: how long the
// first compile takes, how big the programs are, how fast a run is when nothing
// changed.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	maxBytes   = 100_000_000 // of a stripped program
	maxSeconds = 3.0         // of a run in which nothing changed; the aim is 1
	noopRuns   = 5
)

// Options are what every measurement needs. Log may be nil.
type Options struct {
	Dir     string   // of the repository
	Out     string   // file of the figures
	Environ []string // of the commands
	Log     func(format string, args ...any)

	warm bool // tests keep the user's build cache
}

// Machine says where figures were taken.
type Machine struct {
	Go   string    `json:"go"`
	OS   string    `json:"os"`
	CPUs int       `json:"cpus"`
	Time time.Time `json:"time"`
}

// BuildFigures is what Build writes.
type BuildFigures struct {
	Version  int              `json:"version"`
	Machine  Machine          `json:"machine"`
	Programs []ProgramFigures `json:"programs"`
}

// ProgramFigures is the first compile of one program, by an empty build cache,
// beside that of an empty main that imports the same packages of other modules.
type ProgramFigures struct {
	Package       string  `json:"package"`
	Seconds       float64 `json:"seconds"`
	EmptySeconds  float64 `json:"emptySeconds"`
	Ours          float64 `json:"ours"` // Seconds - EmptySeconds: what our own code costs
	Imports       int     `json:"imports"`
	StrippedBytes int64   `json:"strippedBytes"`
}

// Build measures both programs. It empties no cache of the user: each compile
// has a new one.
func Build(ctx context.Context, o Options) error {
	tmp, err := os.MkdirTemp("", "drydock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	figures := BuildFigures{Version: 1, Machine: machine()}
	var tooBig []string
	for _, pkg := range []string{"./pipeline", "./pipeline/step"} {
		p, err := o.program(ctx, tmp, pkg)
		if err != nil {
			return err
		}
		figures.Programs = append(figures.Programs, p)
		o.log("%s: first compile %.1f s, an empty main with its %d imports %.1f s, stripped %.1f MB",
			pkg, p.Seconds, p.Imports, p.EmptySeconds, float64(p.StrippedBytes)/1e6)
		if p.StrippedBytes >= maxBytes {
			tooBig = append(tooBig, pkg)
		}
	}
	if err := write(filepath.Join(o.Dir, o.Out), figures); err != nil {
		return err
	}
	if len(tooBig) > 0 {
		return fmt.Errorf("%s: stripped program is not under %d MB", strings.Join(tooBig, ", "), maxBytes/1_000_000)
	}
	return nil
}

func (o Options) program(ctx context.Context, tmp, pkg string) (ProgramFigures, error) {
	name := strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-")
	p := ProgramFigures{Package: pkg}
	imports, err := o.foreignImports(ctx, pkg)
	if err != nil {
		return p, err
	}
	p.Imports = len(imports)
	overlay, err := emptyMain(tmp, o.Dir, name, imports)
	if err != nil {
		return p, err
	}
	empty := []string{"-overlay", overlay, "./internal/empty" + name}
	if p.EmptySeconds, _, err = o.coldBuild(ctx, tmp, "empty-"+name, empty...); err != nil {
		return p, err
	}
	if p.Seconds, p.StrippedBytes, err = o.coldBuild(ctx, tmp, name, pkg); err != nil {
		return p, err
	}
	p.Ours = p.Seconds - p.EmptySeconds
	return p, nil
}

// coldBuild compiles with an empty build cache and says how long it took and
// how big the program is.
func (o Options) coldBuild(ctx context.Context, tmp, name string, args ...string) (float64, int64, error) {
	cache, err := os.MkdirTemp(tmp, "cache-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(cache)
	out := filepath.Join(tmp, name)
	start := time.Now()
	all := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, args...)
	environ := []string{"GOCACHE=" + cache}
	if o.warm {
		environ = nil
	}
	if _, err := o.command(ctx, environ, "go", all...); err != nil {
		return 0, 0, err
	}
	took := time.Since(start).Seconds()
	info, err := os.Stat(out)
	if err != nil {
		return 0, 0, err
	}
	return took, info.Size(), nil
}

// foreignImports lists the packages of other modules our packages behind pkg
// import.
func (o Options) foreignImports(ctx context.Context, pkg string) ([]string, error) {
	const format = `{{if .Module}}{{if .Module.Main}}{{range .Imports}}{{println .}}{{end}}{{end}}{{end}}`
	out, err := o.command(ctx, nil, "go", "list", "-deps", "-f", format, pkg)
	if err != nil {
		return nil, err
	}
	var imports []string
	for _, p := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(p, "/")
		if strings.Contains(first, ".") {
			imports = append(imports, p)
		}
	}
	slices.Sort(imports)
	return slices.Compact(imports), nil
}

// emptyMain writes a main that imports packages and does nothing, and the
// overlay that puts it into the module without touching it.
func emptyMain(tmp, dir, name string, imports []string) (string, error) {
	var b bytes.Buffer
	b.WriteString("package main\n\nimport (\n")
	for _, p := range imports {
		fmt.Fprintf(&b, "\t_ %q\n", p)
	}
	b.WriteString(")\n\nfunc main() {}\n")
	file := filepath.Join(tmp, name+".go")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(dir, "internal", "empty"+name, "main.go"): file},
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(tmp, name+".overlay.json")
	return path, os.WriteFile(path, overlay, 0o644)
}

// NoopFigures is what Noop writes.
type NoopFigures struct {
	Version int       `json:"version"`
	Machine Machine   `json:"machine"`
	First   float64   `json:"first"` // seconds of the run before, which may have had work
	Runs    []float64 `json:"runs"`  // seconds of runs in which nothing changed
	Median  float64   `json:"median"`
	Images  int       `json:"images"`
	Cached  int       `json:"cached"` // images the last run found in its caches
}

// Noop measures runs of the shipped catalog in which nothing changed: one run
// to make that true, then some more.
func Noop(ctx context.Context, o Options, state string) error {
	tmp, err := os.MkdirTemp("", "drydock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "drydock")
	if _, err := o.command(ctx, nil, "go", "build", "-o", bin, "./pipeline"); err != nil {
		return err
	}
	args := []string{"run", "--state", state, "--out", filepath.Join(tmp, "out"), "--json", "--progress", "plain"}
	figures := NoopFigures{Version: 1, Machine: machine()}
	o.log("a first run, which may have to build everything")
	var last []byte
	for i := range noopRuns + 1 {
		start := time.Now()
		if last, err = o.command(ctx, nil, bin, args...); err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		o.log("run %d: %.2f s", i, took)
		if i == 0 {
			figures.First = took
		} else {
			figures.Runs = append(figures.Runs, took)
		}
	}
	figures.Median = Median(figures.Runs)
	if err := figures.count(last); err != nil {
		return err
	}
	if err := write(filepath.Join(o.Dir, o.Out), figures); err != nil {
		return err
	}
	o.log("median %.2f s, %d of %d images cached", figures.Median, figures.Cached, figures.Images)
	return figures.judge()
}

// count reads how many images there are and came from caches out of the
// summary.
func (f *NoopFigures) count(summary []byte) error {
	var s struct {
		Images []struct {
			Cached bool `json:"cached"`
		} `json:"images"`
	}
	if err := json.Unmarshal(summary, &s); err != nil {
		return fmt.Errorf("reading the summary of the last run: %w", err)
	}
	f.Images = len(s.Images)
	for _, im := range s.Images {
		if im.Cached {
			f.Cached++
		}
	}
	return nil
}

func (f *NoopFigures) judge() error {
	switch {
	case f.Images == 0:
		return fmt.Errorf("the catalog has no images: nothing was measured")
	case f.Cached < f.Images:
		return fmt.Errorf("%d of %d images were not cached: something changed", f.Images-f.Cached, f.Images)
	case f.Median > maxSeconds:
		return fmt.Errorf("median %.2f s is above %.0f s", f.Median, maxSeconds)
	}
	return nil
}

// Median is the middle of some figures, 0 of none.
func Median(runs []float64) float64 {
	if len(runs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(runs))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// command runs a command in the repository and returns its stdout.
func (o Options) command(ctx context.Context, environ []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = o.Dir
	cmd.Env = append(append([]string{}, o.Environ...), environ...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		tail := errs.Bytes()
		tail = tail[max(0, len(tail)-4000):]
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, tail)
	}
	return out, nil
}

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(format, args...)
	}
}

func machine() Machine {
	return Machine{Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Time: time.Now().UTC().Truncate(time.Second)}
}

func write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
