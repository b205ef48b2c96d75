package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"

	"drydock/modules/artifact"
)

func TestPushLayoutByDigestOnce(t *testing.T) {
	var writes atomic.Int64
	_, loc := serveStage(t, countWrites(&writes))
	r := openRepo(t, newClient(t, Options{}), loc, "app")
	dir, d, _ := imageLayout(t)
	if written, err := r.PushLayout(t.Context(), dir, d); err != nil || !written {
		t.Fatalf("first push: %v, %v", written, err)
	}
	before := writes.Load()
	if written, err := r.PushLayout(t.Context(), dir, d); err != nil || written {
		t.Fatalf("second push: %v, %v", written, err)
	}
	if writes.Load() != before {
		t.Error("the second push wrote")
	}
	m, err := r.Manifest(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Children) != 2 || m.Children[1].Platform.String() != "linux/arm64" {
		t.Errorf("children: %+v", m.Children)
	}
	if want := loc.Base + "/app@" + string(d); r.Subject(d).String() != want {
		t.Errorf("subject %s, want %s", r.Subject(d), want)
	}
}

func TestPushLayoutWithDamagedBlob(t *testing.T) {
	r := embeddedRepo(t, "quarantine", "app")
	img, err := random.Index(64, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := writeLayout(t, img)
	_, err = r.PushLayout(t.Context(), dir, artifact.Digest("sha256:"+strings.Repeat("0", 64)))
	wantError(t, err, artifact.KindFault, "reading image layout", dir)
}

// What hangs on an image: referrers of index and child, a referrer of a
// referrer, cosign's tags of index and child.
func furnish(t *testing.T, r *Repo) (d artifact.Digest, referrers []artifact.Digest, tags map[string]artifact.Digest) {
	t.Helper()
	d = pushed(t, r)
	m, err := r.Manifest(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	child := m.Children[0].Digest
	a := putReferrer(t, r, d, "one")
	referrers = []artifact.Digest{a, putReferrer(t, r, d, "two"), putReferrer(t, r, child, "three"), putReferrer(t, r, a, "four")}
	tags = map[string]artifact.Digest{}
	for _, tag := range []string{
		"sha256-" + d.Hex() + ".sig", "sha256-" + d.Hex() + ".att", "sha256-" + child.Hex() + ".att", "sha256-" + child.Hex() + ".sbom",
	} {
		tags[tag] = putTag(t, r, tag, map[string]string{tag: "type/" + tag})
	}
	return d, referrers, tags
}

func checkFurnished(t *testing.T, r *Repo, d artifact.Digest, referrers []artifact.Digest, tags map[string]artifact.Digest) {
	t.Helper()
	m, err := r.Manifest(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	got := map[artifact.Digest]bool{}
	for _, s := range []artifact.Digest{d, m.Children[0].Digest, referrers[0]} {
		list, err := r.referrers(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			got[artifact.Digest(l.Digest.String())] = true
		}
	}
	for _, want := range referrers {
		if has, err := r.Has(t.Context(), want); err != nil || !has || !got[want] {
			t.Errorf("referrer %s: there %v, listed %v, %v", want, has, got[want], err)
		}
	}
	for tag, want := range tags {
		if now, err := r.Resolve(t.Context(), tag); err != nil || now != want {
			t.Errorf("tag %s is %s, want %s (%v)", tag, now, want, err)
		}
	}
}

func TestCopyCarriesEverything(t *testing.T) {
	var writes atomic.Int64
	_, plain := serveStage(t, countWrites(&writes))
	for name, to := range map[string]func(*testing.T) Location{
		"embedded":                 func(*testing.T) Location { return Location{Name: "staging"} },
		"olareg":                   func(*testing.T) Location { return plain },
		"without a referrers API":  startDockerRegistry,
		"within the same registry": func(*testing.T) Location { return Location{Name: "quarantine"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, Options{Embedded: openEmbedded(t)})
			src := openRepo(t, c, Location{Name: "quarantine"}, "apps/web")
			dst := openRepo(t, c, to(t), "other/web")
			d, referrers, tags := furnish(t, src)
			written, err := Copy(t.Context(), src, dst, d)
			if err != nil || !written {
				t.Fatalf("Copy = %v, %v", written, err)
			}
			checkFurnished(t, dst, d, referrers, tags)
			before := writes.Load()
			written, err = Copy(t.Context(), src, dst, d)
			if err != nil || written || writes.Load() != before {
				t.Errorf("second copy: written %v, %d writes, %v", written, writes.Load()-before, err)
			}
			// And back: from a registry without the API the tag is followed.
			again := openRepo(t, c, Location{Name: "back"}, "web")
			if _, err := Copy(t.Context(), dst, again, d); err != nil {
				t.Fatal(err)
			}
			checkFurnished(t, again, d, referrers, tags)
		})
	}
}

func TestCopyKeepsWhatOnlyTheDestinationHas(t *testing.T) {
	c := newClient(t, Options{Embedded: openEmbedded(t)})
	src := openRepo(t, c, Location{Name: "quarantine"}, "web")
	dst := openRepo(t, c, Location{Name: "staging"}, "web")
	d := pushed(t, src)
	tag := "sha256-" + d.Hex() + ".att"
	putTag(t, src, tag, map[string]string{"new scan": "scan"})
	putTag(t, dst, tag, map[string]string{"old scan": "scan", "approval": "approved"})
	if _, err := Copy(t.Context(), src, dst, d); err != nil {
		t.Fatal(err)
	}
	m, err := dst.manifest(t.Context(), dst.name.Tag(tag))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"new scan": true, "old scan": false, "approval": true} {
		blob := newBytesLayer([]byte(text), "")
		if got := strings.Contains(string(m.Raw), blob.desc.Digest.Hex); got != want {
			t.Errorf("%s there: %v, want %v", text, got, want)
		}
	}
	img, err := dst.session.puller.Get(t.Context(), dst.name.Tag(tag))
	if err != nil {
		t.Fatal(err)
	}
	if i, err := img.Image(); err != nil {
		t.Fatal(err)
	} else if layers, err := i.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("%d layers, %v", len(layers), err)
	}
	if written, err := Copy(t.Context(), src, dst, d); err != nil || written {
		t.Errorf("second copy: %v, %v", written, err)
	}
}

func TestConcurrentReferrersAreAllKept(t *testing.T) {
	const n = 40
	push := func(t *testing.T, r *Repo) int {
		t.Helper()
		d := pushed(t, r)
		type manifest struct {
			raw []byte
			d   artifact.Digest
		}
		var all []manifest
		for i := range n {
			raw, rd := refer(t, r, d, fmt.Sprint("note ", i))
			all = append(all, manifest{raw, rd})
		}
		var wg sync.WaitGroup
		for _, m := range all {
			wg.Go(func() {
				// Past our own lock: other clients have none.
				if err := r.session.pusher.Put(t.Context(), r.Ref(m.d), bytesManifest{m.raw, types.OCIManifestSchema1}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		list, err := r.referrers(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if got := push(t, embeddedRepo(t, "quarantine", "app")); got != n {
		t.Errorf("%d of %d referrers are listed", got, n)
	}
	// olareg alone, to see whether the lock is still needed.
	bare := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreDir, RootDir: t.TempDir()}})
	srv, loc := serveStage(t, func(http.Handler) http.Handler { return bare })
	defer srv.Close()
	got := push(t, openRepo(t, newClient(t, Options{}), loc, "app"))
	t.Logf("without the lock %d of %d referrers are listed", got, n)
}

func TestCopySaysWhichSideFailed(t *testing.T) {
	var broken atomic.Bool
	trouble := func(match string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if broken.Load() && strings.Contains(r.Method+" "+r.URL.Path, match) {
					panic(http.ErrAbortHandler) // the connection dies
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	_, from := serveStage(t, trouble("GET /v2/team/web/blobs/"))
	_, to := serveStage(t, trouble("PATCH "))
	for _, c := range []struct {
		side     string
		src, dst Location
	}{
		{"reading from " + from.Base, from, Location{Name: "staging"}},
		{"writing to " + to.Base, Location{Name: "quarantine"}, to},
	} {
		broken.Store(false)
		client := newClient(t, Options{Embedded: openEmbedded(t)})
		src, dst := openRepo(t, client, c.src, "web"), openRepo(t, client, c.dst, "web")
		d := pushed(t, src)
		broken.Store(true)
		start := time.Now()
		_, err := Copy(t.Context(), src, dst, d)
		wantError(t, err, artifact.KindFault, c.side)
		if time.Since(start) > 20*time.Second {
			t.Errorf("took %s", time.Since(start))
		}
		broken.Store(false)
		if has, err := dst.Has(t.Context(), d); err != nil || has {
			t.Errorf("after a failed copy the image is there: %v, %v", has, err)
		}
		if _, err := Copy(t.Context(), src, dst, d); err != nil {
			t.Errorf("the second try: %v", err)
		}
	}
}

func TestTagAndResolve(t *testing.T) {
	r := embeddedRepo(t, "staging", "app")
	d := pushed(t, r)
	for range 2 {
		if err := r.Tag(t.Context(), "v1.2", d); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Resolve(t.Context(), "v1.2"); err != nil || got != d {
		t.Errorf("Resolve = %s, %v", got, err)
	}
	_, err := r.Resolve(t.Context(), "v9")
	wantError(t, err, artifact.KindFault, "v9")
	if !NotFound(err) {
		t.Error("not known as missing")
	}
	wantError(t, r.Tag(t.Context(), "no such/tag", d), artifact.KindUsage)
}

func TestImagesListsWhatIsKnown(t *testing.T) {
	c := newClient(t, Options{Embedded: openEmbedded(t)})
	r := openRepo(t, c, Location{Name: "staging"}, "apps/web")
	if list, err := r.Images(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("empty: %v, %v", list, err)
	}
	d, _, _ := furnish(t, r)
	list, err := r.Images(t.Context())
	if err != nil || len(list) != 1 || list[0] != d {
		t.Errorf("Images = %v, %v; want %s", list, err, d)
	}
	repos, err := c.Repositories(t.Context(), Location{Name: "staging"})
	if err != nil || len(repos) != 1 || repos[0] != "apps/web" {
		t.Errorf("Repositories = %v, %v", repos, err)
	}
}

func TestMissingImageIsNotFound(t *testing.T) {
	r := embeddedRepo(t, "staging", "app")
	_, err := r.Manifest(t.Context(), artifact.Digest("sha256:"+strings.Repeat("a", 64)))
	wantError(t, err, artifact.KindFault, "staging.drydock.internal/app")
	if !errors.Is(err, ErrNotFound) {
		t.Error("not ErrNotFound")
	}
}
