package line

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/image"
	"drydock/modules/policy"
	"drydock/modules/provenance"
	"drydock/modules/registry"
	"drydock/modules/sign"
	"drydock/pipeline/plan"
	"drydock/pipeline/results"
	"drydock/pipeline/run"
)

// pushedImage is an image in the first stage's registry.
type pushedImage struct {
	ID        string // image or image:variant
	Image     string
	Subject   artifact.Subject
	Stage     string
	Layout    string
	Epoch     int64
	Manifests map[string]artifact.Digest // by platform
	Users     map[artifact.Digest]string // user each platform's configuration names
}

// assemble joins an image's platforms into one layout on this host.
func (l *Line) assemble(ctx context.Context, n plan.Node, in run.Inputs) (*pushedImage, error) {
	dir, err := l.layoutDir(n.Image, n.Variant)
	if err != nil {
		return nil, err
	}
	p := &pushedImage{
		ID: plan.Image{Image: n.Image, Variant: n.Variant}.ID(), Image: n.Image, Layout: dir,
		Users: map[artifact.Digest]string{},
	}
	var parts []image.Part
	for _, b := range run.All[*builtImage](in) {
		file := dir + "-" + platformFolder(b.Platform) + ".tar"
		if err := b.Export(ctx, file); err != nil {
			return nil, err
		}
		parts = append(parts, image.Part{Platform: b.Platform, Archive: file, Manifest: b.Manifest})
		p.Users[b.Manifest] = b.Config.User
		p.Epoch = max(p.Epoch, b.Epoch)
	}
	made, err := image.Assemble(dir, parts)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		removeFile(part.Archive)
	}
	p.Subject.Digest, p.Manifests = made.Digest, made.Platforms
	return p, nil
}

// push writes an image to the first stage by digest.
func (l *Line) push(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	p, err := l.assemble(ctx, n, in)
	if err != nil {
		return nil, err
	}
	repo, err := l.repo(n.Stage, n.Image)
	if err != nil {
		return nil, err
	}
	if _, err := repo.PushLayout(ctx, p.Layout, p.Subject.Digest); err != nil {
		return nil, err
	}
	p.Subject = repo.Subject(p.Subject.Digest)
	p.Stage = n.Stage
	return p, nil
}

// repo opens an image's repository in a stage.
func (l *Line) repo(stage, image string) (*registry.Repo, error) {
	s, err := l.stage(stage)
	if err != nil {
		return nil, err
	}
	client, err := l.stages.get()
	if err != nil {
		return nil, err
	}
	return client.Repo(location(s), image)
}

// signedImage is an image with its evidence beside it.
type signedImage struct {
	Verdict    artifact.Verdict // what the next stage's gates say of the evidence
	Gate       *judgement
	Provenance []byte
}

// sign signs an image and every fact found out about it, and asks the next
// stage's gates what they would say.
func (l *Line) sign(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	pushed := run.Input[*pushedImage](in)
	evidence, err := l.evidence(n, pushed, in)
	if err != nil {
		return nil, err
	}
	signer, err := l.signer.get()
	if err != nil {
		return nil, err
	}
	signers := []string{}
	if signer != nil {
		id, err := l.attest(ctx, n, pushed, signer, evidence)
		if err != nil {
			return nil, err
		}
		signers = append(signers, id)
		for i := range evidence {
			evidence[i].Signer = id
		}
	} else {
		l.note("nothing is signed: no signing key is configured (set %s), and in CI none is made", envSigningKey)
	}
	out := &signedImage{Verdict: artifact.Verdict{Outcome: artifact.Unknown}}
	for _, e := range evidence {
		if e.PredicateType == artifact.PredicateProvenance {
			out.Provenance = append(append([]byte{}, e.Predicate...), '\n')
		}
	}
	pol, stage, ok := l.nextPolicy()
	if !ok {
		out.Verdict = artifact.Verdict{Outcome: artifact.Pass}
		return out, nil
	}
	if l.cfg.State.Dirty[n.Image] != "" {
		pol.Rules.Provenance.AllowDirty = true // it is held in quarantine anyway, and said so
	}
	gate := policy.Input{
		Subject: pushed.Subject, Platforms: map[artifact.Digest]artifact.Platform{}, Users: pushed.Users,
		Signers: signers, Configured: signers, Evidence: trimmed(evidence), Policy: pol, Now: l.cfg.Now,
		Held: l.cfg.Observe,
	}
	for name, d := range pushed.Manifests {
		if gate.Platforms[d], err = artifact.ParsePlatform(name); err != nil {
			return nil, err
		}
	}
	out.Verdict = policy.Evaluate(gate)
	out.Gate = &judgement{Stage: stage, Input: gate, Outcome: out.Verdict.Outcome}
	return out, nil
}

// trimmed is evidence without what no gate looks at: a bill of materials is
// megabytes, and only whether it is there counts.
func trimmed(evidence []artifact.Evidence) []artifact.Evidence {
	out := append([]artifact.Evidence{}, evidence...)
	for i := range out {
		switch out[i].PredicateType {
		case artifact.PredicateSPDX, artifact.PredicateCycloneDX:
			out[i].Predicate = []byte(`{"trimmed":true}`)
		}
	}
	return out
}

// nextPolicy is the policy of the stage after the first.
func (l *Line) nextPolicy() (policy.Policy, string, bool) {
	stages := l.cfg.Catalog.Stages
	for _, s := range stages {
		if len(stages) > 0 && s.From == stages[0].Name {
			if p, ok := l.cfg.Catalog.Policy(s.Policy); ok {
				return *p, s.Name, true
			}
		}
	}
	return policy.Policy{}, "", false
}

// evidence is everything found out about an image, in a stable order.
func (l *Line) evidence(n plan.Node, pushed *pushedImage, in run.Inputs) ([]artifact.Evidence, error) {
	var out []artifact.Evidence
	add := func(kind string, p artifact.Platform, manifest artifact.Digest, predicate any) error {
		e, err := evidenceOf(kind, p, manifest, predicate)
		out = append(out, e)
		return err
	}
	for _, v := range run.All[*inventory](in) {
		if err := add(artifact.PredicateSPDX, v.Platform, v.Manifest, v.SPDX); err != nil {
			return nil, err
		}
		if err := add(artifact.PredicateCycloneDX, v.Platform, v.Manifest, v.CycloneDX); err != nil {
			return nil, err
		}
	}
	for _, v := range run.All[*scanned](in) {
		if err := add(artifact.PredicateScan, v.Platform, v.Manifest, v.Report); err != nil {
			return nil, err
		}
	}
	for _, v := range run.All[*tested](in) {
		if err := add(artifact.PredicateTest, v.Platform, v.Manifest, v.Report); err != nil {
			return nil, err
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Subject != out[j].Subject {
			return out[i].Subject < out[j].Subject
		}
		return out[i].PredicateType < out[j].PredicateType
	})
	raw, err := l.provenance(n, in)
	if err != nil {
		return nil, err
	}
	return append(out, artifact.Evidence{Subject: pushed.Subject.Digest, PredicateType: artifact.PredicateProvenance, Predicate: raw}), nil
}

// attest writes signatures and attestations beside the image and returns the
// id of the key.
func (l *Line) attest(ctx context.Context, n plan.Node, pushed *pushedImage, signer *sign.Signer, evidence []artifact.Evidence) (string, error) {
	repo, err := l.repo(n.Stage, n.Image)
	if err != nil {
		return "", err
	}
	digests := map[artifact.Digest][]sign.Statement{pushed.Subject.Digest: nil}
	for _, d := range pushed.Manifests {
		digests[d] = nil
	}
	for _, e := range evidence {
		digests[e.Subject] = append(digests[e.Subject], sign.Statement{PredicateType: e.PredicateType, Predicate: e.Predicate})
	}
	for _, d := range sortedDigests(digests) {
		if _, err := signer.Sign(ctx, repo, d); err != nil {
			return "", err
		}
		if facts := digests[d]; len(facts) > 0 {
			if _, err := signer.Attest(ctx, repo, d, facts...); err != nil {
				return "", err
			}
		}
	}
	key, err := signer.Key()
	return key.ID, err
}

// provenance says how an image was made.
func (l *Line) provenance(n plan.Node, in run.Inputs) ([]byte, error) {
	img, variant, err := l.find(n)
	if err != nil {
		return nil, err
	}
	e, err := l.engine.get()
	if err != nil {
		return nil, err
	}
	file, err := l.dockerfile(img)
	if err != nil {
		return nil, err
	}
	contextSum, err := l.contextSum(img)
	if err != nil {
		return nil, err
	}
	st := l.cfg.State
	p := provenance.Input{
		Image: n.Image, Variant: n.Variant, Dockerfile: file, Context: contextSum, Target: img.Target, Args: variant.Args,
		Trigger: l.cfg.Trigger, Hermetic: (e.Hermetic || allSealed(in)) && !l.cfg.Observe, Observed: l.cfg.Observe, Version: l.cfg.Version,
		Folder: st.Folder,
		Source: provenance.Source{URI: st.Remote, Revision: st.Revision, Ref: st.Ref, Dirty: st.Dirty[n.Image] != ""},
		Engine: provenance.Engine{Kind: e.Kind, Tier: e.Tier, Mode: e.Mode, Version: e.Version},
	}
	if img.Frontend != nil {
		p.Frontend = frontend(e, img)
	}
	if l.cfg.CI.JobURL != "" {
		p.Run = &provenance.Run{InvocationID: l.cfg.CI.JobURL}
	}
	if !p.Hermetic && !l.cfg.Observe {
		tried, err := l.egress.get()
		if err != nil {
			return nil, err
		}
		p.Egress = tried.state
	}
	l.addMaterials(&p, in)
	return provenance.Predicate(p)
}

// allSealed: no step of any platform had a network.
func allSealed(in run.Inputs) bool {
	builds := run.All[*builtImage](in)
	for _, b := range builds {
		if !b.Sealed {
			return false
		}
	}
	return len(builds) > 0
}

// contextSum is the digest of the files a build of the image can see.
func (l *Line) contextSum(img *catalog.Image) (artifact.Digest, error) {
	keep, err := kept(catalog.Context{Dir: img.ContextDir, Ignore: img.Ignore})
	if err != nil {
		return "", err
	}
	return results.NewKey("context/v2").Tree("context", filepath.Join(l.source(img), img.ContextDir), keep).Sum()
}

func (l *Line) dockerfile(img *catalog.Image) (provenance.File, error) {
	raw, err := readFile(filepath.Join(l.source(img), img.DockerfilePath))
	if err != nil {
		return provenance.File{}, err
	}
	sum, err := results.NewContent(raw)
	return provenance.File{Path: img.DockerfilePath, Digest: sum}, err
}

// addMaterials joins what the builds of all platforms fetched.
func (l *Line) addMaterials(p *provenance.Input, in run.Inputs) {
	bases, seen := map[string]bool{}, map[string]bool{}
	add := func(ms []artifact.Material) {
		for _, m := range ms {
			id := fmt.Sprint(m.URL, m.Digest)
			if !seen[id] {
				seen[id] = true
				p.Materials = append(p.Materials, m)
			}
		}
	}
	for _, id := range sortedIDs(run.All[*builtImage](in)) {
		b := run.All[*builtImage](in)[id]
		p.Epoch = max(p.Epoch, b.Epoch)
		if !b.Complete && p.Hermetic {
			p.Gaps = append(p.Gaps, "materials of "+b.Platform.String()+" are not all known")
		}
		add(b.Materials)
		p.Lock = b.Lock
		for _, a := range b.Absent {
			if text := a.Ecosystem + " " + a.Path; !slices.Contains(p.Absent, text) {
				p.Absent = append(p.Absent, text)
			}
		}
		contacts, gaps := contactMaterials(b.Contacts)
		add(contacts)
		p.Gaps = append(p.Gaps, gaps...)
		for _, r := range b.Bases {
			if !bases[r.Name] {
				bases[r.Name] = true
				p.Bases = append(p.Bases, provenance.Base{Name: r.Name, Digest: r.Digest, Lock: r.Lock})
			}
			add(r.Materials)
		}
	}
	if p.Observed {
		p.Gaps = append(p.Gaps, "steps were let out to any host, and watched")
	} else if !p.Hermetic {
		p.Gaps = append(p.Gaps, "steps had the engine's own network")
	}
}
