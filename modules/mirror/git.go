package mirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/gitpack"
	"drydock/modules/mirror/internal/store"
)

// Git over smart HTTP, protocol version 2 (gitprotocol-v2(5)), to hosts the
// setting names a mirror for. What a step fetches is commits: each becomes a
// material whose digest is that of the commit object, which names everything
// below it. Under a lock the refs a step is told of are those that were locked.
//
// Below the gateway's /git/ the path is as Dockerfiles name it: <host>/<path>.

const (
	gitResult  = "application/x-git-upload-pack-result"
	gitRequest = "application/x-git-upload-pack-request"
	gitBody    = 16 << 20  // of a request
	gitRefs    = 128 << 20 // of a repository's list of refs
)

// gitForever: what a commit is does not change.
const gitForever = 100 * 365 * 24 * time.Hour

func gitEcosystem() ecosystem {
	return ecosystem{
		name: Git, client: "git: in mirrors.yaml, which names hosts and where they are mirrored",
		route: (*Set).gitRoute, serve: (*Gateway).serveGit, posts: true, ownLock: true,
		hosts: func(s *Set) (out []string) {
			for _, m := range s.cfg.Git {
				host, _, _ := strings.Cut(strings.Trim(m.Prefix, "/"), "/")
				out = append(out, host)
			}
			return out
		},
	}
}

// gitRoute recognises addresses of hosts that are mirrored. Such a host may have
// files beside its repositories.
func (s *Set) gitRoute(hostPath string) (string, bool) {
	if m, _ := s.fileMirror(hostPath); m != nil && path.Base(hostPath) != "git-upload-pack" && !strings.HasSuffix(hostPath, "/info/refs") {
		return "", false
	}
	_, _, ok := s.gitUpstreams(hostPath)
	return hostPath, ok
}

// gitUpstreams is where a repository is mirrored, and its path there.
func (s *Set) gitUpstreams(repo string) (ups []upstream, rel string, ok bool) {
	best := s.gitMirror(repo)
	if best.Prefix == "" {
		return nil, "", false
	}
	for _, raw := range best.URLs {
		up, err := s.newUpstream(Git, raw, s.place(Git))
		if err != nil {
			s.note("%v", err)
			continue
		}
		ups = append(ups, up)
	}
	return ups, strings.Trim(strings.TrimPrefix(repo, strings.Trim(best.Prefix, "/")), "/"), len(ups) > 0
}

// gitMirror is the setting of the longest prefix a repository is below.
func (s *Set) gitMirror(repo string) (best GitMirror) {
	for _, m := range s.cfg.Git {
		prefix := strings.Trim(m.Prefix, "/")
		if (repo == prefix || strings.HasPrefix(repo, prefix+"/")) && len(prefix) > len(strings.Trim(best.Prefix, "/")) {
			best = m
		}
	}
	return best
}

// gitCall is one request of git.
type gitCall struct {
	repo string // as Dockerfiles name it: host/path
	ups  []upstream
	rel  string // of the repository below each of ups
	lock *lockSet
}

func (g *Gateway) serveGit(w http.ResponseWriter, r *http.Request, rel string) {
	repo, service, ok := gitService(rel, r)
	shown := "https://" + repo
	if !ok {
		g.refuse(w, r, "https://"+rel, "of git repositories only fetching over smart HTTP is served")
		return
	}
	call := gitCall{repo: strings.TrimSuffix(repo, ".git"), lock: g.locks.of(r.Context(), g.steps, stepOf(r.Context()))}
	if call.ups, call.rel, ok = g.set.gitUpstreams(repo); !ok {
		g.refuseBy(w, r, refusal{
			URL: shown, Rule: RuleMirrorOnly, Reason: "no mirror is configured for this git repository",
			Remedy: "name its host and where it is mirrored under git: in mirrors.yaml",
		})
		return
	}
	if !strings.Contains(r.Header.Get("Git-Protocol"), "version=2") {
		answer(w, http.StatusBadRequest, "drydock: git's protocol version 2 is wanted (git 2.26, or git -c protocol.version=2)")
		return
	}
	var err error
	if service == "info/refs" {
		err = serveGitCapabilities(w)
	} else {
		err = g.serveGitCommand(w, r, call)
	}
	if err != nil {
		g.fail(w, r, err)
	}
}

// gitService splits a path into a repository and what is wanted of it.
func gitService(rel string, r *http.Request) (repo, service string, ok bool) {
	if repo, ok = strings.CutSuffix(rel, "/info/refs"); ok {
		return repo, "info/refs", r.Method == http.MethodGet && r.URL.Query().Get("service") == "git-upload-pack"
	}
	repo, ok = strings.CutSuffix(rel, "/git-upload-pack")
	return repo, "git-upload-pack", ok && r.Method == http.MethodPost
}

// serveGitCapabilities says what the gateway passes on, whatever the mirror can.
func serveGitCapabilities(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	w.Header().Set("Cache-Control", "no-cache")
	var b bytes.Buffer
	gitpack.Line(&b, "# service=git-upload-pack\n")
	gitpack.Flush(&b)
	for _, l := range []string{"version 2\n", "agent=drydock\n", "ls-refs\n", "fetch=shallow\n", "object-format=sha1\n"} {
		gitpack.Line(&b, l)
	}
	gitpack.Flush(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (g *Gateway) serveGitCommand(w http.ResponseWriter, r *http.Request, call gitCall) error {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return gitError(call.repo, "the request is not gzip: "+err.Error())
		}
		body = z
	}
	req, err := gitpack.ReadRequest(io.LimitReader(body, gitBody))
	if err != nil {
		return gitError(call.repo, err.Error())
	}
	switch req.Command {
	case "ls-refs":
		return g.serveGitRefs(w, r, call, req)
	case "fetch":
		return g.serveGitFetch(w, r, call, req)
	}
	return gitError(call.repo, "git's command "+req.Command+" is not served")
}

func gitError(repo, message string) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: "fetching from git", Place: "https://" + repo, Message: message}
}

// gitWant is a request to the repository at one mirror.
func (s *Set) gitWant(call gitCall, up upstream, req *gitpack.Request) want {
	sum := sha256.Sum256(req.Bytes())
	return want{
		up: up, rel: call.rel + "/git-upload-pack", body: req.Bytes(), accept: "git " + hex.EncodeToString(sum[:]),
		header: http.Header{"Content-Type": {gitRequest}, "Accept": {gitResult}, "Git-Protocol": {"version=2"}},
	}
}

// askGit asks the mirrors of a repository in order.
func (s *Set) askGit(ctx context.Context, call gitCall, of func(upstream) want) (Blob, error) {
	for i := range call.ups {
		call.ups[i].anyError = true
	}
	return s.tryEach(ctx, call.ups, func(up upstream) (Blob, error) { return s.get(ctx, of(up)) })
}

// serveGitRefs answers with the refs of the repository, or of the lock.
func (g *Gateway) serveGitRefs(w http.ResponseWriter, r *http.Request, call gitCall, req *gitpack.Request) error {
	refs, err := g.gitRefs(r.Context(), call)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", gitResult)
	var b bytes.Buffer
	for _, ref := range refs {
		if !req.WantsRef(ref.Name) {
			continue
		}
		gitpack.Line(&b, ref.Line(req))
	}
	gitpack.Flush(&b)
	_, err = w.Write(b.Bytes())
	return err
}

// gitRefs is the refs of a repository: those locked, those first told to a step
// of a lock that is being made, or the mirror's.
func (g *Gateway) gitRefs(ctx context.Context, call gitCall) ([]gitpack.Ref, error) {
	if call.lock != nil && !call.lock.grows {
		return g.locks.gitRefs(call.lock, call.repo), nil
	}
	if known, ok := g.locks.knownRefs(call.lock, call.repo); ok {
		return known, nil
	}
	req := &gitpack.Request{Command: "ls-refs", Args: []string{"peel", "symrefs"}}
	blob, err := g.set.askGit(ctx, call, func(up upstream) want {
		w := g.set.gitWant(call, up, req)
		w.fresh, w.stale, w.limit = mutableFor, true, gitRefs
		w.verify = func(_ context.Context, file string) error { _, err := readRefs(file); return err }
		return w
	})
	if err != nil {
		return nil, err
	}
	refs, err := readRefs(blob.Path)
	if err != nil {
		return nil, err
	}
	g.locks.keepRefs(call.lock, call.repo, refs)
	return refs, nil
}

func readRefs(file string) ([]gitpack.Ref, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return gitpack.ReadRefs(f)
}

// serveGitFetch answers with a pack that holds the commits asked for. Nothing is
// passed on before it was seen to do so.
func (g *Gateway) serveGitFetch(w http.ResponseWriter, r *http.Request, call gitCall, req *gitpack.Request) error {
	ctx := r.Context()
	wants := req.Wants()
	if len(wants) == 0 {
		return gitError(call.repo, "nothing is asked for")
	}
	for _, oid := range wants {
		if call.lock == nil || call.lock.grows || g.locks.hasCommit(call.lock, call.repo, oid) {
			continue
		}
		g.refuseBy(w, r, refusal{
			URL: gatewayURL + "/git/" + call.repo, Rule: RuleLocked,
			Reason: "git " + call.repo + " at " + oid + " is not in " + call.lock.file, Remedy: call.lock.remedy,
		})
		return nil
	}
	plain := req.Plain()
	blob, err := g.set.askGit(ctx, call, func(up upstream) want {
		w := g.set.gitWant(call, up, plain)
		w.fresh = gitForever
		w.verify = func(_ context.Context, file string) error { return g.set.checkPack(file, up, call, plain) }
		return w
	})
	if err != nil {
		return err
	}
	if err := g.recordCommits(ctx, call, wants); err != nil {
		return err
	}
	f, err := os.Open(blob.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", gitResult)
	_, err = io.Copy(w, f)
	return err
}

// checkPack refuses an answer that does not hold what was asked for, and keeps
// the digests of the objects that were.
func (s *Set) checkPack(file string, up upstream, call gitCall, req *gitpack.Request) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	found, err := gitpack.Check(f, filepath.Dir(file), req.Wants(), req.Done())
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "fetching", Place: fetch.Redact(up.at(call.rel)), Err: err,
			Remedy: "the mirror is broken or has been tampered with: nothing of it was kept; try again or use another mirror",
		}
	}
	for oid, o := range found {
		if err := store.WriteFile(s.gitObjectFile(oid), fmt.Appendf(nil, "%s %d\n", o.SHA256, o.Size)); err != nil {
			return err
		}
	}
	return nil
}

// gitObjectFile is where the digest of an object that was seen is kept.
func (s *Set) gitObjectFile(oid string) string { return filepath.Join(s.dir, "git", oid[:2], oid) }

// recordCommits notes the commits a step was given, and the refs it was told
// they are.
func (g *Gateway) recordCommits(ctx context.Context, call gitCall, wants []string) error {
	refs, err := g.gitRefs(ctx, call)
	if err != nil {
		refs = nil // fetched by its name alone
	}
	for _, oid := range wants {
		var sum string
		var size int64
		b, err := os.ReadFile(g.set.gitObjectFile(oid))
		if err == nil {
			_, err = fmt.Sscanf(string(b), "%s %d", &sum, &size)
		}
		if err != nil {
			continue // an answer of a negotiation, without a pack yet
		}
		base := strings.TrimSuffix(fetch.Redact(call.ups[0].at(call.rel)), ".git")
		add := func(name string) {
			m := artifact.Material{
				Ecosystem: Git, URL: base + "@" + name, Path: call.repo + "/" + name, Digest: artifact.Digest("sha256:" + sum), Size: size,
				PURL: gitPURL(call.repo, oid), Public: g.set.netNames.remembered(ctx, call.ups[0].base),
			}
			g.steps.fetched(stepOf(ctx), m)
			g.locks.learn(ctx, g.steps, stepOf(ctx), m)
		}
		add(oid)
		for _, ref := range refs {
			if ref.OID == oid {
				add(ref.Path())
			}
		}
	}
	return nil
}

// gitPURL names a commit (package-url types github, gitlab, bitbucket; generic
// with vcs_url for other hosts).
func gitPURL(repo, oid string) string {
	host, rest, _ := strings.Cut(repo, "/")
	name, _, _ := strings.Cut(host, ".")
	if slices.Contains([]string{"github", "bitbucket", "gitlab"}, name) && strings.Count(rest, "/") == 1 {
		return "pkg:" + name + "/" + escapeAll(strings.ToLower(rest)) + "@" + oid
	}
	return "pkg:generic/" + escape(path.Base(repo)) + "@" + oid + "?vcs_url=" + url.QueryEscape("git+https://"+repo+"@"+oid)
}

var oidAtEnd = regexp.MustCompile(`/([0-9a-f]{40})$`)

// gitRefs is the refs a lock pins of a repository.
func (b *lockBook) gitRefs(s *lockSet, repo string) []gitpack.Ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []gitpack.Ref
	for key := range s.pins {
		rest, ok := strings.CutPrefix(key, Git+" "+repo+"/")
		m := oidAtEnd.FindStringSubmatch("/" + rest)
		if !ok || m == nil || rest == m[1] {
			continue
		}
		out = append(out, gitpack.ParseRefPath(strings.TrimSuffix(rest, "/"+m[1]), m[1]))
	}
	slices.SortFunc(out, func(a, b gitpack.Ref) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (b *lockBook) hasCommit(s *lockSet, repo, oid string) bool {
	_, pinned, _ := b.find(s, Git+" "+repo+"/"+oid)
	return pinned
}

// knownRefs are those told to a step of a lock that is being made.
func (b *lockBook) knownRefs(s *lockSet, repo string) ([]gitpack.Ref, bool) {
	if s == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	refs, ok := s.refs[repo]
	return refs, ok
}

func (b *lockBook) keepRefs(s *lockSet, repo string, refs []gitpack.Ref) {
	if s == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.refs == nil {
		s.refs = map[string][]gitpack.Ref{}
	}
	if _, ok := s.refs[repo]; !ok {
		s.refs[repo] = refs
	}
}
