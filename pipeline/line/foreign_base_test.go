package line

import (
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/mirror"
	"drydock/modules/policy"
	"drydock/modules/registry"
	"drydock/modules/sign"
)

// upstreamImage is an image on a registry of others, which is the mirror too.
type upstreamImage struct {
	t      *testing.T
	server *httptest.Server
	repo   *registry.Repo
	digest artifact.Digest
}

func newUpstreamImage(t *testing.T) *upstreamImage {
	t.Helper()
	u := &upstreamImage{t: t, server: httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))}
	t.Cleanup(u.server.Close)
	host := strings.TrimPrefix(u.server.URL, "http://")
	img, err := random.Image(256, 1)
	u.check(err)
	cfg, err := img.ConfigFile()
	u.check(err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, cfg)
	u.check(err)
	ref, err := name.ParseReference(host + "/their/thing:1")
	u.check(err)
	u.check(remote.Write(ref, img))
	d, err := img.Digest()
	u.check(err)
	u.digest = artifact.Digest(d.String())
	client, err := registry.NewClient(registry.Options{})
	u.check(err)
	u.repo, err = client.Repo(registry.Location{Name: "theirs", Base: host}, "their/thing")
	u.check(err)
	return u
}

func (u *upstreamImage) check(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

// signer makes a key pair and, if asked, signs the image with it.
func (u *upstreamImage) signer(signs bool) catalog.KeyFile {
	u.t.Helper()
	s, err := sign.LoadOrGenerate(filepath.Join(u.t.TempDir(), "keys"), nil, true)
	u.check(err)
	if signs {
		_, err = s.Sign(u.t.Context(), u.repo, u.digest)
		u.check(err)
	}
	k, err := s.Key()
	u.check(err)
	return catalog.KeyFile{Place: "catalog/bases/keys/theirs.pub", PEM: k.PEM}
}

func (u *upstreamImage) build(verify *catalog.Verify, lock *base.Lock, dir string) (*base.Result, error) {
	u.t.Helper()
	spec, err := baseSpec(catalog.Base{
		Name: "theirs", Kind: "oci", Image: "their/thing@" + string(u.digest), Verify: verify, Place: "catalog/bases/theirs.yaml:2",
		Platforms: []artifact.Platform{{OS: "linux", Architecture: "amd64"}},
	})
	if err != nil {
		return nil, err
	}
	set, err := mirror.Discover(u.t.Context(), mirror.Config{OCI: mirror.Setting{URLs: []string{u.server.URL}}},
		mirror.Host{Environ: []string{"HOME=" + dir}, Home: dir, EtcApt: dir}, filepath.Join(dir, "mirror"))
	u.check(err)
	b := &base.Builder{
		Mirrors: set, CacheDir: filepath.Join(dir, "bases"),
		Now: func() time.Time { return time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC) },
	}
	return b.Build(u.t.Context(), spec, lock)
}

// An upstream image becomes a base when enough of the trusted signers signed it,
// and while the trust holds.
func TestForeignBase(t *testing.T) {
	t.Parallel()
	u := newUpstreamImage(t)
	one, two, other := u.signer(true), u.signer(true), u.signer(false)
	day := func(d int) *policy.Date { return &policy.Date{Time: time.Date(2026, 11, d, 0, 0, 0, 0, time.UTC)} }
	for name, c := range map[string]struct {
		verify catalog.Verify
		refuse string // "" is accepted
	}{
		"one of two":             {catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{other, one}}, ""},
		"both":                   {catalog.Verify{Threshold: 2, Files: []catalog.KeyFile{one, two}, Expires: day(22)}, ""},
		"too few":                {catalog.Verify{Threshold: 2, Files: []catalog.KeyFile{one, other}}, "1 of the trusted signers signed it, 2 must"},
		"one key twice":          {catalog.Verify{Threshold: 2, Files: []catalog.KeyFile{one, one}}, "1 of the trusted signers signed it, 2 must"},
		"another's":              {catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{other}}, "0 of the trusted signers signed it, 1 must"},
		"the trust expired":      {catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{one}, Expires: day(21)}, "expired on 2026-11-21"},
		"a key that is no key":   {catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{{Place: "k.pub", PEM: []byte("x")}}}, "not a public key"},
		"both, by one signature": {catalog.Verify{Threshold: 3, Files: []catalog.KeyFile{one, two, two}}, "2 of the trusted signers signed it, 3 must"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := u.build(&c.verify, nil, t.TempDir())
			if c.refuse == "" {
				if err != nil || r.Digest != u.digest || r.Lock.Request.Signed == nil {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.refuse) || len(artifact.Remedies(err)) == 0 {
				t.Errorf("got %v, want %q", err, c.refuse)
			}
		})
	}
	unsigned := newUpstreamImage(t)
	if _, err := unsigned.build(&catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{one}}, nil, t.TempDir()); artifact.ExitCode(err) != artifact.ExitGate ||
		!strings.Contains(err.Error(), "it is not signed") {
		t.Errorf("unsigned: %v", err)
	}
}

// What was built under one trust is not taken under another, nor after it ended.
func TestForeignBaseTrustMoves(t *testing.T) {
	t.Parallel()
	u := newUpstreamImage(t)
	one, two := u.signer(true), u.signer(true)
	dir := t.TempDir()
	v := &catalog.Verify{Threshold: 1, Files: []catalog.KeyFile{one}}
	first, err := u.build(v, nil, dir)
	u.check(err)
	again, err := u.build(v, first.Lock, dir)
	if err != nil || !again.Cached {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	if _, err := u.build(&catalog.Verify{Threshold: 2, Files: []catalog.KeyFile{one, two}}, first.Lock, dir); artifact.ExitCode(err) != artifact.ExitUsage ||
		!strings.Contains(err.Error(), "other signers") {
		t.Errorf("under another trust: %v", err)
	}
	v.Expires = &policy.Date{Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := u.build(v, first.Lock, dir); artifact.ExitCode(err) != artifact.ExitGate {
		t.Errorf("after it ended: %v", err)
	}
}
