package executor

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/continuity/fs"
	bkexec "github.com/moby/buildkit/executor"

	"drydock/modules/engine/embedded/initproc"
)

// A step speaks TLS with the mirror gateway, whoever it means, and is told to
// trust the gateway's authority by the variables its clients read. The files
// they name are in /dev, which is of no layer; those in the places programs are
// built to look at are left alone, because installing authorities (package
// ca-certificates) replaces them, and what they are then belongs to the layer.
const (
	authorityFile = "drydock-ca.pem"       // the gateway's authority
	bundleFile    = "drydock-cas.pem"      // and those the image has; mirror's locks name it
	wgetFile      = "drydock-wgetrc"       // wget(1)
	aptFile       = "drydock-apt-tls.conf" // apt.conf(5)
)

// bundleLimit bounds what is read of an image's authorities, in bytes.
const bundleLimit = 4 << 20

// bundlePlaces is where images have authorities, as crypto/x509 looks for them.
func bundlePlaces() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
}

// trustEnv adds the variables by which clients find the authorities. env is the
// step's without them.
func trustEnv(env []string) []string {
	bundle := "/dev/" + bundleFile
	add := []string{
		"SSL_CERT_FILE=" + bundle, // OpenSSL (and python, ruby, perl, .NET on it), crypto/x509 of Go, rustls
		"CURL_CA_BUNDLE=" + bundle, "GIT_SSL_CAINFO=" + bundle, "CARGO_HTTP_CAINFO=" + bundle,
		"REQUESTS_CA_BUNDLE=" + bundle, "PIP_CERT=" + bundle, // python's requests brings authorities of its own
		"NODE_EXTRA_CA_CERTS=/dev/" + authorityFile, // so does node, and adds these
		"SYSTEM_WGETRC=/dev/" + wgetFile,
	}
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "APT_CONFIG=") }) {
		add = append(add, "APT_CONFIG=/dev/"+aptFile) // that of a step under a lock names the authorities too
	}
	return bkexec.ReplaceEnv(env, add)
}

// askAuthority asks the gateway whose certificates the step is to trust: "" when
// it has none. That it is not there is found out, and said, when the step begins.
func (s *step) askAuthority() error {
	g := &link{socket: s.socket, vertex: s.vertex}
	c, err := g.dial(hello{Kind: "authority", Step: s.vertex.Digest})
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(dialTime))
	line, err := bufio.NewReader(c).ReadBytes('\n')
	var said struct{ Authority string }
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &gatewayFault{err}
	case err == nil && json.Unmarshal(line, &said) == nil:
		s.authority = said.Authority
	}
	return nil
}

// trust takes a step's environment and gives it with what its clients need to
// trust the gateway.
func (s *step) trust(env []string) ([]string, error) {
	if err := s.askAuthority(); err != nil || s.authority == "" {
		return env, err
	}
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "SSL_CERT_FILE="); ok {
			s.bundle = v
		}
	}
	return trustEnv(env), nil
}

// trustFiles are the files of /dev for it, by name; none without an authority.
func (s *step) trustFiles(rootfs string) map[string]string {
	if s.authority == "" {
		return nil
	}
	bundle := s.authority + readBundle(rootfs, s.bundle)
	return map[string]string{
		authorityFile: s.authority, bundleFile: bundle,
		wgetFile: "ca_certificate = /dev/" + bundleFile + "\n",
		aptFile:  "Acquire::https::CAInfo \"/dev/" + bundleFile + "\";\n",
	}
}

// readBundle is the authorities an image has; own is where it says they are.
func readBundle(rootfs, own string) string {
	places := bundlePlaces()
	if own != "" {
		places = slices.Insert(places, 0, own)
	}
	for _, name := range places {
		path, err := fs.RootPath(rootfs, name)
		if err != nil {
			continue
		}
		fi, err := os.Lstat(path)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > bundleLimit {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, bundleLimit))
		f.Close()
		if err == nil && len(b) > 0 {
			return string(b)
		}
	}
	return ""
}

// mountTrust has the init mount those files.
func (s *step) mountTrust(rootfs string) error {
	files := s.trustFiles(rootfs)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path, err := writeFile(filepath.Join(s.dir, name), files[name])
		if err != nil {
			return err
		}
		s.spec.Mounts = append(s.spec.Mounts, initproc.Mount{Source: path, Dest: "/dev/" + name, ReadOnly: true})
	}
	return nil
}
