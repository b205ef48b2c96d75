package base

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"drydock/modules/artifact"
	"drydock/modules/mirror"
)

// archive is a small Debian archive with its own key, served in process.
type archive struct {
	t      *testing.T
	url    string
	ring   string // file of its public key
	signer *openpgp.Entity
	date   time.Time

	mu    sync.Mutex
	files map[string][]byte            // by URL path
	index map[string]map[string]string // Packages stanzas by architecture and name
	hits  int
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	a := &archive{t: t, files: map[string][]byte{}, index: map[string]map[string]string{}, date: time.Now().Add(-time.Hour).UTC().Truncate(time.Second)}
	var err error
	a.signer, err = openpgp.NewEntity("Test Archive", "", "test@example.invalid", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	check(t, err)
	a.ring = filepath.Join(t.TempDir(), "archive.gpg")
	var ring bytes.Buffer
	check(t, a.signer.Serialize(&ring))
	check(t, os.WriteFile(a.ring, ring.Bytes(), 0o600))
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	a.url = srv.URL
	return a
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ServeHTTP serves the files.
func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	data, ok := a.files[r.URL.Path]
	a.hits++
	a.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// requests counts how often it was asked, ever.
func (a *archive) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hits
}

// testDeb is a package to be made.
type testDeb struct {
	name, version, arch string
	fields              string // more control fields, each line ended
	entries             []tar.Header
	bodies              map[string]string // of the regular files among entries
	control             map[string]string // more control files
	compression         string            // gz, xz or zst; "" is gz
}

// add puts packages into the archive's pool and index.
func (a *archive) add(debs ...testDeb) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range debs {
		data := buildDeb(a.t, d)
		path := fmt.Sprintf("pool/main/%s_%s_%s.deb", d.name, strings.ReplaceAll(d.version, ":", "%3a"), d.arch)
		a.files["/debian/"+path] = data
		sum := sha256.Sum256(data)
		stanza := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n%sFilename: %s\nSize: %d\nSHA256: %s\n",
			d.name, d.version, d.arch, d.fields, path, len(data), hex.EncodeToString(sum[:]))
		archs := []string{d.arch}
		if d.arch == "all" {
			archs = []string{"amd64", "arm64"}
		}
		for _, arch := range archs {
			if a.index[arch] == nil {
				a.index[arch] = map[string]string{}
			}
			a.index[arch][d.name] = stanza
		}
	}
}

// publish signs what is in the index now.
func (a *archive) publish() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var sums strings.Builder
	for _, arch := range []string{"amd64", "arm64"} {
		var packages strings.Builder
		for _, stanza := range a.index[arch] {
			packages.WriteString(stanza + "\n")
		}
		name := "main/binary-" + arch + "/Packages"
		data := []byte(packages.String())
		sum := sha256.Sum256(data)
		a.files["/debian/dists/test/"+name] = data
		fmt.Fprintf(&sums, " %s %d %s\n", hex.EncodeToString(sum[:]), len(data), name)
	}
	release := "Origin: Debian\nLabel: Debian\nSuite: test\nCodename: test\nDate: " + a.date.Format(time.RFC1123) +
		"\nArchitectures: amd64 arm64\nComponents: main\nSHA256:\n" + sums.String()
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, a.signer.PrivateKey, nil)
	check(a.t, err)
	_, err = io.WriteString(w, release)
	check(a.t, err)
	check(a.t, w.Close())
	a.files["/debian/dists/test/InRelease"] = signed.Bytes()
}

// drop takes a package's file away, as archives do with old versions.
func (a *archive) drop(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for path := range a.files {
		if strings.HasPrefix(path, "/debian/pool/main/"+name+"_") {
			delete(a.files, path)
		}
	}
}

// poison changes a package's file without telling the index.
func (a *archive) poison(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for path, data := range a.files {
		if strings.HasPrefix(path, "/debian/pool/main/"+name+"_") {
			bad := bytes.Clone(data)
			bad[len(bad)-1] ^= 1
			a.files[path] = bad
		}
	}
}

// set is the mirrors of a machine that knows only this archive.
func (a *archive) set(cache string) *mirror.Set {
	a.t.Helper()
	s, err := mirror.Discover(context.Background(), mirror.Config{
		Debian: mirror.Setting{URLs: []string{a.url + "/debian"}}, Suite: "test", Keyring: a.ring, Place: "mirrors.yaml",
	}, mirror.Host{Environ: []string{"HOME=" + a.t.TempDir()}, Home: a.t.TempDir(), EtcApt: a.t.TempDir()}, cache)
	check(a.t, err)
	return s
}

// builder is a builder on a fresh machine.
func (a *archive) builder() *Builder {
	dir := a.t.TempDir()
	return &Builder{Mirrors: a.set(filepath.Join(dir, "mirror")), CacheDir: filepath.Join(dir, "bases"), Log: func(l string) { a.t.Log(l) }}
}

func buildDeb(t *testing.T, d testDeb) []byte {
	t.Helper()
	control := map[string]string{"control": fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: nobody\n%sDescription: a test\n",
		d.name, d.version, d.arch, d.fields)}
	for k, v := range d.control {
		control[k] = v
	}
	var headers []tar.Header
	for k := range control {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: "./" + k, Mode: 0o644})
	}
	bodies := map[string]string{}
	for k, v := range control {
		bodies["./"+k] = v
	}
	ext := d.compression
	if ext == "" {
		ext = "gz"
	}
	return ar(t, map[string][]byte{
		"debian-binary": []byte("2.0\n"), "control.tar." + ext: compress(t, ext, makeTar(t, headers, bodies)),
		"data.tar." + ext: compress(t, ext, makeTar(t, d.entries, d.bodies)),
	}, "debian-binary", "control.tar."+ext, "data.tar."+ext)
}

func makeTar(t *testing.T, headers []tar.Header, bodies map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		h.Size = int64(len(bodies[h.Name]))
		check(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, bodies[h.Name])
		check(t, err)
	}
	check(t, w.Close())
	return buf.Bytes()
}

func compress(t *testing.T, ext string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "gz":
		w = gzip.NewWriter(&buf)
	case "xz":
		w, err = xz.NewWriter(&buf)
	case "zst":
		w, err = zstd.NewWriter(&buf)
	}
	check(t, err)
	_, err = w.Write(data)
	check(t, err)
	check(t, w.Close())
	return buf.Bytes()
}

func ar(t *testing.T, members map[string][]byte, order ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	buf.WriteString("!<arch>\n")
	for _, name := range order {
		fmt.Fprintf(&buf, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", name, 0, 0, 0, 0o100644, len(members[name]))
		buf.Write(members[name])
		if len(members[name])%2 == 1 {
			buf.WriteByte('\n')
		}
	}
	return buf.Bytes()
}

func regular(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}
}

func folder(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
}

// testCertificate is a certificate as ca-certificates ships them.
func testCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Root"}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// core is the packages every minimal base has, in all the compressions there
// are, with the quirks real ones show.
func core(t *testing.T, version string) []testDeb {
	t.Helper()
	var out []testDeb
	for _, arch := range []string{"amd64", "arm64"} {
		out = append(out,
			testDeb{
				name: "base-files", version: version, arch: arch, fields: "Essential: yes\nPriority: required\nPre-Depends: awk\n",
				compression: "xz",
				entries: []tar.Header{
					folder("./", 0o755), folder("./bin/", 0o755), folder("./etc/", 0o755), folder("./tmp/", 0o1777), folder("./var/mail/", 0o2775),
					regular("./etc/debian_version"), regular("./usr/lib/os-release"),
					{Typeflag: tar.TypeSymlink, Name: "./etc/os-release", Linkname: "../usr/lib/os-release"},
				},
				bodies:  map[string]string{"./etc/debian_version": "test\n", "./usr/lib/os-release": "ID=debian\nVERSION_CODENAME=test\n"},
				control: map[string]string{"conffiles": "/etc/debian_version\n", "postinst": "#!/bin/sh\nexit 1\n"},
			},
			testDeb{
				name: "libc6", version: version, arch: arch, fields: "Multi-Arch: same\nDepends: libgcc-s1\n", compression: "zst",
				entries: []tar.Header{
					folder("./lib/", 0o755), regular("./lib/libc.so.6"),
					{Typeflag: tar.TypeReg, Name: "./usr/bin/mount-like", Mode: 0o4755}, {Typeflag: tar.TypeReg, Name: "./usr/bin/ldd", Mode: 0o755},
					{Typeflag: tar.TypeLink, Name: "./usr/bin/twin", Linkname: "./usr/bin/mount-like"},
				},
				bodies: map[string]string{"./lib/libc.so.6": "libc " + arch, "./usr/bin/mount-like": "\x7fELF", "./usr/bin/ldd": "#!/bin/bash\n"},
			},
			testDeb{name: "libgcc-s1", version: version, arch: arch, fields: "Multi-Arch: same\n"},
		)
	}
	return append(out,
		testDeb{name: "netbase", version: version, arch: "all", entries: []tar.Header{regular("./etc/services")}, bodies: map[string]string{"./etc/services": "http 80/tcp\n"}},
		testDeb{
			name: "tzdata", version: version, arch: "all", fields: "Depends: debconf (>= 0.5) | debconf-2.0\n",
			entries: []tar.Header{regular("./usr/share/zoneinfo/Etc/UTC"), regular("./usr/share/doc/tzdata/copyright"), regular("./usr/share/doc/tzdata/changelog.gz")},
			bodies:  map[string]string{"./usr/share/zoneinfo/Etc/UTC": "TZif", "./usr/share/doc/tzdata/copyright": "public domain\n"},
		},
		testDeb{
			name: "ca-certificates", version: version, arch: "all", fields: "Depends: openssl, debconf\n",
			entries: []tar.Header{regular("./usr/share/ca-certificates/mozilla/Test.crt")},
			bodies:  map[string]string{"./usr/share/ca-certificates/mozilla/Test.crt": testCertificate(t)},
		},
	)
}

// minimalSpec is a base on the test archive.
func minimalSpec(packages ...string) Spec {
	return Spec{
		Name: "tiny", Kind: KindDebian, Variant: VariantMinimal, Packages: packages, Place: "catalog/bases/tiny.yaml:1",
		Platforms: []artifact.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
	}
}
