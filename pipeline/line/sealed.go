package line

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drydock/modules/dockerfile"
	"drydock/modules/mirror"
)

// Where an image's lock has files of Go modules and Debian alone, whose clients
// read folders, an engine of others builds it without any network: RUN has the
// locked files in a mount. What else is locked needs an HTTP server, which only
// the embedded engine has for its steps.

// sealedDir is where steps have the locked files.
const sealedDir = "/run/drydock-mirror"

// sealable says whether a lock can be brought along: one that the build is held
// to, since a build may go beyond one that it is not.
func (l *Line) sealable(o *order) (*underLock, error) {
	if l.cfg.Observe || o.img.Parsed.ReachesOut() {
		return nil, nil
	}
	u, err := l.lockOfImage(o.img)
	if err != nil || u == nil || u.lock == nil || u.soft || u.observed || u.again != "" {
		return nil, err
	}
	for _, m := range u.lock.Materials {
		if m.Ecosystem != mirror.Go && m.Ecosystem != mirror.Debian {
			return nil, nil
		}
	}
	return u, u.checkBases(o.bases)
}

// seal cuts the network of every RUN and mounts what the lock has.
func (l *Line) seal(ctx context.Context, o *order, u *underLock) (map[string]string, error) {
	ref, err := l.lockedImage(ctx, o, u)
	if err != nil {
		return nil, err
	}
	f, err := dockerfile.Parse(o.img.DockerfilePath, o.text)
	if err != nil {
		return nil, err
	}
	if o.text, err = f.CutInRuns(); err != nil {
		return nil, err
	}
	if o.text, err = mountInRuns(o.img, o.text, "type=bind,from="+ref+",target="+sealedDir); err != nil {
		return nil, err
	}
	o.sealed = u
	// what the lock has was checked by its digest, and what clients ask a checksum
	// database about is not there
	return map[string]string{"GOPROXY": "file://" + sealedDir + "/" + mirror.Go, "GOSUMDB": "off"}, nil
}

// lockedImage is the reference of an image that holds every file of a lock.
func (l *Line) lockedImage(ctx context.Context, o *order, u *underLock) (string, error) {
	box, err := l.gatewayBox.get()
	if err != nil {
		return "", err
	}
	box.gateway.Enforce(u.key, u.lock, u.file, u.remedy)
	return l.filesImage(ctx, o, "locked", func(folder string) error {
		for _, m := range u.lock.Materials {
			if strings.HasPrefix(m.Path, "sumdb/") {
				continue
			}
			to := filepath.Join(folder, m.Ecosystem, filepath.FromSlash(m.Path))
			if !strings.HasPrefix(to, folder+string(filepath.Separator)) {
				return fmt.Errorf("%s: %q is no path", u.file, m.Path)
			}
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return fmt.Errorf("fetching what %s has: %w", u.file, err)
			}
			add := dockerfile.Added{Place: u.file, URL: "http://" + mirror.GatewayHost + "/" + m.Ecosystem + "/" + m.Path, Checksum: string(m.Digest)}
			if err := l.throughGateway(ctx, o, add, to); err != nil {
				return err
			}
		}
		return nil
	})
}

// sealedSources are the archives as apt reads them from the mount.
func sealedSources(sources []mirror.DebianSource) []mirror.DebianSource {
	out := make([]mirror.DebianSource, len(sources))
	for i, s := range sources {
		s.URI = "file:" + sealedDir + "/" + mirror.Debian + "/" + s.Archive
		out[i] = s
	}
	return out
}
