//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drydock/pipeline/report"
)

// hostile is a catalog of Dockerfiles that try what no build may do, and what
// they aim at outside.
type hostile struct {
	tier    string
	dir     string   // of the catalog
	outside string   // a directory with a secret that no step may see or change
	halves  []string // of the mark: a credential in the pipeline's environment and keys
	victim  *exec.Cmd
	address string // of a listener on all addresses of this machine
	sockets []string
}

const hostileSecret = "outside, and to stay there\n"

func newHostile(t *testing.T, tier string) *hostile {
	t.Helper()
	h := &hostile{tier: tier, dir: t.TempDir(), halves: []string{fmt.Sprintf("cred%d", os.Getpid()), fmt.Sprintf("ential%d", time.Now().UnixNano())}}
	h.outside = filepath.Join(h.dir, "outside")
	if err := writeIn(h.outside, "secret", hostileSecret); err != nil {
		t.Fatal(err)
	}
	h.victim = exec.Command("sleep", "600")
	if err := h.victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.victim.Process.Kill()
		_ = h.victim.Wait() // killed
	})
	h.listen(t)
	h.program(t)
	for _, f := range []func() error{h.inner, h.escapes, h.bounded, func() error { return copyCatalog(filepath.Join(h.dir, "catalog"), false) }} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if err := commitAll(h.dir); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hostile) mark() string { return strings.Join(h.halves, "") }

// listen opens what a step could find on this machine.
func (h *hostile) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	h.address = "127.0.0.1:" + port
	h.sockets = []string{fmt.Sprintf("@drydock-hostile-%d", os.Getpid()), filepath.Join(h.outside, "s")}
	listeners := []net.Listener{l}
	for _, name := range h.sockets {
		u, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		listeners = append(listeners, u)
	}
	for _, l := range listeners {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "reached\n")
				c.Close()
			}
		}()
	}
}

// program builds what the Dockerfiles run.
func (h *hostile) program(t *testing.T) {
	t.Helper()
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(h.dir, "hostile"), "./testdata/hostile")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// image writes one whose context has the hostile program.
func (h *hostile) image(name, dockerfile string) error {
	dir := filepath.Join("catalog", "images", name)
	if err := writeIn(h.dir, dir+".yaml", "version: 1\nname: "+name+"\nplatforms: [linux/amd64]\n"); err != nil {
		return err
	}
	if err := writeIn(h.dir, filepath.Join(dir, "Dockerfile"), dockerfile); err != nil {
		return err
	}
	if err := writeIn(h.dir, ".gitignore", "data\nkeys\nout*\n.cache\nhostile\noutside\nhome\nstate\ncache\n"); err != nil {
		return err
	}
	return copyFile(filepath.Join(h.dir, "hostile"), filepath.Join(h.dir, dir, "hostile"), 0o755)
}

// attacked runs attacks, all of them whatever becomes of one.
func attacked(attacks ...string) string {
	return "FROM full\nCOPY --chmod=755 hostile /hostile\nRUN failed=0; export STEP_PARENT=$PPID; for attack in '" + strings.Join(attacks, "' '") +
		"'; do /hostile $attack || failed=1; done; exit $failed\n"
}

// inner are attacks of RUN that must all come to nothing: the image is built.
func (h *hostile) inner() error {
	_, port, _ := net.SplitHostPort(h.address)
	egress := "egress tcp/" + h.address + " tcp/192.0.2.1:80 tcp/[::1]:" + port + " udp/192.0.2.1:53 udp/127.0.0.1:53 tcp/169.254.169.254:80"
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
				egress += " tcp/" + net.JoinHostPort(ip.IP.String(), port)
			}
		}
	}
	attacks := []string{
		"secrets " + strings.Join(h.halves, " "), "outside " + h.outside + " " + filepath.Join(h.dir, "keys"), "ptrace", "signals " + h.tier,
		"sockets " + strings.Join(h.sockets, " "), "mounts", "devices", "calls", "holes", "files 2000", egress,
	}
	for name, dockerfile := range map[string]string{
		"inner": attacked(attacks...),
		// the same as somebody
		"inneruser": strings.Replace(attacked(attacks...), "RUN ", "USER 65532\nRUN ", 1),
		"writes":    attacked("write /etc/passwd /bin/sh /usr/bin/env /proc/1/exe /proc/1/mem /proc/self/exe /hostile"),
		"innocent":  "FROM full\nRUN ! grep -q pwned /etc/passwd /bin/sh /usr/bin/env && echo fine > /fine\n",
	} {
		if err := h.image(name, dockerfile); err != nil {
			return err
		}
	}
	return nil
}

// escapes are COPY and ADD that aim outside. Whether they fail or not, nothing
// outside may change and nothing of it may come in.
func (h *hostile) escapes() error {
	up := strings.Repeat("../", 30)
	archives := map[string][]tar.Header{
		"dots":     {{Name: up + h.outside[1:] + "/pwned", Mode: 0o644, Typeflag: tar.TypeReg}},
		"absolute": {{Name: h.outside + "/pwned", Mode: 0o644, Typeflag: tar.TypeReg}},
		"linked": {
			{Name: "out", Linkname: h.outside, Typeflag: tar.TypeSymlink},
			{Name: "out/pwned", Mode: 0o644, Typeflag: tar.TypeReg},
		},
		"hard": {
			{Name: "in", Linkname: up + h.outside[1:] + "/secret", Typeflag: tar.TypeLink},
			{Name: "in2", Linkname: h.outside + "/secret", Typeflag: tar.TypeLink},
		},
	}
	for name, headers := range archives {
		if err := h.image(name, "FROM full\nADD evil.tar /a/\n"); err != nil {
			return err
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, header := range headers {
			if err := w.WriteHeader(&header); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(h.dir, "catalog", "images", name, "evil.tar"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if err := h.bombs(); err != nil {
		return err
	}
	evil := "FROM full AS evil\nRUN ln -s " + h.outside + " /out && ln -s " + h.outside + "/secret /stolen && mkdir /d && ln -s " + up + h.outside[1:] + " /d/up\n"
	for name, dockerfile := range map[string]string{
		"links":  evil + "FROM evil\nCOPY hostile /out/pwned\nCOPY hostile /d/up/pwned2\nWORKDIR /out/pwned3\n",
		"stolen": evil + "FROM full\nCOPY --from=evil /stolen /s\n",
		"parent": "FROM full\nCOPY ../../../outside/secret /s\n",
	} {
		if err := h.image(name, dockerfile); err != nil {
			return err
		}
	}
	return nil
}

// bombs are archives that become far more than they are.
func (h *hostile) bombs() error {
	for name, fill := range map[string]func(*tar.Writer) error{
		"bomb": func(w *tar.Writer) error {
			const size = 1 << 30
			if err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Typeflag: tar.TypeReg, Size: size}); err != nil {
				return err
			}
			_, err := io.CopyN(w, zeros{}, size)
			return err
		},
		"names": func(w *tar.Writer) error {
			for n := range 100_000 {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", n), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		if err := h.image(name, "FROM full\nADD bomb.tar.gz /b/\n"); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(h.dir, "catalog", "images", name, "bomb.tar.gz"))
		if err != nil {
			return err
		}
		z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
		w := tar.NewWriter(z)
		if err := errors.Join(fill(w), w.Close(), z.Close(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// exhaustion are attacks that must end by a limit, which the error names.
func exhaustion() map[string]struct{ attack, says string } {
	return map[string]struct{ attack, says string }{
		"exfiltrate": {"exfiltrate exfil.example.com", "exfil.example.com"},
		"fork":       {"fork", "limit processes: it had more than 300 processes and threads"},
		"memory":     {"memory 2147483648", "limit memory: it used more than 400 MiB of memory"},
		"shared":     {"shared 1073741824", "limit memory: it used more than 400 MiB of memory"},
		"disk":       {"disk 3221225472", "limit disk: it wrote more than 300 MiB"},
		"unlinked":   {"unlinked 3221225472", "limit disk: it wrote more than 300 MiB"},
		"bomb":       {"", "limit disk: unpacked it is larger than 300 MiB"},
		"names":      {"", "limit disk: unpacked it is larger than 300 MiB"},
		"output":     {"output 1073741824", "limit output: it printed more than 8 MiB"},
	}
}

// bounds are the images that try what Landlock bounds.
func bounds() []string { return []string{"inner", "inneruser", "writes", "innocent"} }

// hostileLimits are low, so that the machine of the tests is not harmed.
const hostileLimits = "memory=400MiB,processes=300,disk=300MiB,files=1024,output=8MiB"

func (h *hostile) bounded() error {
	for name, a := range exhaustion() {
		if a.attack == "" {
			continue // no RUN
		}
		if err := h.image(name, attacked(a.attack)); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at what a run over the catalog left, inside and outside.
func (h *hostile) judge(t *testing.T, s report.Summary, out string) {
	t.Helper()
	for _, i := range s.Images {
		said := ""
		if i.Error != nil {
			said = i.Error.Message
		}
		bound, bounded := exhaustion()[i.Image]
		switch {
		case bounded && said == "":
			t.Errorf("%s was built", i.Image)
		case bounded && !strings.Contains(said, bound.says):
			t.Errorf("%s failed without saying %q: %s", i.Image, bound.says, said)
		case (i.Image == "inner" || i.Image == "inneruser" || i.Image == "innocent" || i.Image == "writes") && said != "":
			t.Errorf("%s failed: %s", i.Image, said)
		}
	}
	entries, err := os.ReadDir(h.outside)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("outside was written: %v", entries)
	}
	if b, err := os.ReadFile(filepath.Join(h.outside, "secret")); err != nil || string(b) != hostileSecret {
		t.Errorf("outside was changed: %s, %v", b, err)
	}
	if err := h.victim.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside was killed: %v", err)
	}
	h.search(t, out)
}

// search looks into every layer that was made for what was outside.
func (h *hostile) search(t *testing.T, out string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(out, "*", "oci", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("no blobs in %s: %v", out, err)
	}
	for _, blob := range blobs {
		b, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if b, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, mark := range []string{h.mark(), hostileSecret} {
			if bytes.Contains(b, []byte(mark)) {
				t.Errorf("%s holds what was outside", blob)
			}
		}
	}
}

// TestHostile builds the hostile catalog in each tier and, with what Landlock
// has to do with, on older versions of it.
func TestHostile(t *testing.T) {
	d := openDock(t)
	for _, c := range []struct {
		name, tier, abi string
		images          []string
	}{
		{name: "T1", tier: "T1"},
		{name: "T2", tier: "T2"},
		{"T2/landlock0", "T2", "0", bounds()},
		{"T2/landlock1", "T2", "1", bounds()},
		{"T2/landlock2", "T2", "2", bounds()},
		{"T2/landlock4", "T2", "4", bounds()},
		{"T2/landlock6", "T2", "6", bounds()},
	} {
		tier := c.tier
		t.Run(c.name, func(t *testing.T) {
			h := newHostile(t, tier)
			environ := []string{
				`DOCKER_AUTH_CONFIG={"auths":{"registry.invalid":{"auth":"` + h.mark() + `"}}}`, "COSIGN_PASSWORD=" + h.mark(), "DRYDOCK_TIER=" + tier, "DRYDOCK_STEP_LIMITS=" + hostileLimits, "DRYDOCK_LANDLOCK_ABI=" + c.abi,
			}
			if err := writeIn(h.dir, "keys/secret", h.mark()); err != nil {
				t.Fatal(err)
			}
			args := []string{"build", "--json"}
			for _, name := range c.images {
				args = append(args, "--image", name)
			}
			j := d.startWith(t, h.dir, environ, args...)
			code := j.exit(t)
			var s report.Summary
			if err := json.Unmarshal(j.stdout.Bytes(), &s); err != nil {
				t.Fatalf("exit code %d: %v\n%s%s", code, err, j.stdout, j.stderr)
			}
			t.Logf("exit code %d", code)
			h.judge(t, s, filepath.Join(h.dir, "out"))
			if t.Failed() {
				t.Logf("%s", j.stderr)
			}
		})
	}
}
