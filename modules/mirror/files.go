package mirror

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"drydock/modules/artifact"
)

// Files by checksum: below the prefixes the setting names, and only where the
// setting or a lock says what a file must be. Below the gateway's /files/ the
// path is as Dockerfiles name it: <host>/<path>.

// RuleChecksum refuses a file of which nobody said what it must be.
const RuleChecksum = "files/no-checksum"

func filesEcosystem() ecosystem {
	return ecosystem{
		name: Files, client: "files: in mirrors.yaml, which names prefixes and checksums",
		mutable: func(string) bool { return false }, purl: filesPURL,
		route: func(s *Set, hostPath string) (string, bool) {
			_, _, ok := s.fileUpstreams(hostPath)
			return hostPath, ok
		},
		hosts: func(s *Set) (out []string) {
			for _, m := range s.cfg.Files {
				_, prefix, _ := strings.Cut(m.Prefix, "://")
				host, _, _ := strings.Cut(prefix, "/")
				out = append(out, host)
			}
			return out
		},
		serve:     (*Gateway).serveFile,
		upstreams: (*Set).fileUpstreams,
	}
}

// fileUpstreams is where a file may be had, and its path there.
func (s *Set) fileUpstreams(hostPath string) (ups []upstream, rel string, ok bool) {
	m, rest := s.fileMirror(hostPath)
	if m == nil {
		return nil, "", false
	}
	for _, raw := range m.URLs {
		up, err := s.newUpstream(Files, raw, s.place(Files))
		if err != nil {
			s.note("%v", err)
			continue
		}
		up.anyError = true
		ups = append(ups, up)
	}
	return ups, rest, len(ups) > 0
}

// fileMirror is the setting of the longest prefix a file is below.
func (s *Set) fileMirror(hostPath string) (best *FileMirror, rest string) {
	for i := range s.cfg.Files {
		m := &s.cfg.Files[i]
		below, ok := strings.CutPrefix(hostPath, fileKey(m.Prefix))
		if ok && below != "" && (best == nil || len(below) < len(rest)) {
			best, rest = m, below
		}
	}
	return best, rest
}

// fileKey is a prefix as paths of files begin: without scheme, with a slash at
// the end.
func fileKey(prefix string) string {
	_, prefix, _ = strings.Cut(prefix, "://")
	host, dir, _ := strings.Cut(prefix, "/")
	return strings.TrimSuffix(strings.ToLower(host)+"/"+dir, "/") + "/"
}

func (g *Gateway) serveFile(w http.ResponseWriter, r *http.Request, rel string) {
	ctx := r.Context()
	ups, below, ok := g.set.fileUpstreams(rel)
	if !ok || r.URL.RawQuery != "" {
		g.refuse(w, r, "https://"+rel, "no prefix under files: in mirrors.yaml covers it")
		return
	}
	m, _ := g.set.fileMirror(rel)
	sum, known := m.SHA256[below]
	lock := g.locks.of(ctx, g.steps, stepOf(ctx))
	if !known && (lock == nil || !lock.grows) {
		g.refuseBy(w, r, refusal{
			URL: "https://" + rel, Rule: RuleChecksum, Reason: "nobody says what it must be",
			Remedy: "add its sha256 under files: in mirrors.yaml, or make a lock with drydock mirror lock and build with --locked",
		})
		return
	}
	g.serveFirst(w, r, ups, func(up upstream) want {
		wanted := want{up: up, rel: below, fresh: mutableFor, purl: filesPURL(rel)}
		if known {
			wanted.sha256 = artifact.Digest("sha256:" + strings.ToLower(sum))
		}
		return wanted.as(rel)
	})
}

// filesPURL names a file by where it is from (package-url type generic).
func filesPURL(rel string) string {
	return "pkg:generic/" + escape(path.Base(rel)) + "?download_url=" + url.QueryEscape("https://"+rel)
}
