package promote

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/modules/provenance"
	"drydock/modules/registry"
	"drydock/modules/sign"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

type harbour struct {
	t        *testing.T
	embedded *registry.Embedded
	client   *registry.Client
	from, to registry.Location
	repo     *registry.Repo
	subject  artifact.Subject
	children []registry.Manifest
	signer   *sign.Signer
	key      sign.Key
	writes   *atomic.Int64 // at the destination
}

// newHarbour has an unsigned two-platform image in quarantine, and a staging on
// the other side of a TCP connection that counts writes.
func newHarbour(t *testing.T) *harbour {
	t.Helper()
	h := &harbour{t: t, writes: &atomic.Int64{}}
	e, err := registry.Open(t.Context(), t.TempDir())
	check(t, err)
	t.Cleanup(func() { _ = e.Close() })
	h.embedded = e
	h.client, err = registry.NewClient(registry.Options{Embedded: e})
	check(t, err)
	h.from, err = e.Location("quarantine")
	check(t, err)
	h.to = h.destination(t)
	h.repo, err = h.client.Repo(h.from, "apps/web")
	check(t, err)
	h.subject = h.repo.Subject(h.push(t))
	m, err := h.repo.Manifest(t.Context(), h.subject.Digest)
	check(t, err)
	h.children = m.Children
	h.signer, err = sign.LoadOrGenerate(filepath.Join(t.TempDir(), "keys"), nil, true)
	check(t, err)
	h.key, err = h.signer.Key()
	check(t, err)
	return h
}

// destination is another embedded registry, behind a server that counts.
func (h *harbour) destination(t *testing.T) registry.Location {
	t.Helper()
	e, err := registry.Open(t.Context(), t.TempDir())
	check(t, err)
	t.Cleanup(func() { _ = e.Close() })
	_, err = e.Location("staging")
	check(t, err)
	handler, err := e.Handler("staging")
	check(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.writes.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return registry.Location{Name: "staging", Base: srv.Listener.Addr().String() + "/prod"}
}

func (h *harbour) push(t *testing.T) artifact.Digest {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := random.Image(256, 1)
		check(t, err)
		cf, err := img.ConfigFile()
		check(t, err)
		cf.OS, cf.Architecture, cf.Config.User = "linux", arch, "65532"
		img, err = mutate.ConfigFile(mutate.MediaType(img, types.OCIManifestSchema1), cf)
		check(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	check(t, err)
	check(t, l.AppendIndex(index))
	d, err := index.Digest()
	check(t, err)
	_, err = h.repo.PushLayout(t.Context(), dir, artifact.Digest(d.String()))
	check(t, err)
	return artifact.Digest(d.String())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *harbour) request() Request {
	return Request{
		Subject: h.subject, From: h.from, To: h.to, Now: now, Trusted: []sign.Key{h.key},
		Policy: policy.Policy{Version: 1, Name: "staging"},
	}
}

// furnish signs everything and attests what a policy asks for; findings are of
// every platform.
func (h *harbour) furnish(s *sign.Signer, findings ...artifact.Finding) {
	h.t.Helper()
	t := h.t
	prov, err := provenance.Predicate(provenance.Input{
		Image: "apps/web", Trigger: "branch", Hermetic: true,
		Engine: provenance.Engine{Kind: "embedded", Tier: "T1", Version: "0.33.0"},
	})
	check(t, err)
	var counts artifact.Counts
	counts.Critical = len(findings)
	scan := artifact.ScanReport{
		Version: 1, Scanner: "grype 0", Packages: map[string]int{"deb": 1}, Counts: counts, Findings: findings,
		Database: artifact.Database{
			Source: "file", Schema: "6", Built: now.Add(-time.Hour), Digest: artifact.Digest("sha256:" + strings.Repeat("d", 64)),
			Knowledge: map[string]artifact.Knowledge{"deb": {Covered: true, Unfixed: true, Severities: true}},
		},
	}
	test := artifact.TestReport{
		Version: 1, Passed: 1, Results: []artifact.TestResult{{Name: "answers", Kind: "service", Status: "passed"}},
		Confinement: artifact.Confinement{Network: "loopback", User: "65532:65532", NoNewPrivs: true},
	}
	_, err = s.Sign(t.Context(), h.repo, h.subject.Digest)
	check(t, err)
	_, err = s.Attest(t.Context(), h.repo, h.subject.Digest, sign.Statement{PredicateType: artifact.PredicateProvenance, Predicate: prov})
	check(t, err)
	for _, c := range h.children {
		_, err = s.Attest(t.Context(), h.repo, c.Digest,
			fact(t, artifact.PredicateSPDX, map[string]any{
				"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "web",
				"packages": []any{map[string]any{"SPDXID": "SPDXRef-1", "name": "libc6", "versionInfo": "2"}},
			}),
			fact(t, artifact.PredicateScan, scan), fact(t, artifact.PredicateTest, test))
		check(t, err)
	}
}

func fact(t *testing.T, predicateType string, v any) sign.Statement {
	t.Helper()
	b, err := json.Marshal(v)
	check(t, err)
	return sign.Statement{PredicateType: predicateType, Predicate: b}
}

func TestPromoteCopiesWhatPasses(t *testing.T) {
	h := newHarbour(t)
	h.furnish(h.signer)
	res, err := Promote(t.Context(), h.client, h.request())
	if err != nil {
		t.Fatalf("%v\n%+v", err, res)
	}
	if res.Verdict.Outcome != artifact.Pass || !res.Copied || res.Target.Digest != h.subject.Digest {
		t.Errorf("%+v", res)
	}
	known, err := Read(t.Context(), h.client, h.to, res.Target, []sign.Key{h.key})
	check(t, err)
	if len(known.Evidence) != 7 || len(known.Signers) != 1 || len(known.Platforms) != 2 || known.Users[h.children[0].Digest] != "65532" {
		t.Errorf("%+v", known)
	}
	before := h.writes.Load()
	res, err = Promote(t.Context(), h.client, h.request())
	if err != nil || res.Copied || h.writes.Load() != before {
		t.Errorf("again: %+v, %d writes, %v", res, h.writes.Load()-before, err)
	}
	list, err := List(t.Context(), h.client, h.to, []string{"apps/web"})
	if err != nil || len(list) != 1 || list[0] != res.Target {
		t.Errorf("List = %v, %v", list, err)
	}
	if list, err = List(t.Context(), h.client, h.from, nil); err != nil || len(list) != 1 || list[0] != h.subject {
		t.Errorf("List = %v, %v", list, err)
	}
}

// TestPromoteToOtherRegistries goes to one with TLS and a password, and to
// Debian's, which has no referrers API; and on from there.
func TestPromoteToOtherRegistries(t *testing.T) {
	h := newHarbour(t)
	h.furnish(h.signer)
	for name, open := range map[string]func(*testing.T) (*registry.Client, registry.Location){
		"TLS and password": h.guarded, "docker-registry": h.distribution,
	} {
		t.Run(name, func(t *testing.T) {
			r := h.request()
			client, to := open(t)
			r.To = to
			res, err := Promote(t.Context(), client, r)
			if err != nil || !res.Copied {
				t.Fatalf("%+v, %v", res, err)
			}
			if res, err = Promote(t.Context(), client, r); err != nil || res.Copied {
				t.Errorf("again: %+v, %v", res, err)
			}
			r.Subject, r.From, r.To = res.Target, to, registry.Location{Name: fmt.Sprintf("production%d", len(name))}
			if res, err = Promote(t.Context(), client, r); err != nil || !res.Copied || res.Verdict.Outcome != artifact.Pass {
				t.Errorf("onwards: %+v, %v", res, err)
			}
		})
	}
}

// guarded is a registry with a private CA's certificate and a password.
func (h *harbour) guarded(t *testing.T) (*registry.Client, registry.Location) {
	e, err := registry.Open(t.Context(), t.TempDir())
	check(t, err)
	t.Cleanup(func() { _ = e.Close() })
	handler, err := e.Handler("staging")
	check(t, err)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "ci" || p != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	addr := srv.Listener.Addr().String()
	client, err := registry.NewClient(registry.Options{
		Embedded: h.embedded, Trust: ca,
		Environ: []string{"CI_REGISTRY=" + addr, "CI_REGISTRY_USER=ci", "CI_REGISTRY_PASSWORD=s3cret"},
	})
	check(t, err)
	return client, registry.Location{Name: "staging", Base: addr + "/team"}
}

// distribution is Debian's docker-registry.
func (h *harbour) distribution(t *testing.T) (*registry.Client, registry.Location) {
	path, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := l.Addr().String()
	check(t, l.Close())
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	check(t, os.WriteFile(conf, []byte(fmt.Sprintf(
		"version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %q}\nhttp: {addr: %q}\n", dir, addr)), 0o600))
	cmd := exec.Command(path, "serve", conf)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return h.client, registry.Location{Name: "staging", Base: addr + "/team"}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("docker-registry does not listen")
	return nil, registry.Location{}
}

func TestPromoteRefuses(t *testing.T) {
	finding := artifact.Finding{ID: "CVE-2026-1", Severity: "critical", Package: "libc6", Version: "1", Type: "deb", FixState: "fixed", FixedIn: []string{"2"}}
	for name, c := range map[string]struct {
		prepare func(h *harbour)
		change  func(r *Request)
		outcome artifact.Outcome
		rule    string
	}{
		"unsigned":         {func(*harbour) {}, nil, artifact.Unknown, "signature/unsigned"},
		"a critical":       {func(h *harbour) { h.furnish(h.signer, finding) }, nil, artifact.Fail, "vulnerabilities/"},
		"nobody trusted":   {func(h *harbour) { h.furnish(h.signer) }, func(r *Request) { r.Trusted = nil }, artifact.Unknown, "signature/"},
		"stale database":   {func(h *harbour) { h.furnish(h.signer) }, func(r *Request) { r.Now = now.AddDate(0, 1, 0) }, artifact.Unknown, "vulnerabilities/"},
		"evidence missing": {func(h *harbour) { _, err := h.signer.Sign(h.t.Context(), h.repo, h.subject.Digest); check(h.t, err) }, nil, artifact.Unknown, "sbom/missing"},
		"another's evidence": {func(h *harbour) {
			other, err := sign.LoadOrGenerate(filepath.Join(h.t.TempDir(), "keys"), nil, true)
			check(h.t, err)
			h.furnish(other)
			_, err = h.signer.Sign(h.t.Context(), h.repo, h.subject.Digest)
			check(h.t, err)
		}, func(r *Request) { r.Policy.AllowUnknown = false }, artifact.Unknown, "signature/rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarbour(t)
			c.prepare(h)
			r := h.request()
			if c.change != nil {
				c.change(&r)
			}
			res, err := Promote(t.Context(), h.client, r)
			if artifact.ExitCode(err) != artifact.ExitGate {
				t.Fatalf("exit code %d: %v", artifact.ExitCode(err), err)
			}
			if res.Verdict.Outcome != c.outcome || len(artifact.Remedies(err)) == 0 {
				t.Errorf("%+v, %v", res.Verdict, err)
			}
			found := false
			for _, reason := range res.Verdict.Reasons {
				found = found || strings.HasPrefix(reason.Rule, c.rule)
				if reason.Reason == "" || reason.Remedy == "" || reason.Place == "" {
					t.Errorf("an incomplete reason: %+v", reason)
				}
			}
			if !found {
				t.Errorf("no reason of %s in %+v", c.rule, res.Verdict.Reasons)
			}
			if res.Copied || h.writes.Load() != 0 {
				t.Errorf("a refused image left %d writes", h.writes.Load())
			}
		})
	}
}

func TestPromoteByWaiverAndByAllowedUnknown(t *testing.T) {
	h := newHarbour(t)
	h.furnish(h.signer, artifact.Finding{ID: "CVE-2026-1", Severity: "critical", Package: "libc6", Version: "1", Type: "deb", FixState: "fixed"})
	r := h.request()
	r.Policy.Waivers = []policy.Waiver{{
		Rule: "vulnerabilities", ID: "CVE-2026-1", Owner: "ops", Reason: "not reachable", Expires: policy.Date{Time: now},
	}}
	res, err := Promote(t.Context(), h.client, r)
	if err != nil || res.Verdict.Outcome != artifact.Waived || !res.Copied {
		t.Errorf("%+v, %v", res, err)
	}
	h = newHarbour(t)
	h.furnish(h.signer)
	r = h.request()
	r.Now, r.Policy.AllowUnknown = now.AddDate(0, 1, 0), true // the database is old by then
	res, err = Promote(t.Context(), h.client, r)
	if err != nil || res.Verdict.Outcome != artifact.Unknown || len(res.Verdict.Reasons) == 0 || !res.Copied {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestPromoteUsageErrors(t *testing.T) {
	h := newHarbour(t)
	for name, change := range map[string]func(*Request){
		"a digest that is not there": func(r *Request) { r.Subject.Digest = artifact.Digest("sha256:" + strings.Repeat("1", 64)) },
		"no digest":                  func(r *Request) { r.Subject.Digest = "" },
		"a tag for a digest":         func(r *Request) { r.Subject.Digest = "latest" },
		"another registry":           func(r *Request) { r.Subject.Repository = "registry.example.com/apps/web" },
		"the same stage":             func(r *Request) { r.To = r.From },
	} {
		t.Run(name, func(t *testing.T) {
			r := h.request()
			change(&r)
			_, err := Promote(t.Context(), h.client, r)
			if artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) == 0 {
				t.Errorf("exit code %d: %v", artifact.ExitCode(err), err)
			}
		})
	}
	if h.writes.Load() != 0 {
		t.Error("something was written")
	}
}

func TestPromoteWhenTheDestinationIsDown(t *testing.T) {
	h := newHarbour(t)
	h.furnish(h.signer)
	r := h.request()
	r.To.Base = "127.0.0.1:1/prod"
	res, err := Promote(t.Context(), h.client, r)
	if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "writing to 127.0.0.1:1/prod/apps/web") {
		t.Errorf("%v", err)
	}
	if res == nil || res.Verdict.Outcome != artifact.Pass {
		t.Errorf("%+v", res)
	}
}

// Tags lead to the image at the destination when it is admitted, to nothing
// when it is refused, and only those of what the provenance says it is.
func TestPromotePublishesTags(t *testing.T) {
	h := newHarbour(t)
	h.furnish(h.signer)
	r := h.request()
	asked := ""
	r.Tags = func(image, variant string) []string {
		asked = image + ":" + variant
		return []string{"1.2", "latest"}
	}
	res, err := Promote(t.Context(), h.client, r)
	check(t, err)
	if strings.Join(res.Tags, " ") != "1.2 latest" || asked != "apps/web:" {
		t.Errorf("published %v, asked for %q", res.Tags, asked)
	}
	to, err := h.client.Repo(h.to, "apps/web")
	check(t, err)
	for _, tag := range res.Tags {
		if d, err := to.Resolve(t.Context(), tag); err != nil || d != r.Subject.Digest {
			t.Errorf("tag %s leads to %s: %v", tag, d, err)
		}
	}
	written := h.writes.Load()
	if res, err = Promote(t.Context(), h.client, r); err != nil || len(res.Tags) != 2 || h.writes.Load() != written {
		t.Errorf("the second time: %+v, %v, %d writes", res, err, h.writes.Load()-written)
	}

	bad := newHarbour(t) // nothing is known of it
	r = bad.request()
	r.Tags = func(string, string) []string { return []string{"latest"} }
	if res, err := Promote(t.Context(), bad.client, r); err == nil || len(res.Tags) != 0 || bad.writes.Load() != 0 {
		t.Errorf("refused, and yet: %+v, %v", res, err)
	}
}
