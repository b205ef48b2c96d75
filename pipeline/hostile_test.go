//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// hostile is a catalog of Dockerfiles that try what no build may do, and what
// they aim at outside.
type hostile struct {
	tier    string
	dir     string       // of the catalog, here
	at      string       // the same where the program runs
	keys    string       // the program's, in dir
	halves  []string     // of the mark: a credential in the pipeline's environment and keys
	alive   func() error // of a process that no step may signal
	address string       // of a listener on all addresses of this machine
	sockets []string     // as the program sees them
	also    []string     // what the fork bomb's image may say in place of its limit
}

const hostileSecret = "outside, and to stay there\n"

// outside is a directory with a secret that no step may see or change, as the
// program sees it.
func (h *hostile) outside() string { return filepath.Join(h.at, "outside") }

// newHostile makes the catalog in dir, which the program knows as at.
func newHostile(t *testing.T, d *dock, tier, dir, at, keys string) *hostile {
	t.Helper()
	h := &hostile{
		tier: tier, dir: dir, at: at, keys: keys,
		halves: []string{fmt.Sprintf("cred%d", os.Getpid()), fmt.Sprintf("ential%d", time.Now().UnixNano())},
	}
	kit, err := openKit(d)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"outside/secret": hostileSecret,
		keys + "/secret": h.mark(),
		".gitignore":     "data\nkeys\nout*\n.cache\nhostile\noutside\nhome\nstate\ncache\n",
	} {
		if err := writeIn(h.dir, path, text); err != nil {
			t.Fatal(err)
		}
	}
	h.listen(t)
	for _, f := range []func() error{
		func() error { return copyFile(filepath.Join(kit, "hostile"), filepath.Join(h.dir, "hostile"), 0o755) },
		h.inner, h.escapes, func() error { return h.bounded(kit) },
		func() error { return copyCatalog(filepath.Join(h.dir, "catalog"), false) },
		func() error { return commitAll(h.dir) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// victim starts a process of whoever runs the test, which no step may signal.
func (h *hostile) victim(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	h.alive = func() error { return cmd.Process.Signal(syscall.Signal(0)) }
}

// environ is what the program is run with.
func (h *hostile) environ(abi string) []string {
	return []string{
		`DOCKER_AUTH_CONFIG={"auths":{"registry.invalid":{"auth":"` + h.mark() + `"}}}`, "COSIGN_PASSWORD=" + h.mark(),
		"DRYDOCK_TIER=" + h.tier, "DRYDOCK_STEP_LIMITS=" + hostileLimits, "DRYDOCK_LANDLOCK_ABI=" + abi,
	}
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
	abstract := fmt.Sprintf("@drydock-hostile-%d", os.Getpid())
	h.sockets = []string{abstract, filepath.Join(h.outside(), "s")}
	listeners := []net.Listener{l}
	for _, name := range []string{abstract, filepath.Join(h.dir, "outside", "s")} {
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

// theKit is what every hostile catalog has, made once.
var theKit struct {
	once sync.Once
	err  error
}

// openKit gives a folder with the program that Dockerfiles run and the archives
// that become far more than they are.
func openKit(d *dock) (string, error) {
	dir := filepath.Join(d.root, "hostile")
	theKit.once.Do(func() {
		if theKit.err = errors.Join(os.MkdirAll(dir, 0o755), bombs(dir)); theKit.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "hostile"), "./testdata/hostile")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			theKit.err = fmt.Errorf("building the hostile program: %w: %s", err, out)
		}
	})
	return dir, theKit.err
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
		"secrets " + strings.Join(h.halves, " "), "outside " + h.outside() + " " + filepath.Join(h.at, h.keys), "ptrace", "signals " + h.tier,
		"sockets " + strings.Join(h.sockets, " "), "mounts", "devices", "calls", "holes", "files 2000", egress,
	}
	for name, dockerfile := range map[string]string{
		"inner": attacked(attacks...),
		// the same as somebody
		"inneruser": strings.Replace(attacked(attacks...), "RUN ", "USER 65532\nRUN ", 1),
		"writes":    attacked("write /etc/passwd /bin/sh /usr/bin/env /proc/1/exe /proc/1/mem /proc/self/exe /hostile"),
		// what a step may do reported as an escape: the reports are heard
		"caught":   attacked("outside /hostile"),
		"users":    heldApart,
		"innocent": "FROM full\nRUN ! grep -q pwned /etc/passwd /bin/sh /usr/bin/env && echo fine > /fine\n",
	} {
		if err := h.image(name, dockerfile); err != nil {
			return err
		}
	}
	return nil
}

// heldApart tries as a user what owner and mode of root's files refuse.
const heldApart = `FROM full
RUN echo top >/etc/top && chmod 600 /etc/top && mkdir -m 700 /closed && echo in >/closed/in && chmod 644 /closed/in && \
    printf '#!/bin/sh\nexit 0\n' >/closed/run && chmod 755 /closed/run && cp /closed/run /run700 && chmod 700 /run700 && \
    mkdir -m 1777 /sticky && touch /sticky/root && mkdir /own && chown 65532:65532 /own && ln -s /etc/top /own/link
USER 65532
RUN for c in 'cat /etc/top' 'cat /own/link' 'cat /closed/in' 'ls /closed' 'cd /closed' '/closed/run' '/run700' 'echo x >/etc/top' \
      'echo x >>/etc/passwd' 'mv /etc/top /own/top' 'mv /closed /own/closed' 'rm -f /sticky/root' 'mv /sticky/root /sticky/mine' 'rm -f /etc/passwd' \
      'echo x >/etc/new' 'mkdir /new' 'ln -s a /new' 'ln /own/link /new' 'chmod 666 /etc/passwd' 'chown 65532 /etc/passwd' 'touch /etc/passwd' \
      'truncate -s 0 /etc/passwd' 'cp /etc/top /own/copy' 'cat </proc/1/environ >/own/e'; \
    do if sh -c "$c" 2>/dev/null; then echo "ESCAPED as a user: $c"; exit 1; fi; done; \
    echo mine >/own/mine && mv /own/mine /sticky/mine && chmod 400 /sticky/mine && cat /sticky/mine && rm -f /own/none /sticky/mine
USER root
RUN test "$(cat /etc/top /own/link /closed/in | tr '\n' ' ')" = "top top in " && test -e /sticky/root
`

// escapes are COPY and ADD that aim outside. Whether they fail or not, nothing
// outside may change and nothing of it may come in.
func (h *hostile) escapes() error {
	up := strings.Repeat("../", 30)
	archives := map[string][]tar.Header{
		"dots":     {{Name: up + h.outside()[1:] + "/pwned", Mode: 0o644, Typeflag: tar.TypeReg}},
		"absolute": {{Name: h.outside() + "/pwned", Mode: 0o644, Typeflag: tar.TypeReg}},
		"linked": {
			{Name: "out", Linkname: h.outside(), Typeflag: tar.TypeSymlink},
			{Name: "out/pwned", Mode: 0o644, Typeflag: tar.TypeReg},
		},
		"hard": {
			{Name: "in", Linkname: up + h.outside()[1:] + "/secret", Typeflag: tar.TypeLink},
			{Name: "in2", Linkname: h.outside() + "/secret", Typeflag: tar.TypeLink},
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
	evil := "FROM full AS evil\nRUN ln -s " + h.outside() + " /out && ln -s " + h.outside() + "/secret /stolen && mkdir /d && ln -s " + up + h.outside()[1:] + " /d/up\n"
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

// bombs writes archives that become far more than they are.
func bombs(dir string) error {
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
		f, err := os.Create(filepath.Join(dir, name))
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
func bounds() []string { return []string{"inner", "inneruser", "writes", "innocent", "caught"} }

// escapees are the images that aim outside by COPY and ADD.
func escapees() []string {
	return []string{"dots", "absolute", "linked", "hard", "links", "stolen", "parent"}
}

// hostileLimits are low, so that the machine of the tests is not harmed.
const hostileLimits = "memory=400MiB,processes=300,disk=300MiB,files=1024,output=8MiB"

func (h *hostile) bounded(kit string) error {
	for name, a := range exhaustion() {
		dockerfile := attacked(a.attack)
		if a.attack == "" { // no RUN
			dockerfile = "FROM full\nADD bomb.tar.gz /b/\n"
		}
		if err := h.image(name, dockerfile); err != nil {
			return err
		}
		if a.attack == "" {
			if err := copyFile(filepath.Join(kit, name), filepath.Join(h.dir, "catalog", "images", name, "bomb.tar.gz"), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
