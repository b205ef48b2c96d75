package base

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"drydock/modules/base/rootfs"
)

// The account nginx runs as, as Debian's base-passwd numbers it.
const (
	www      = 33
	wwwUser  = "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
	wwwGroup = "www-data:x:33:\n"
)

const (
	jvmDir = "usr/lib/jvm"

	// trustStorePath is where Debian's Java looks for authorities: lib/security/cacerts
	// of every runtime leads there.
	trustStorePath = "etc/ssl/certs/java/cacerts"
)

// runScripts does what the maintainer scripts of packages would do and images
// need. The packages are those in the tree.
func runScripts(tree *rootfs.Tree, has map[string]bool, certs []certificate, epoch int64) error {
	if has["ca-certificates-java"] && len(certs) > 0 {
		store, err := trustStore(certs, epoch)
		if err != nil {
			return err
		}
		if err := tree.WriteFile(trustStorePath, 0o644, store); err != nil {
			return err
		}
	}
	if has["java-common"] {
		if err := linkJava(tree); err != nil {
			return err
		}
	}
	if has["nginx-common"] {
		return prepareNginx(tree)
	}
	return nil
}

// linkJava makes the links update-alternatives makes for the tools of the Java
// in the tree, and the one that leads to it whatever its version.
func linkJava(tree *rootfs.Tree) error {
	home := ""
	for _, p := range tree.Paths() {
		// java-17-openjdk-amd64; beside it is a link java-1.17.0-openjdk-amd64.
		if n := tree.Get(p); path.Dir(p) != jvmDir || n.Type != tar.TypeDir || tree.Get(p+"/bin/java") == nil {
			continue
		}
		if home != "" {
			return fmt.Errorf("two Java runtimes, %s and %s: a base has one", home, p)
		}
		home = p
	}
	if home == "" {
		return nil
	}
	links := [][2]string{{jvmDir + "/default-java", path.Base(home)}}
	for _, p := range tree.Paths() {
		if tool := path.Base(p); path.Dir(p) == home+"/bin" && tree.Get(p).Mode&0o111 != 0 {
			links = append(links, [2]string{"etc/alternatives/" + tool, "/" + p}, [2]string{"usr/bin/" + tool, "/etc/alternatives/" + tool})
		}
	}
	for _, l := range links {
		if tree.Get(l[0]) != nil {
			continue
		}
		if err := tree.Symlink(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

// prepareNginx enables the default site and gives nginx's folders to the user
// it runs as; what it logs goes where a container's log is.
func prepareNginx(tree *rootfs.Tree) error {
	for _, dir := range []string{"", "/body", "/fastcgi", "/proxy", "/scgi", "/uwsgi"} {
		if err := tree.Mkdir("var/lib/nginx"+dir, 0o700, www, www); err != nil {
			return err
		}
	}
	if err := tree.Mkdir("var/log/nginx", 0o755, www, www); err != nil {
		return err
	}
	for _, l := range [][2]string{
		{"etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default"},
		{"var/log/nginx/access.log", "/dev/stdout"}, {"var/log/nginx/error.log", "/dev/stderr"},
	} {
		if err := tree.Symlink(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

// alias is the name of a certificate in a trust store: Java compares them in
// lower case.
func (c certificate) alias() string { return "debian:" + strings.ToLower(c.name) + ".pem" }

// sortedByAlias refuses two certificates of one name: the second would replace
// the first.
func sortedByAlias(certs []certificate) ([]certificate, error) {
	out := slices.Clone(certs)
	slices.SortFunc(out, func(a, b certificate) int { return strings.Compare(a.alias(), b.alias()) })
	for i := 1; i < len(out); i++ {
		if out[i].alias() == out[i-1].alias() {
			return nil, fmt.Errorf("two certificates are called %s", out[i].name)
		}
	}
	return out, nil
}
