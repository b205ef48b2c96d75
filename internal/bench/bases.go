package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// baseRuns is how often each base is made by either.
const baseRuns = 5

// BasesFigures is what Bases writes. Seconds are medians; the ratio is ours to
// mmdebstrap's.
type BasesFigures struct {
	Version    int          `json:"version"`
	Machine    Machine      `json:"machine"`
	Mmdebstrap string       `json:"mmdebstrap"` // its version
	Bases      []BaseFigure `json:"bases"`
}

// BaseFigure is one base. Ours is the base alone, as a run of the program with
// an empty state reports it: downloads, verified unpacking, configuration, a
// compressed layer. Mmdebstrap's is its whole run to an uncompressed tar.
type BaseFigure struct {
	Name       string    `json:"name"`
	Packages   int       `json:"packages"`
	Goal       float64   `json:"goal"` // at most
	Ratio      float64   `json:"ratio"`
	Ours       []float64 `json:"ours"`
	Mmdebstrap []float64 `json:"mmdebstrap"`
}

// Bases makes the shipped bases minimal and full side by side with mmdebstrap
// (of apt-get install mmdebstrap), with the same packages in the same versions
// from the same warm mirror. It needs root, as mmdebstrap is fastest with it.
func Bases(ctx context.Context, o Options) error {
	version, err := exec.CommandContext(ctx, "mmdebstrap", "--version").Output()
	if err != nil {
		return fmt.Errorf("asking mmdebstrap for its version: %w (apt-get install mmdebstrap)", err)
	}
	tmp, err := os.MkdirTemp("", "drydock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	proxy := httptest.NewServer(&keeper{dir: tmp, locks: map[string]*sync.Mutex{}})
	defer proxy.Close()
	o.Environ = append(o.Environ, "http_proxy="+proxy.URL, "HTTP_PROXY="+proxy.URL, "https_proxy=", "HTTPS_PROXY=", "no_proxy=", "NO_PROXY=")
	program := filepath.Join(tmp, "drydock")
	for _, c := range [][]string{{"build", "-ldflags=-s -w", "-o", program, "./pipeline"}, {"build", "-ldflags=-s -w", "-o", program + "-step", "./pipeline/step"}} {
		if err := o.do(ctx, "go", c...); err != nil {
			return err
		}
	}
	f := BasesFigures{Version: 1, Machine: machine(), Mmdebstrap: strings.TrimSpace(string(version))}
	for _, b := range []BaseFigure{{Name: "minimal", Goal: 0.2}, {Name: "full", Goal: 1}} {
		if err := o.base(ctx, tmp, &b); err != nil {
			return err
		}
		o.log("%s, %d packages: %.2f of mmdebstrap's time", b.Name, b.Packages, b.Ratio)
		f.Bases = append(f.Bases, b)
	}
	return write(filepath.Join(o.Dir, o.Out), f)
}

// base measures one, both in turn; the first of each warms the mirror and does
// not count.
func (o Options) base(ctx context.Context, tmp string, b *BaseFigure) error {
	cat := filepath.Join(tmp, "catalog-"+b.Name)
	lock, err := o.benchCatalog(cat, b.Name)
	if err != nil {
		return err
	}
	b.Packages = len(lock)
	for n := range baseRuns + 1 {
		ours, err := o.ourBase(ctx, tmp, cat, b.Name)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := o.do(ctx, "mmdebstrap", mmdebstrapArgs(b.Name, lock, filepath.Join(tmp, "theirs.tar"))...); err != nil {
			return err
		}
		theirs := time.Since(began).Seconds()
		o.log("%s: %.2f s, mmdebstrap %.2f s", b.Name, ours, theirs)
		if n > 0 {
			b.Ours, b.Mmdebstrap = append(b.Ours, ours), append(b.Mmdebstrap, theirs)
		}
	}
	b.Ratio = Median(b.Ours) / Median(b.Mmdebstrap)
	return nil
}

// benchCatalog is a catalog of the base and an image that is nothing more. It
// gives the base's packages, each as name=version.
func (o Options) benchCatalog(dir, base string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(o.Dir, "catalog/bases/locks", base+".json"))
	if err != nil {
		return nil, err
	}
	var lock struct {
		Platforms []struct {
			Platform string
			Packages []struct{ Name, Version string }
		}
	}
	if err := json.Unmarshal(raw, &lock); err != nil {
		return nil, fmt.Errorf("reading the lock of %s: %w", base, err)
	}
	var packages []string
	for _, p := range lock.Platforms {
		if p.Platform == "linux/amd64" {
			for _, pkg := range p.Packages {
				packages = append(packages, pkg.Name+"="+pkg.Version)
			}
		}
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("the lock of %s names no packages for linux/amd64", base)
	}
	yaml, err := os.ReadFile(filepath.Join(o.Dir, "catalog/bases", base+".yaml"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"mirrors.yaml":                   "version: 1\ndebian: auto\n",
		"stages.yaml":                    "version: 1\nstages: [{name: quarantine, registry: embedded}]\n",
		"policies/none.yaml":             "version: 1\nname: none\n",
		"bases/" + base + ".yaml":        string(yaml),
		"bases/locks/" + base + ".json":  string(raw),
		"images/bench.yaml":              "version: 1\nname: bench\nplatforms: [linux/amd64]\n",
		"images/bench/Dockerfile":        "FROM " + base + "\nUSER 65532:65532\n",
		"images/bench/Dockerfile.ignore": "",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // a catalog
			return nil, err
		}
	}
	return packages, nil
}

// ourBase is how many seconds the program takes for the base, from an empty
// state.
func (o Options) ourBase(ctx context.Context, tmp, cat, base string) (float64, error) {
	state := filepath.Join(tmp, "state")
	defer os.RemoveAll(state)
	cmd := exec.CommandContext(ctx, filepath.Join(tmp, "drydock"), "build", "--catalog", cat, "--state", state, "--out", filepath.Join(tmp, "out"), "--progress", "json")
	var events bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = o.Dir, o.Environ, &events
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("building on %s: %w\n%s", base, err, events.Bytes())
	}
	for dec := json.NewDecoder(&events); ; {
		var e struct {
			Kind, Image, Step string
			Seconds           float64
		}
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("the run does not say how long %s took", base)
		} else if err != nil {
			return 0, fmt.Errorf("reading what the run says: %w", err)
		}
		if e.Kind == "done" && e.Image == base && e.Step == "base" && e.Seconds > 0 {
			return e.Seconds, nil
		}
	}
}

// mmdebstrapArgs asks for exactly these packages: unpacked only for a minimal
// base, as ours is, configured for a full one.
func mmdebstrapArgs(base string, packages []string, to string) []string {
	variant := "essential"
	if base == "minimal" {
		variant = "extract"
	}
	args := []string{"--quiet", "--mode=root", "--variant=" + variant, "--include=" + strings.Join(packages, ","), "bookworm", to}
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		files, _ := filepath.Glob(pattern) // the patterns are well formed
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Size() > 0 {
				args = append(args, f)
			}
		}
	}
	return args
}

// keeper is a forward proxy that keeps what it fetched for good: a mirror that
// is always warm, the same for everybody.
type keeper struct {
	dir string

	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

// ServeHTTP answers a GET of a whole URL.
func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !r.URL.IsAbs() || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		http.Error(w, "only plain HTTP mirrors can be kept warm", http.StatusNotImplemented)
		return
	}
	name := filepath.Join(k.dir, "kept-"+strings.NewReplacer("/", "_", ":", "_").Replace(r.URL.String()))
	k.mu.Lock()
	lock := k.locks[name]
	if lock == nil {
		lock = &sync.Mutex{}
		k.locks[name] = lock
	}
	k.mu.Unlock()
	lock.Lock()
	_, err := os.Stat(name)
	if err != nil {
		err = fetch(r.Context(), r.URL.String(), name)
	}
	lock.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	http.ServeFile(w, r, name)
}

// fetch gets a URL into a file, wholly or not at all.
func fetch(ctx context.Context, url, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	f, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}

func (o Options) do(ctx context.Context, name string, args ...string) error {
	_, err := o.command(ctx, nil, name, args...)
	return err
}
