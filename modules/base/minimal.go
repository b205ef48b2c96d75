package base

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"path"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
)

const (
	bundlePath   = "etc/ssl/certs/ca-certificates.crt"
	certificates = "usr/share/ca-certificates"
	dpkgDir      = "var/lib/dpkg"
)

// Accounts of a minimal base: the three that images need to name a user and
// own files, without login or shell.
const (
	nonroot = 65532

	passwdFile = `root:x:0:0:root:/root:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin
`
	groupFile = `root:x:0:
mail:x:8:
utmp:x:43:
staff:x:50:
nogroup:x:65534:
nonroot:x:65532:
`
)

// fillMinimal makes a root filesystem from packages without running anything
// of theirs: what their maintainer scripts would do and images need is done
// here.
func fillMinimal(tree *rootfs.Tree, platform artifact.Platform, debs []debFile, epoch int64) error {
	if err := mergeUsr(tree, platform.Architecture); err != nil {
		return err
	}
	packages, err := unpack(tree, debs, unpackOptions{dropSetuid: true, strict: true})
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, u := range packages {
		has[u.name] = true
	}
	if !has["dash"] {
		dropPrograms(tree)
	}
	if err := writeAccounts(tree, has); err != nil {
		return err
	}
	certs, err := writeCertificates(tree)
	if err != nil {
		return err
	}
	if err := runScripts(tree, has, certs, epoch); err != nil {
		return err
	}
	return recordPackages(tree, packages)
}

// dropPrograms takes shell scripts out: there is no shell to run them, and
// what cannot run should not look as if it could.
func dropPrograms(tree *rootfs.Tree) {
	for _, p := range tree.Paths() {
		if !rootfs.Within(p, "usr/bin") && !rootfs.Within(p, "usr/sbin") || p == "usr/bin" || p == "usr/sbin" {
			continue
		}
		data, err := tree.Read(p)
		if err != nil {
			continue // a folder, or a link that leads outside the base
		}
		first, _, _ := bytes.Cut(data[:min(len(data), 64)], []byte("\n"))
		if bytes.HasPrefix(first, []byte("#!")) {
			tree.Remove(p)
		}
	}
}

// writeAccounts makes the users and groups every unpacked base has, and those
// of its packages.
func writeAccounts(tree *rootfs.Tree, has map[string]bool) error {
	passwdFile, groupFile := passwdFile, groupFile
	if has["nginx-common"] {
		passwdFile += wwwUser
		groupFile += wwwGroup
	}
	files := []struct {
		path, data string
	}{
		{"etc/passwd", passwdFile},
		{"etc/group", groupFile},
		{"etc/timezone", "Etc/UTC\n"},
	}
	if nss, err := tree.Read("usr/share/base-files/nsswitch.conf"); err == nil {
		files = append(files, struct{ path, data string }{"etc/nsswitch.conf", string(nss)})
	}
	for _, f := range files {
		if err := tree.WriteFile(f.path, 0o644, []byte(f.data)); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{
		{"etc/localtime", "/usr/share/zoneinfo/Etc/UTC"}, {"var/run", "/run"}, {"var/lock", "/run/lock"},
	} {
		if tree.Get(l[0]) == nil {
			if err := tree.Symlink(l[0], l[1]); err != nil {
				return err
			}
		}
	}
	if err := tree.Mkdir("run/lock", 0o1777, 0, 0); err != nil {
		return err
	}
	return tree.Mkdir("home/nonroot", 0o700, nonroot, nonroot)
}

// certificate is one authority's, by the name of its file.
type certificate struct {
	name string
	der  []byte
}

// writeCertificates makes the bundle update-ca-certificates would make, and
// says what is in it.
func writeCertificates(tree *rootfs.Tree) ([]certificate, error) {
	var bundle bytes.Buffer
	var all []certificate
	for _, p := range tree.Paths() {
		if !rootfs.Within(p, certificates) || path.Ext(p) != ".crt" {
			continue
		}
		data, err := tree.Read(p)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s is not a certificate", p)
		}
		if err := pem.Encode(&bundle, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, fmt.Errorf("writing certificate bundle: %w", err)
		}
		all = append(all, certificate{strings.TrimSuffix(path.Base(p), ".crt"), block.Bytes})
	}
	if bundle.Len() == 0 {
		return nil, nil
	}
	return all, tree.WriteFile(bundlePath, 0o644, bundle.Bytes())
}

// recordPackages writes the dpkg database: what scanners read, and proof of
// what is in the image.
func recordPackages(tree *rootfs.Tree, packages []unpacked) error {
	var status bytes.Buffer
	for i, u := range packages {
		if i > 0 {
			status.WriteByte('\n')
		}
		conffiles, err := conffileSums(tree, u)
		if err != nil {
			return err
		}
		status.WriteString(installedStanza(u.stanza, conffiles))
		if err := recordFiles(tree, u); err != nil {
			return err
		}
	}
	// Without its format file dpkg does not look for name:architecture.list.
	if err := tree.WriteFile(dpkgDir+"/info/format", 0o644, []byte("1\n")); err != nil {
		return err
	}
	return tree.WriteFile(dpkgDir+"/status", 0o644, status.Bytes())
}

// installedStanza adds to a control stanza what dpkg adds on installation.
func installedStanza(stanza, conffiles string) string {
	var out strings.Builder
	for _, line := range strings.Split(stanza, "\n") {
		if strings.HasPrefix(strings.ToLower(line), "status:") {
			continue
		}
		out.WriteString(line + "\n")
		if strings.HasPrefix(strings.ToLower(line), "package:") {
			out.WriteString("Status: install ok installed\n")
		}
	}
	if conffiles != "" {
		out.WriteString("Conffiles:\n" + conffiles)
	}
	return out.String()
}

func conffileSums(tree *rootfs.Tree, u unpacked) (string, error) {
	var out strings.Builder
	for _, p := range strings.Fields(string(u.control["conffiles"])) {
		if !strings.HasPrefix(p, "/") {
			continue // a flag such as remove-on-upgrade
		}
		data, err := tree.Read(p)
		if err != nil {
			continue // left out on purpose
		}
		sum := md5.Sum(data) // what dpkg's database holds; nothing trusts it
		fmt.Fprintf(&out, " %s %s\n", p, hex.EncodeToString(sum[:]))
	}
	return out.String(), nil
}

func recordFiles(tree *rootfs.Tree, u unpacked) error {
	prefix := dpkgDir + "/info/" + u.name
	if u.multiArch == "same" {
		prefix += ":" + u.arch
	}
	if err := tree.WriteFile(prefix+".list", 0o644, []byte(strings.Join(u.list, "\n")+"\n")); err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values([]string{"conffiles", "md5sums"})) {
		if data := u.control[name]; len(data) > 0 {
			if err := tree.WriteFile(prefix+"."+name, 0o644, data); err != nil {
				return err
			}
		}
	}
	return nil
}
