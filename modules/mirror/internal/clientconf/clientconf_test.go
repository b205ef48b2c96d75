package clientconf

import (
	"context"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	f := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

const sampleSources = `# comment
Types: deb deb-src
URIs: http://a.test/debian https://b.test/debian/
Suites: bookworm bookworm-updates
# inside
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://src.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: mirror+file:/etc/mirrors.list
Suites: bookworm
Components: main

Types: deb
URIs: http://flat.test/repo
Suites: ./

Types: deb
URIs: http://own.test/debian
Suites: sid
Components: main
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
`

func uris(sources []AptSource) (out []string) {
	for _, s := range sources {
		out = append(out, s.URI)
	}
	return out
}

func TestAptSources(t *testing.T) {
	etc := t.TempDir()
	write(t, etc, "sources.list", `
# deb http://commented.test/debian bookworm main
deb http://one.test/debian bookworm main contrib # trailing
deb [arch=amd64,arm64 signed-by=/k.gpg check-valid-until=no] http://two.test/debian-security	bookworm-security main
deb-src http://one.test/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb [broken http://x.test/debian bookworm main
deb http://short.test/debian
`)
	write(t, etc, "sources.list.d/debian.sources", sampleSources)
	write(t, etc, "sources.list.d/ignored.list.save", "deb http://ignored.test/debian bookworm main")
	got, notes := AptSources(etc)
	want := []string{
		"http://one.test/debian", "http://two.test/debian-security",
		"http://a.test/debian", "https://b.test/debian/", "http://own.test/debian",
	}
	if !reflect.DeepEqual(uris(got), want) {
		t.Fatalf("sources %v, want %v", uris(got), want)
	}
	two, a, own := got[1], got[2], got[4]
	if two.SignedBy != "/k.gpg" || two.CheckValidUntil || len(two.Architectures) != 2 || !strings.HasSuffix(two.Place, "sources.list:4") {
		t.Errorf("two: %+v", two)
	}
	if len(a.Suites) != 2 || len(a.Components) != 2 || !a.CheckValidUntil || a.SignedBy == "" {
		t.Errorf("a: %+v", a)
	}
	if own.SignedBy != "" || own.CheckValidUntil {
		t.Errorf("own: %+v", own)
	}
	all := strings.Join(notes, "\n")
	for _, part := range []string{"mirror+file", "flat archive", "cdrom", "closing bracket", "no archive and suite"} {
		if !strings.Contains(all, part) {
			t.Errorf("no note about %q in %s", part, all)
		}
	}
}

func TestAptConf(t *testing.T) {
	etc := t.TempDir()
	write(t, etc, "apt.conf.d/10a", `Acquire::http::Proxy "http://p.test:3128/"; // comment "x"
/* Acquire::http::Proxy "no"; */
Acquire { https { Proxy "DIRECT"; }; Check-Valid-Until "false"; };
APT::NeverAutoRemove { "^firmware"; "a; b"; };
# hash
`)
	write(t, etc, "apt.conf.d/20b.disabled", `Acquire::http::Proxy "http://wrong.test/";`)
	write(t, etc, "apt.conf.d/30c.conf", `Acquire::http::Proxy::host.test "http://q.test/";`)
	got := AptConf(etc)
	for k, want := range map[string]string{
		"acquire::http::proxy": "http://p.test:3128/", "acquire::https::proxy": "DIRECT",
		"acquire::check-valid-until": "false", "acquire::http::proxy::host.test": "http://q.test/",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
}

func TestGoSetting(t *testing.T) {
	home := t.TempDir()
	root := t.TempDir()
	goenv := write(t, root, "go.env", "# x\nGOPROXY=https://root.test,direct\nGOSUMDB=db.test\n")
	user := write(t, home, ".config/go/env", "GOPROXY=https://user.test\n")
	env := Environ{"GOROOT": root, "PATH": ""}
	for _, c := range []struct {
		name, envFile string
		env           Environ
		want, source  string
	}{
		{"user file", "", env, "https://user.test", user},
		{"environment", "", Environ{"GOPROXY": "https://env.test", "GOROOT": root}, "https://env.test", "GOPROXY"},
		{"GOENV off", "", Environ{"GOENV": "off", "GOROOT": root}, "https://root.test,direct", goenv},
		{"file given", goenv, Environ{}, "https://root.test,direct", goenv},
		{"XDG", "", Environ{"XDG_CONFIG_HOME": "/none", "GOROOT": root}, "https://root.test,direct", goenv},
		{"nowhere", "/none", Environ{"PATH": "/none"}, "", ""},
	} {
		got, source := GoSetting(context.Background(), c.env, home, c.envFile, "GOPROXY")
		if got != c.want || source != c.source {
			t.Errorf("%s: %q from %q", c.name, got, source)
		}
	}
	bin := write(t, root, "bin/go", "#!/bin/sh\ntest \"$GOTOOLCHAIN\" = local && echo asked $*\n")
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(goenv); err != nil {
		t.Fatal(err)
	}
	if got, source := GoSetting(context.Background(), Environ{"PATH": root + "/bin", "GOENV": "off"}, home, "", "GOPROXY"); got != "asked env GOPROXY" || source != "go env GOPROXY" {
		t.Errorf("asked: %q from %q", got, source)
	}
}

func TestParseGoProxy(t *testing.T) {
	got, notes := ParseGoProxy("https://a.test|https://b.test, ,https://c.test,direct,https://never.test")
	want := []GoProxy{{"https://a.test", true}, {"https://b.test", false}, {"https://c.test", false}}
	if !reflect.DeepEqual(got, want) || len(notes) != 1 {
		t.Errorf("got %+v, %v", got, notes)
	}
	if got, _ := ParseGoProxy("off"); len(got) != 0 {
		t.Errorf("off gives %v", got)
	}
}

func TestReadNpm(t *testing.T) {
	home, prefix := t.TempDir(), t.TempDir()
	b64 := base64.StdEncoding.EncodeToString
	user := write(t, home, ".npmrc", `; comment
registry = "https://npm.test/repo/"
@corp:registry=https://corp.test/npm/
//corp.test/npm/:_authToken=${TOKEN}
//npm.test/repo/:username=me
//npm.test/repo/:_password=`+b64([]byte("pw"))+`
//old.test/:_auth=`+b64([]byte("u:p"))+`
//bad.test/:_auth=%%%
`)
	write(t, prefix, "etc/npmrc", "registry=https://global.test/\n_auth="+b64([]byte("d:e"))+"\n")
	n := ReadNpm(Environ{"npm_config_prefix": prefix, "TOKEN": "tok"}, home)
	if n.Registry != "https://npm.test/repo/" || n.Source != user || n.Scopes["@corp"] != "https://corp.test/npm/" {
		t.Errorf("read %+v", n)
	}
	cs := Credentials(n.Credentials)
	for u, want := range map[string]string{
		"https://corp.test/npm/@corp%2fx": "Bearer tok",
		"https://corp.test/other":         "",
		"https://old.test/x":              "Basic " + b64([]byte("u:p")),
		"https://old.test:8443/x":         "",
		"https://bad.test/x":              "",
	} {
		if got := auth(t, cs, u); got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
	if n := ReadNpm(Environ{"NPM_CONFIG_REGISTRY": "https://env.test/"}, home); n.Registry != "https://env.test/" {
		t.Errorf("environment: %+v", n)
	}
	if n := ReadNpm(Environ{"npm_config_prefix": prefix}, t.TempDir()); n.Registry != "https://global.test/" || auth(t, n.Credentials, "https://global.test/x") == "" {
		t.Errorf("global: %+v", n)
	}
}

func auth(t *testing.T, cs Credentials, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := cs.For(u); ok {
		return c.Authorization()
	}
	return ""
}

const sampleNetrc = `# comment
machine a.test login me password one
machine b.test
	login me
	password two
macdef init
machine c.test login no password no

machine d.test/deep/er login deep password deep
machine d.test login shallow password shallow
machine http://plain.test login p password p
default login anonymous password x
`

func TestNetrc(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	apt, curl := ParseNetrc(sampleNetrc, false), ParseNetrc(sampleNetrc, true)
	for _, c := range []struct{ u, apt, curl string }{
		{"https://a.test/x", basic("me:one"), basic("me:one")},
		{"http://a.test/x", "", basic("me:one")},
		{"https://a.test:8443/x", basic("me:one"), basic("me:one")},
		{"https://b.test/", basic("me:two"), basic("me:two")},
		{"https://c.test/", "", ""},
		{"https://d.test/deep/er/x", basic("deep:deep"), basic("deep:deep")},
		{"https://d.test/deep/erx", basic("shallow:shallow"), basic("shallow:shallow")},
		{"http://plain.test/x", basic("p:p"), basic("p:p")},
		{"https://plain.test/x", "", ""},
		{"https://unknown.test/x", "", ""},
	} {
		if got := auth(t, apt, c.u); got != c.apt {
			t.Errorf("apt, %s: %q, want %q", c.u, got, c.apt)
		}
		if got := auth(t, curl, c.u); got != c.curl {
			t.Errorf("netrc, %s: %q, want %q", c.u, got, c.curl)
		}
	}
	home := t.TempDir()
	write(t, home, ".netrc", "machine h.test login a password b")
	other := write(t, home, "other", "machine o.test login a password b")
	if got := ReadNetrc(Environ{"NETRC": other}, home); len(got) != 1 || got[0].Host != "o.test" {
		t.Errorf("NETRC: %+v", got)
	}
	if got := ReadNetrc(Environ{}, home); len(got) != 1 || got[0].Host != "h.test" {
		t.Errorf("~/.netrc: %+v", got)
	}
	write(t, home, "auth.conf", "machine 1.test login a password b")
	write(t, home, "auth.conf.d/x.conf", "machine 2.test login a password b")
	if got := ReadAptAuth(home); len(got) != 2 {
		t.Errorf("auth.conf: %+v", got)
	}
}

func TestDockerAuths(t *testing.T) {
	home := t.TempDir()
	write(t, home, ".docker/config.json", `{"auths":{"https://r.test/v1/":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("a:b"))+`"},"s.test":{"username":"c","password":"d"}}}`)
	cs := ReadDockerAuths(Environ{"DOCKER_AUTH_CONFIG": `{"auths":{"ci.test:5000":{"username":"x","password":"y"}}}`}, home)
	for u, want := range map[string]bool{
		"https://r.test/v2/x": true, "https://s.test/v2/x": true, "https://ci.test:5000/v2/": true,
		"https://r.test/other": false, "https://t.test/v2/": false,
	} {
		if got := auth(t, cs, u) != ""; got != want {
			t.Errorf("%s: %v", u, got)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add(sampleSources)
	f.Add("deb [arch=amd64] http://a.test/debian bookworm main\n")
	f.Fuzz(func(t *testing.T, s string) {
		one, _ := ParseSourcesList("f", s)
		many, _ := ParseDeb822Sources("f", s)
		for _, src := range append(one, many...) {
			if len(src.Suites) == 0 || len(src.Components) == 0 {
				t.Errorf("unusable source accepted: %+v", src)
			}
		}
	})
}

func FuzzNetrc(f *testing.F) {
	f.Add(sampleNetrc)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range ParseNetrc(s, true) {
			if c.Host == "" {
				t.Errorf("a credential for every host: %+v", c)
			}
		}
	})
}

func FuzzAptConf(f *testing.F) {
	f.Add(`A::B "c"; D { E "f"; };`)
	f.Fuzz(func(t *testing.T, s string) { ParseAptConf(s, map[string]string{}) })
}

func FuzzNpmrc(f *testing.F) {
	f.Add("registry=https://npm.test/\n//npm.test/:_authToken=${T}\n")
	f.Fuzz(func(t *testing.T, s string) {
		conf := ParseNpmrc(s, Environ{"T": "x"})
		for _, c := range npmCredentials(conf, conf["registry"]) {
			if c.Host == "" {
				t.Errorf("a credential for every host: %+v", c)
			}
		}
	})
}
