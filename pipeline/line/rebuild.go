package line

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/mirror/lockfile"
	"drydock/modules/promote"
	"drydock/modules/provenance"
	"drydock/modules/registry"
	"drydock/modules/sign"
	"drydock/pipeline/changed"
	"drydock/pipeline/plan"
	"drydock/pipeline/results"
)

// RebuildOptions of Rebuild.
type RebuildOptions struct {
	TrustKey string // public key to trust; "" is the signer's own
	Attest   bool   // sign the outcome beside the image
	// Load reads the catalog of a checkout, in which dir is the folder of the
	// catalog, or of the project.
	Load func(ctx context.Context, dir string) (Sources, error)
}

// Sources are a catalog and where its images' files are.
type Sources struct {
	Catalog    *catalog.Catalog
	CatalogDir string
	ProjectDir string // "" without a project
}

// Rebuilt is what came of building one subject again.
type Rebuilt struct {
	Subject  artifact.Subject        `json:"subject"`
	Outcome  string                  `json:"outcome"`          // identical, differs or impossible
	Reason   string                  `json:"reason,omitempty"` // of impossible
	Remedies []string                `json:"remedies,omitempty"`
	Report   *artifact.RebuildReport `json:"report,omitempty"` // nil where it is impossible
	Attested bool                    `json:"attested"`
	Exit     int                     `json:"exit"`
}

// again is the building of an image again: what its steps are held to.
type again struct {
	nonce string
	image string
	lock  *lockfile.Lock // of what its provenance says was fetched
}

// Rebuild builds subjects again from their provenance and compares. What keeps
// one from being built is its outcome, not an error.
func (l *Line) Rebuild(ctx context.Context, subjects []artifact.Subject, o RebuildOptions) ([]Rebuilt, error) {
	trusted, err := l.trusted(o.TrustKey)
	if err != nil {
		return nil, err
	}
	var signer *sign.Signer
	if o.Attest {
		if signer, err = l.signer.get(); err != nil {
			return nil, err
		}
		if signer == nil {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "attesting", Message: "no signing key is configured, and in CI none is made",
				Remedy: "set " + envSigningKey + " to a cosign private key (a file or its PEM), and COSIGN_PASSWORD",
			}
		}
	}
	out := []Rebuilt{}
	for _, s := range subjects {
		r, err := l.rebuild(ctx, s, trusted, o.Load)
		if err != nil {
			return out, err
		}
		if signer != nil && r.Report != nil {
			if r.Attested, err = l.attestRebuild(ctx, signer, s, r.Report); err != nil {
				return out, err
			}
		}
		out = append(out, *r)
	}
	return out, nil
}

// attestRebuild signs an outcome beside the image; true also when that very
// outcome is signed already.
func (l *Line) attestRebuild(ctx context.Context, signer *sign.Signer, s artifact.Subject, r *artifact.RebuildReport) (bool, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	repo, _, err := l.repoOf(s)
	if err != nil {
		return false, err
	}
	_, err = signer.Attest(ctx, repo, s.Digest, sign.Statement{PredicateType: artifact.PredicateRebuild, Predicate: raw})
	return err == nil, err
}

// repoOf opens the repository a subject is in.
func (l *Line) repoOf(s artifact.Subject) (*registry.Repo, catalog.Stage, error) {
	stage, at, err := l.where(s)
	if err != nil {
		return nil, stage, err
	}
	repo, err := l.repo(stage.Name, at)
	return repo, stage, err
}

// impossible is the outcome of what keeps an image from being built again; an
// error of the call itself stays one.
func impossible(s artifact.Subject, err error) (*Rebuilt, error) {
	exit := artifact.ExitCode(err)
	if exit == artifact.ExitInterrupted || exit == artifact.ExitInternal {
		return nil, err
	}
	return &Rebuilt{Subject: s, Outcome: artifact.RebuildImpossible, Reason: err.Error(), Remedies: artifact.Remedies(err), Exit: exit}, nil
}

func cannot(place, message, remedy string) error {
	return &artifact.Error{Kind: artifact.KindGate, Op: "building again", Place: place, Message: message, Remedy: remedy}
}

// rebuild builds one subject again.
func (l *Line) rebuild(ctx context.Context, s artifact.Subject, trusted []sign.Key, load func(context.Context, string) (Sources, error)) (*Rebuilt, error) {
	known, in, sum, err := l.provenanceOf(ctx, s, trusted)
	if err != nil {
		return impossible(s, err)
	}
	l.sweepRebuilds()
	dir, err := os.MkdirTemp(l.cfg.Cache, rebuildPrefix)
	if err != nil {
		return nil, fmt.Errorf("building again: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg, p, err := l.configAgain(ctx, in, dir, load)
	if err != nil {
		return impossible(s, err)
	}
	inner := New(ctx, cfg)
	r, err := inner.buildAgain(ctx, p, &original{Known: known, line: l}, in, dir)
	if cerr := inner.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return impossible(s, err)
	}
	r.Provenance = sum
	out := &Rebuilt{Subject: s, Outcome: r.Outcome, Report: r}
	if r.Outcome == artifact.RebuildDiffers {
		out.Exit = artifact.ExitGate
	}
	return out, nil
}

const rebuildPrefix = ".rebuild-"

// sweepRebuilds removes what runs that were killed left behind.
func (l *Line) sweepRebuilds() {
	left, err := filepath.Glob(filepath.Join(l.cfg.Cache, rebuildPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(dir)
		}
	}
}

// provenanceOf reads what trusted keys signed of a subject and finds how it was
// made.
func (l *Line) provenanceOf(ctx context.Context, s artifact.Subject, trusted []sign.Key) (*promote.Known, *provenance.Input, artifact.Digest, error) {
	client, err := l.stages.get()
	if err != nil {
		return nil, nil, "", err
	}
	at, _, err := l.where(s)
	if err != nil {
		return nil, nil, "", err
	}
	known, err := promote.Read(ctx, client, location(at), s, trusted)
	if err != nil {
		return nil, nil, "", err
	}
	why := "no provenance of it is signed by a trusted key"
	for _, e := range known.Evidence {
		if e.PredicateType != artifact.PredicateProvenance || e.Subject != s.Digest {
			continue
		}
		in, err := provenance.Parse(e.Predicate)
		if err != nil {
			why = err.Error()
			continue
		}
		if why = in.Reproducible(); why != "" {
			continue
		}
		if path, twice := in.Ambiguous(); twice {
			why = "its provenance names two contents of " + path
			continue
		}
		sum, err := results.NewContent(e.Predicate)
		return known, &in, sum, err
	}
	for _, r := range known.Rejected {
		if r.PredicateType == artifact.PredicateProvenance {
			why += "; one was not believed: " + r.Reason
		}
	}
	return nil, nil, "", cannot(s.String(), why, "give the signer's public key with --trust-key; an image built from a clean commit on the embedded engine can be built again")
}

// configAgain is the configuration of a line that builds an image again, from
// the sources of its commit, with the mirrors of now, and the plan of that.
func (l *Line) configAgain(ctx context.Context, in *provenance.Input, dir string, load func(context.Context, string) (Sources, error)) (Config, *plan.Plan, error) {
	cfg := l.cfg
	at, err := changed.Checkout(ctx, changed.Request{CatalogDir: l.cfg.CatalogDir, ProjectDir: l.cfg.ProjectDir, Environ: l.cfg.Environ}, in.Source.Revision, in.Folder, dir)
	if err != nil {
		return cfg, nil, err
	}
	src, err := load(ctx, at)
	if err != nil {
		return cfg, nil, err
	}
	cat := src.Catalog
	cat.Mirrors = l.cfg.Catalog.Mirrors
	cat.Mirrors.Trust = l.trust()
	// What others build on is offered from a registry of this run alone.
	cat.Stages = []catalog.Stage{{Name: "rebuild", Registry: "embedded"}}
	img, ok := cat.Image(in.Image)
	if !ok {
		return cfg, nil, cannot(in.Image, "commit "+in.Source.Revision+" has no such image in its catalog", "give the catalog it was built from with --catalog")
	}
	cfg.Catalog, cfg.CatalogDir, cfg.ProjectDir = cat, src.CatalogDir, src.ProjectDir
	cfg.Data, cfg.Keys, cfg.Out = filepath.Join(dir, "data"), filepath.Join(dir, "keys"), filepath.Join(dir, "out")
	cfg.Locked, cfg.State, cfg.CacheFrom, cfg.CacheTo = true, nil, nil, nil
	if cfg.again, err = newAgain(in); err != nil {
		return cfg, nil, err
	}
	sum, err := (&Line{cfg: cfg}).dockerfile(img)
	if err != nil {
		return cfg, nil, err
	}
	if in.Dockerfile.Digest != "" && sum.Digest != in.Dockerfile.Digest {
		return cfg, nil, cannot(sum.Path, fmt.Sprintf("in commit %s it is %s, the provenance says %s", in.Source.Revision, sum.Digest, in.Dockerfile.Digest),
			"the provenance is of other sources than it names; build the image anew from a clean commit")
	}
	p, err := plan.Build(plan.Input{Catalog: cat, Trigger: plan.Local, Select: []string{plan.Image{Image: in.Image, Variant: in.Variant}.ID()}})
	return cfg, p, err
}

// newAgain makes a lock of what an image's provenance says was fetched.
func newAgain(in *provenance.Input) (*again, error) {
	mark, err := nonce()
	if err != nil {
		return nil, err
	}
	lock := &lockfile.Lock{Version: lockfile.Version, Image: in.Image, Drydock: in.Version, Epoch: in.Epoch}
	for _, b := range in.Bases {
		lock.Bases = append(lock.Bases, lockfile.Base{Name: b.Name, Digest: b.Digest})
	}
	seen := map[string]bool{}
	for _, m := range in.Materials {
		key := m.Ecosystem + " " + m.Path
		if m.Path == "" || m.Digest == "" || seen[key] {
			continue // ADD --checksum of an address, or an unverified answer
		}
		seen[key] = true
		lock.Materials = append(lock.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, PURL: m.PURL})
	}
	for _, text := range in.Absent {
		if eco, at, ok := strings.Cut(text, " "); ok {
			lock.Absent = append(lock.Absent, lockfile.Absent{Ecosystem: eco, Path: at})
		}
	}
	return &again{nonce: mark, image: in.Image, lock: lock}, nil
}

// lockAgain holds the image to what its provenance says, and what it is built
// on to the locks of its commit.
func (l *Line) lockAgain(img *catalog.Image, u *underLock) (*underLock, error) {
	a := l.cfg.again
	if img.Name == a.image {
		u.again = "again-" + a.nonce
		u.lock, u.key, u.mounts = a.lock, u.again, u.again
		u.file, u.remedy = "the provenance of "+img.Name, "bring the cache of a run that has what it was built from (--cache)"
		return u, nil
	}
	lock, err := l.readLock(img.Name)
	if lock == nil || err != nil {
		return nil, err
	}
	u.lock, u.key = lock, lock.Key()
	return u, nil
}

// cacheMounts is the name space of RUN's cache mounts: an image built again, or
// to see what it fetches, finds them empty.
func (u *underLock) cacheMounts() string {
	if u == nil {
		return ""
	}
	return u.mounts
}
