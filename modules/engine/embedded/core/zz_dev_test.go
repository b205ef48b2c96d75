//go:build linux

package core

import (
	"net"
	"os"
	"testing"

	"drydock/modules/mirror"
)

func TestDevDebian(t *testing.T) {
	dir := "/tmp/ec-debian"
	set, err := mirror.Discover(t.Context(), mirror.Config{Debian: mirror.Setting{Auto: true}, Go: mirror.Setting{Auto: true}, Npm: mirror.Setting{Auto: true}}, mirror.Host{Environ: os.Environ(), Home: "/root"}, "/tmp/ec-mirror")
	if err != nil {
		t.Fatal(err)
	}
	g := mirror.NewGateway(set, mirror.GatewayOptions{CacheDir: "/tmp/ec-mirror", Log: os.Stderr})
	sock := t.TempDir() + "/g"
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(l)
	defer g.Close()
	c := startChild(t, ChildConfig{GatewaySocket: sock, Root: stateDir(t)})
	out := do(t, c.Socket, task{Dir: dir, Steps: []stepSpec{
		sh("set -ex; grep -v '^#' /etc/apt/sources.list; apt-get update; apt-get install -y --no-install-recommends hello adduser gnupg procps; hello; adduser --system --group svc; su -s /bin/sh svc -c id; ls -la /tmp; dpkg -l | wc -l"),
		sh("set -ex; echo 'deb http://mirror.drydock.internal/debian/debian bookworm main' > /etc/apt/sources.list; apt-get update; apt-get install -y --no-install-recommends wget ca-certificates redis-server; wget -q -O- http://mirror.drydock.internal/debian/debian/dists/bookworm/InRelease | head -3; redis-server --version"),
		sh("apt-get install -y --no-install-recommends wget >/dev/null 2>&1; wget https://example.invalid/x"),
	}})
	t.Log(out.Logs)
	t.Log(out.Err)
	t.Log(g.Materials("x"))
}
