package executor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

var gatewayAddress = netip.AddrFrom4([4]byte{198, 18, 0, 1})

func query(t *testing.T, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	msg, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		typ     dnsmessage.Type
		answers int
	}{{dnsmessage.TypeA, 1}, {dnsmessage.TypeAAAA, 0}, {dnsmessage.TypeSRV, 0}, {dnsmessage.TypeMX, 0}} {
		reply, name := answer(query(t, "WWW.example.invalid.", c.typ), gatewayAddress)
		if name != "www.example.invalid" {
			t.Errorf("%v: name %q", c.typ, name)
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if m.ID != 7 || !m.Response || m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != c.answers {
			t.Errorf("%v: %+v", c.typ, m)
		}
		if c.answers == 1 {
			if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); !ok || a.A != [4]byte{198, 18, 0, 1} {
				t.Errorf("%v: %+v", c.typ, m.Answers[0])
			}
		}
	}
	reply, _ := answer(query(t, "x.", dnsmessage.TypeA), gatewayAddress)
	for _, bad := range [][]byte{nil, []byte("x"), reply, make([]byte, 12)} {
		if r, _ := answer(bad, gatewayAddress); r != nil {
			t.Errorf("answered %q", bad)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	msg, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.b."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, _ := answer(b, gatewayAddress)
		var m dnsmessage.Message
		if reply != nil && m.Unpack(reply) != nil {
			t.Errorf("the reply to %q cannot be read", b)
		}
	})
}

func TestExitError(t *testing.T) {
	ctx := t.Context()
	cancelled, cancel := context.WithCancelCause(ctx)
	cause := errors.New("stopped by hand")
	cancel(cause)
	for _, c := range []struct {
		name   string
		ctx    context.Context
		report initproc.Report
		valid  []int
		note   string
		code   uint32
		text   string // "" is no error
	}{
		{"success", ctx, initproc.Report{}, nil, "", 0, ""},
		{"failure", ctx, initproc.Report{Code: 3}, nil, "", 3, "exit code: 3"},
		{"failure with a note", ctx, initproc.Report{Code: 3}, nil, "; name lookups: x", 3, "exit code: 3; name lookups: x"},
		{"allowed failure", ctx, initproc.Report{Code: 3}, []int{0, 3}, "", 0, ""},
		{"success not allowed", ctx, initproc.Report{}, []int{3}, "", 0, "exit code: 0"},
		{"signal", ctx, initproc.Report{Code: 137, Signal: int(unix.SIGKILL)}, nil, "", 137, "exit code: 137 (killed)"},
		{"cancelled", cancelled, initproc.Report{Code: 137, Signal: int(unix.SIGKILL)}, nil, "", 137, "exit code: 137: stopped by hand"},
	} {
		err := exitError(c.ctx, c.report, c.valid, c.note)
		if c.text == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var e *gatewayapi.ExitError
		if !errors.As(err, &e) || e.ExitCode != c.code || e.Error() != c.text {
			t.Errorf("%s: %#v", c.name, err)
		}
	}
}

func TestLookupUser(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n")
	write("group", "root:x:0:\napps:x:1001:\nextra:x:2000:app\n")
	for _, c := range []struct {
		spec     string
		uid, gid int
		groups   []int
		home     string
	}{
		{"", 0, 0, nil, "/root"},
		{"app", 1000, 1001, []int{2000}, "/srv"},
		{"app:extra", 1000, 2000, nil, "/srv"},
		{"1000", 1000, 1001, []int{2000}, "/srv"},
		{"5:6", 5, 6, nil, "/"},
		{"7", 7, 0, nil, "/"},
	} {
		u, err := lookupUser(root, c.spec)
		if err != nil {
			t.Errorf("%q: %v", c.spec, err)
			continue
		}
		if u.Uid != c.uid || u.Gid != c.gid || u.Home != c.home || len(u.Sgids) != len(c.groups) || (c.groups != nil && !slices.Equal(u.Sgids, c.groups)) {
			t.Errorf("%q: %+v", c.spec, u)
		}
	}
	if _, err := lookupUser(root, "nobody-here"); err == nil {
		t.Error("an unknown user was found")
	}
	if u, err := lookupUser(t.TempDir(), ""); err != nil || u.Uid != 0 || u.Home != "/" {
		t.Errorf("empty image: %+v, %v", u, err)
	}
	// a passwd that is a link out of the image reads nothing of the host
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../etc/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if _, err := lookupUser(root, "daemon"); err == nil {
		t.Error("the host's passwd was read")
	}
}

func TestEnvironmentOfAStep(t *testing.T) {
	env := strings.Join(gatewayEnv(Network{Hosts: []Host{{Names: []string{"web"}}}}), "\n")
	for _, want := range []string{
		"http_proxy=http://mirror.drydock.internal:80", "HTTPS_PROXY=http://mirror.drydock.internal:80",
		"no_proxy=localhost,127.0.0.1,::1,web\n", "GOPROXY=http://mirror.drydock.internal/go",
		"npm_config_registry=http://mirror.drydock.internal/npm/", "COREPACK_NPM_REGISTRY=http://mirror.drydock.internal/npm\n",
		"YARN_NPM_REGISTRY_SERVER=http://mirror.drydock.internal/npm\n", "YARN_UNSAFE_HTTP_WHITELIST=mirror.drydock.internal\n",
	} {
		if !strings.Contains(env, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if got := withHome([]string{"HOME=/x"}, "/y"); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if got := withHome(nil, ""); got[0] != "HOME=/" {
		t.Errorf("got %q", got)
	}
}

func TestRlimits(t *testing.T) {
	got := rlimits([]*pb.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, nil, {Name: "unknown"}})
	if len(got) != 1 || got[0] != (initproc.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 10, Max: 20}) {
		t.Errorf("got %+v", got)
	}
}
