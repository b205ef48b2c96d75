package base

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what the format has
	"encoding/binary"
	"encoding/pem"
	"os/exec"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
)

// readTrustStore reads a key store of type JKS as Java does.
func readTrustStore(t *testing.T, data []byte, password string) map[string][]byte {
	t.Helper()
	body, sum := data[:len(data)-sha1.Size], data[len(data)-sha1.Size:]
	h := sha1.New() //nolint:gosec // see above
	for _, c := range password {
		h.Write([]byte{0, byte(c)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(body)
	if !bytes.Equal(h.Sum(nil), sum) {
		t.Fatal("the sum does not hold: the store was tampered with, or the password is another")
	}
	r := bytes.NewReader(body)
	var head struct{ Magic, Version, Count uint32 }
	check(t, binary.Read(r, binary.BigEndian, &head))
	if head.Magic != 0xfeedfeed || head.Version != 2 {
		t.Fatalf("head %+v", head)
	}
	text := func() string {
		var n uint16
		check(t, binary.Read(r, binary.BigEndian, &n))
		buf := make([]byte, n)
		check(t, binary.Read(r, binary.BigEndian, buf))
		return string(buf)
	}
	out := map[string][]byte{}
	for range head.Count {
		var tag, size uint32
		var millis int64
		check(t, binary.Read(r, binary.BigEndian, &tag))
		alias := text()
		check(t, binary.Read(r, binary.BigEndian, &millis))
		kind := text()
		check(t, binary.Read(r, binary.BigEndian, &size))
		der := make([]byte, size)
		check(t, binary.Read(r, binary.BigEndian, der))
		if tag != 2 || kind != "X.509" || millis != 1763600000000 {
			t.Errorf("entry %s: tag %d, type %s, time %d", alias, tag, kind, millis)
		}
		out[alias] = der
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes too many", r.Len())
	}
	return out
}

func TestTrustStore(t *testing.T) {
	block, _ := pem.Decode([]byte(testCertificate(t)))
	store, err := trustStore([]certificate{{"Zweite_Fő", block.Bytes}, {"First", []byte("der")}}, 1763600000)
	check(t, err)
	got := readTrustStore(t, store, "changeit")
	if len(got) != 2 || string(got["debian:first.pem"]) != "der" || !bytes.Equal(got["debian:zweite_fő.pem"], block.Bytes) {
		t.Errorf("got %v", got)
	}
	for name, certs := range map[string][]certificate{
		"two of one name": {{"a", nil}, {"A", nil}}, "a name Java spells otherwise": {{"😀", nil}}, "no text": {{"\xff", nil}},
	} {
		if _, err := trustStore(certs, 1); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// java is a runtime as Debian packages it, as far as links are concerned.
func java(homes ...string) []testDeb {
	d := testDeb{name: "openjdk-17-jre-headless", version: "1.0", arch: "amd64", fields: "Depends: ca-certificates-java, java-common, util-linux\n", bodies: map[string]string{}}
	for _, h := range homes {
		program := tar.Header{Typeflag: tar.TypeReg, Name: "./usr/lib/jvm/" + h + "/bin/java", Mode: 0o755}
		d.entries = append(d.entries, folder("./usr/lib/jvm/"+h+"/", 0o755), program, regular("./usr/lib/jvm/"+h+"/bin/notes"))
		d.bodies[program.Name] = "\x7fELF"
	}
	d.entries = append(d.entries, tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/lib/jvm/java-1.17.0-openjdk-amd64", Linkname: homes[0]})
	return []testDeb{d,
		{name: "ca-certificates-java", version: "1.0", arch: "all", fields: "Depends: ca-certificates\n"},
		{name: "java-common", version: "1.0", arch: "all"},
	}
}

func javaBase(t *testing.T, homes ...string) (*Result, error) {
	t.Helper()
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.add(java(homes...)...)
	a.publish()
	spec := minimalSpec("openjdk-17-jre-headless")
	spec.Platforms = []artifact.Platform{{OS: "linux", Architecture: "amd64"}}
	return a.builder().Build(context.Background(), spec, nil)
}

func TestJavaBase(t *testing.T) {
	r, err := javaBase(t, "java-17-openjdk-amd64")
	check(t, err)
	headers, bodies := files(t, r, "linux/amd64")
	for name, want := range map[string]string{
		"usr/bin/java": "/etc/alternatives/java", "etc/alternatives/java": "/usr/lib/jvm/java-17-openjdk-amd64/bin/java",
		"usr/lib/jvm/default-java": "java-17-openjdk-amd64",
	} {
		if h := headers[name]; h == nil || h.Linkname != want {
			t.Errorf("%s: %+v, want a link to %s", name, h, want)
		}
	}
	if headers["usr/bin/notes"] != nil {
		t.Error("what is no program got a link")
	}
	if s := bodies[trustStorePath]; !strings.HasPrefix(s, "\xfe\xed\xfe\xed") || !strings.Contains(s, "debian:test.pem") {
		t.Errorf("trust store %q", s)
	}
	if _, err := javaBase(t, "java-17-openjdk-amd64", "java-21-openjdk-amd64"); err == nil || !strings.Contains(err.Error(), "two Java runtimes") {
		t.Errorf("two runtimes: %v", err)
	}
}

// A static base has the accounts, authorities and package records of a minimal
// one, and no C library; packages that want one are refused.
func TestStaticBase(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.add(testDeb{name: "dynamic", version: "1.0", arch: "amd64", fields: "Depends: libc6\n"})
	a.publish()
	spec := minimalSpec()
	spec.Variant = VariantStatic
	spec.Platforms = spec.Platforms[:1]
	r, err := a.builder().Build(context.Background(), spec, nil)
	check(t, err)
	headers, bodies := files(t, r, "linux/amd64")
	if headers["usr/lib/libc.so.6"] != nil || strings.Contains(bodies["var/lib/dpkg/status"], "libc6") {
		t.Error("it has a C library")
	}
	if !strings.Contains(bodies[bundlePath], "BEGIN CERTIFICATE") || !strings.Contains(bodies["etc/passwd"], "nonroot:x:65532") {
		t.Error("no authorities or no accounts")
	}
	spec.Packages = []string{"dynamic"}
	_, err = a.builder().Build(context.Background(), spec, nil)
	if artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "need libc6") {
		t.Errorf("a dynamic package: %v", err)
	}
}

func TestNginxBase(t *testing.T) {
	tree, err := rootfs.New(t.TempDir())
	check(t, err)
	defer tree.Close()
	check(t, tree.Mkdir("var/lib/nginx", 0o755, 0, 0))
	has := map[string]bool{"nginx-common": true}
	check(t, writeAccounts(tree, has))
	check(t, runScripts(tree, has, nil, 0))
	if n := tree.Get("var/lib/nginx"); n.UID != www || n.Mode != 0o700 {
		t.Errorf("var/lib/nginx %+v", n)
	}
	if n := tree.Get("etc/nginx/sites-enabled/default"); n == nil || n.Target != "/etc/nginx/sites-available/default" {
		t.Errorf("the default site is not enabled: %+v", n)
	}
	for file, want := range map[string]string{"etc/passwd": "www-data:x:33:33:", "etc/group": "www-data:x:33:"} {
		if data, err := tree.Read(file); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s: %s, %v", file, data, err)
		}
	}
}

// The lines with which Dockerfiles edit the sources of Debian's images do the same
// to a base's.
func TestSourcesAreEdited(t *testing.T) {
	lock := &Lock{Archives: []LockedArchive{
		{Archive: "debian", Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main"}},
		{Archive: "debian-security", Suites: []string{"bookworm-security"}, Components: []string{"main"}},
	}}
	if sourcesPath != "etc/apt/sources.list.d/debian.sources" {
		t.Errorf("they look for it at another place than %s", sourcesPath)
	}
	stanza := func(types, uri, suites, components string) string {
		return "Types: " + types + "\n# the mirrors of this build, through its gateway\nURIs: http://mirror.drydock.internal/debian/" + uri +
			"\nSuites: " + suites + "\nComponents: " + components + "\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
	}
	both := func(types, suites, components string) string {
		return stanza(types, "debian", suites, components) + "\n" + stanza(types, "debian-security", "bookworm-security", components)
	}
	const suites = "bookworm bookworm-updates"
	for script, want := range map[string]string{
		"s/^Types: deb$/Types: deb deb-src/":                         both("deb deb-src", suites, "main"),
		"s/^Components: main$/Components: main contrib non-free/":    both("deb", suites, "main contrib non-free"),
		"/^Components:/s/main/main contrib/":                         both("deb", suites, "main contrib"),
		"s/ bookworm-updates$/ bookworm-updates bookworm-backports/": both("deb", suites+" bookworm-backports", "main"),
		"s|//[a-z]*[.]debian[.]org|//mirror.example.com|g":           both("deb", suites, "main"),
	} {
		cmd := exec.Command("sed", script)
		cmd.Stdin = strings.NewReader(sources(lock))
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("sed '%s': %v\n%s\nwanted\n%s", script, err, out, want)
		}
	}
}
