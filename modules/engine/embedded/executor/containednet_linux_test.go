package executor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeGateway answers on a socket as the mirror gateway does, and notes what
// it was asked.
type fakeGateway struct {
	socket string
	mu     sync.Mutex
	hellos []hello
	refuse string // a URL to refuse
}

func newFakeGateway(t *testing.T) *fakeGateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "drydock-gw-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &fakeGateway{socket: filepath.Join(dir, "s")}
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(c)
		}
	}()
	return g
}

func (g *fakeGateway) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return
	}
	var h hello
	_ = json.Unmarshal(line, &h)
	g.mu.Lock()
	g.hellos = append(g.hellos, h)
	refuse := g.refuse
	g.mu.Unlock()
	switch {
	case h.Kind == "step":
		if refuse != "" {
			fmt.Fprintf(c, `{"refused":{"url":%q,"rule":"r","reason":"not mirrored"}}`+"\n", refuse)
		}
		_, _ = io.Copy(io.Discard, in)
	case h.Proto == "http":
		r, err := http.ReadRequest(in)
		if err == nil {
			fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\nmirrored %s", r.URL)
		}
	default:
		fmt.Fprint(c, "not tls")
	}
}

func (g *fakeGateway) asked(proto string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, h := range g.hellos {
		if h.Proto == proto {
			n++
		}
	}
	return n
}

func TestContainedNetwork(t *testing.T) {
	contained(t)
	for _, abi := range pretended(0, -1) {
		t.Run(strconv.Itoa(abi), func(t *testing.T) { testNetwork(t, abi) })
	}
}

func testNetwork(t *testing.T, abi int) {
	g := newFakeGateway(t)
	b := newBench(t, Options{GatewaySocket: g.socket, LandlockABI: abi})
	for _, user := range []string{"", "1000:1000"} {
		out := b.must(stepOpt{user: user, vertex: Vertex{Digest: "sha256:x"}}, "net")
		if !strings.Contains(out, "all well") {
			t.Errorf("as %q: %s", user, out)
		}
	}
	if g.asked("http") != 5 || g.asked("tls") != 2 {
		t.Errorf("the gateway was asked %+v", g.hellos)
	}
	// without the gateway there is no way, and the step is told so
	out, err := b.run(t.Context(), stepOpt{vertex: Vertex{Digest: "sha256:x"}, env: []string{NetworkEnv + "=" + NetworkNone}}, script("talk tcp mirror.drydock.internal:80 x")...)
	if err == nil {
		t.Errorf("a step without network reached the gateway: %s", out)
	}
	g.mu.Lock()
	g.refuse = "https://elsewhere.example/x"
	g.mu.Unlock()
	start := time.Now()
	out, err = b.run(t.Context(), stepOpt{vertex: Vertex{Digest: "sha256:x"}}, script("ignore", "sleep 30000")...)
	if err == nil || !strings.Contains(err.Error(), "refused https://elsewhere.example/x") || time.Since(start) > 20*time.Second {
		t.Errorf("a refused step: %v\n%s", err, out)
	}
}

// Ports that somebody has on all addresses are listened for on others, which the
// step does not notice.
func TestContainedTakenPorts(t *testing.T) {
	contained(t)
	taken, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, port := range gatewayPorts() {
		// another test's step may have it, and an ordinary user may not
		if l, err := net.Listen("tcp4", ":"+strconv.Itoa(port)); err == nil {
			defer l.Close()
		}
	}
	service, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() {
		for {
			c, err := service.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "served")
			c.Close()
		}
	}()
	port := taken.Addr().(*net.TCPAddr).Port
	ctx := WithNetwork(t.Context(), Network{Hosts: []Host{{Names: []string{"web"}, Ports: []Port{{Number: port}}, Dial: func(ctx context.Context, _ Port) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp4", service.Addr().String())
	}}}})
	g := newFakeGateway(t)
	b := newBench(t, Options{GatewaySocket: g.socket})
	out, err := b.run(ctx, stepOpt{vertex: Vertex{Digest: "sha256:x"}}, script(
		fmt.Sprintf("talk tcp web:%d served", port), "fetch http://mirror.drydock.internal/x mirrored+http://mirror.drydock.internal/x")...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// probeGet fetches through the gateway.
func probeGet(url string) error {
	r, err := http.Get(url) //nolint:noctx // a probe
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && !strings.HasPrefix(string(b), "mirrored") {
		err = fmt.Errorf("got %q", b)
	}
	return err
}

// probeNet uses the network as a step may.
func probeNet() int {
	for what, try := range map[string]func() error{
		"gateway by name":      func() error { return probeGet("http://mirror.drydock.internal/x") },
		"any name":             func() error { return probeGet("http://deb.example.org/x") },
		"tls":                  func() error { return probeTalk("tcp", "mirror.drydock.internal:443", "not tls") },
		"own server":           func() error { return probeServe("tcp", "127.0.0.1:0", "") },
		"own server, all":      func() error { return probeServe("tcp4", "0.0.0.0:8377", "127.0.0.1:8377") },
		"own server, any":      func() error { return probeServe("tcp", ":8378", "localhost:8378") },
		"own server, unix":     func() error { return probeServe("unix", "/tmp/sock", "/tmp/sock") },
		"own server, abstract": func() error { return probeServe("unix", "@mine", "@mine") },
		"a free port":          probeFreePort,
		"one ended":            probeEnded,
		"resolver":             probeResolver,
		"after setuid":         func() error { return probeHidden(probeGet) },
		"socket options":       probeOptions,
	} {
		if os.Getuid() != 0 && what == "after setuid" {
			continue
		}
		_ = os.Remove("/tmp/sock")
		err := try()
		if _, serr := os.Lstat("/tmp/sock"); serr == nil {
			err = errors.Join(err, errors.New("its file is left"))
		}
		if err != nil {
			fmt.Println(what, "-", err)
			return 1
		}
	}
	fmt.Println("all well")
	return 0
}

// probeFreePort finds a free port as tests do, and uses it afterwards.
func probeFreePort() error {
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		at := l.Addr().String()
		l.Close()
		if err := probeServe("tcp", at, at); err != nil {
			return err
		}
	}
	return nil
}

// probeEnded: a server that has ended is not there any more, and closing a
// connection ends it for the other side.
func probeEnded() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.ReadAll(c)
		}
		ended <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	c.Close()
	select {
	case err := <-ended:
		if err != nil {
			return err
		}
	case <-time.After(5 * time.Second):
		return fmt.Errorf("the other side does not see the end")
	}
	l.Close()
	time.Sleep(50 * time.Millisecond)
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		return fmt.Errorf("a closed listener answers")
	}
	return nil
}

// probeResolver asks as a resolver does before it chooses an address.
func probeResolver() error {
	addrs, err := net.DefaultResolver.LookupHost(context.Background(), "some.example.net")
	if err != nil || len(addrs) != 1 || !strings.HasPrefix(addrs[0], "127.") {
		return fmt.Errorf("%v, %w", addrs, err)
	}
	c, err := net.Dial("udp", net.JoinHostPort(addrs[0], "53"))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err == nil {
		return fmt.Errorf("a datagram was sent")
	}
	return nil
}

// probeHidden drops its ids as download helpers do: without executing anything
// afterwards, which hides its memory.
func probeHidden(get func(string) error) error {
	if os.Getenv("HIDDEN") == "" {
		cmd := exec.Command("/bin/probe", "net")
		cmd.Args[0] = "probe"
		cmd.Env = append(os.Environ(), "HIDDEN=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := syscall.Setgid(1234); err != nil {
		return err
	}
	if err := syscall.Setuid(1234); err != nil {
		return err
	}
	if err := get("http://mirror.drydock.internal/hidden"); err != nil {
		return err
	}
	if err := probeServe("tcp", "127.0.0.1:0", ""); err != nil {
		return err
	}
	fmt.Println("all well")
	os.Exit(0)
	return nil
}

// probeOptions: options and modes are those of the one socket there is.
func probeOptions() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil && err != unix.EINPROGRESS {
		return err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		return fmt.Errorf("flags %#x, %w", flags, err)
	}
	cloexec, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || cloexec&unix.FD_CLOEXEC == 0 {
		return fmt.Errorf("descriptor flags %#x, %w", cloexec, err)
	}
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || v != 1 {
		return fmt.Errorf("keepalive %d, %w", v, err)
	}
	return nil
}
