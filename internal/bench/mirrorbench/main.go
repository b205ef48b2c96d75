//go:build linux

// Command mirrorbench measures the gateway's content store beside nginx's
// proxy_cache: the same files from the same upstream, both warm, over unix
// sockets, by the same client. `mage bench:mirror` runs it; figures are medians,
// and what is quoted from them are ratios.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"drydock/internal/bench"
)

// goal is the least throughput, as a part of nginx's.
const goal = 0.9

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// command is the measuring itself, or serve, the gateway in a process of its
// own.
func command(ctx context.Context, args []string) error {
	if len(args) == 4 && args[0] == "serve" {
		return serveGateway(ctx, args[1], args[2], args[3])
	}
	flags := flag.NewFlagSet("mirrorbench", flag.ContinueOnError)
	out := flags.String("out", "out/bench/mirror.json", "file of the figures")
	nginx := flags.String("nginx", "nginx", "the nginx to compare with")
	runs := flags.Int("runs", 9, "how often each thing is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	program, err := exec.LookPath(*nginx)
	if err != nil {
		return fmt.Errorf("finding nginx: %w (apt-get install nginx, or -nginx PATH)", err)
	}
	f, err := measure(ctx, program, *runs)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(*out, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // to be read
		return err
	}
	return f.judge()
}

// figures is out/bench/mirror.json.
type figures struct {
	Version int       `json:"version"`
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Time    time.Time `json:"time"`
	Nginx   string    `json:"nginx"`
	Sets    []setRun  `json:"sets"`
	// Memory of the gateway's process, in bytes: after the warm-up and at its
	// highest.
	MemoryBefore int64 `json:"memoryBefore"`
	MemoryPeak   int64 `json:"memoryPeak"`
}

// setRun is one set of files.
type setRun struct {
	Name    string    `json:"name"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`   // of all of them
	Gateway []float64 `json:"gateway"` // bytes a second, each run
	Nginx   []float64 `json:"nginx"`
	Ratio   float64   `json:"ratio"` // of the medians: gateway to nginx
}

// memoryGrowth is what the gateway may take more while it serves.
const memoryGrowth = 64 << 20

func (f *figures) judge() error {
	var errs []error
	for _, s := range f.Sets {
		if s.Ratio < goal {
			errs = append(errs, fmt.Errorf("%s: %.2f of nginx's throughput, the goal is %.1f", s.Name, s.Ratio, goal))
		}
	}
	if f.MemoryPeak-f.MemoryBefore > memoryGrowth {
		errs = append(errs, fmt.Errorf("memory grew from %d to %d MB", f.MemoryBefore>>20, f.MemoryPeak>>20))
	}
	return errors.Join(errs...)
}

// file is one of those served.
type file struct {
	sum  string // hex
	size int64
}

// path is where both serve it.
func (f file) path() string { return "/v2/bench/blobs/sha256:" + f.sum }

// files makes a set of a size each.
func files(dir string, n int, size int) ([]file, error) {
	source := rand.NewChaCha8([32]byte{byte(n), byte(size >> 10)})
	var out []file
	for range n {
		b := make([]byte, size)
		_, _ = source.Read(b) // never fails
		sum := sha256.Sum256(b)
		f := file{hex.EncodeToString(sum[:]), int64(size)}
		if err := os.WriteFile(filepath.Join(dir, f.sum), b, 0o600); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// measure runs both servers side by side, one asked after the other.
func measure(ctx context.Context, nginx string, runs int) (*figures, error) {
	tmp, err := os.MkdirTemp("", "drydock-mirrorbench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	origin := filepath.Join(tmp, "origin")
	if err := os.Mkdir(origin, 0o755); err != nil { //nolint:gosec // nginx may be another user
		return nil, err
	}
	sets := map[string][]file{}
	for _, s := range []struct {
		name    string
		n, size int
	}{{"small", 400, 20 << 10}, {"packages", 100, 500 << 10}, {"large", 4, 64 << 20}} {
		if sets[s.name], err = files(origin, s.n, s.size); err != nil {
			return nil, err
		}
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(r.URL.Path)
		w.Header().Set("ETag", `"`+name+`"`)
		http.ServeFile(w, r, filepath.Join(origin, name[len("sha256:"):]))
	}))
	defer upstream.Close()
	ours, stopOurs, err := startGateway(ctx, tmp, upstream.URL)
	if err != nil {
		return nil, err
	}
	defer stopOurs()
	theirs, stopTheirs, err := startNginx(ctx, nginx, tmp, upstream.URL)
	if err != nil {
		return nil, err
	}
	defer stopTheirs()
	f := &figures{Version: 1, Go: runtime.Version(), CPUs: runtime.NumCPU(), Time: time.Now().UTC().Truncate(time.Second), Nginx: version(nginx)}
	if err := warm(ctx, sets, ours, theirs); err != nil {
		return nil, err
	}
	if f.MemoryBefore, err = ours.memory("VmRSS"); err != nil {
		return nil, err
	}
	for _, name := range []string{"small", "packages", "large"} {
		s := setRun{Name: name, Files: len(sets[name]), Bytes: int64(len(sets[name])) * sets[name][0].size}
		for range runs {
			a, err := ours.fetch(ctx, sets[name], false)
			if err != nil {
				return nil, err
			}
			b, err := theirs.fetch(ctx, sets[name], false)
			if err != nil {
				return nil, err
			}
			s.Gateway, s.Nginx = append(s.Gateway, a), append(s.Nginx, b)
		}
		s.Ratio = bench.Median(s.Gateway) / bench.Median(s.Nginx)
		fmt.Fprintf(os.Stderr, "%s: gateway %.0f MB/s, nginx %.0f MB/s, ratio %.2f\n", name, bench.Median(s.Gateway)/1e6, bench.Median(s.Nginx)/1e6, s.Ratio)
		f.Sets = append(f.Sets, s)
	}
	f.MemoryPeak, err = ours.memory("VmHWM")
	fmt.Fprintf(os.Stderr, "memory of the gateway: %d MB, at most %d MB\n", f.MemoryBefore>>20, f.MemoryPeak>>20)
	return f, err
}

// warm brings every file into the caches, and out of them once.
func warm(ctx context.Context, sets map[string][]file, clients ...*client) error {
	for _, set := range sets {
		for _, c := range clients {
			for range 2 {
				if _, err := c.fetch(ctx, set, true); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
