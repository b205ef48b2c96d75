package line

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/engine"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/pipeline/results"
)

// observedKey marks the steps of observed builds. It is always the same: what
// an earlier such build did is known.
const observedKey = "observed"

// Observed is out/observed/<image>.json: what an image's steps reached besides
// the mirrors, and what the catalog would need to do without.
type Observed struct {
	Version  int                 `json:"version"` // 1
	Image    string              `json:"image"`
	Built    bool                `json:"built"`    // false: it failed, and this is what the steps of failed builds reached
	Complete bool                `json:"complete"` // all its steps are known
	Hosts    []ObservedHost      `json:"hosts"`
	Files    []mirror.Contact    `json:"files"` // each exchange, in order
	Lock     []lockfile.Material `json:"lock"`  // what came from mirrors, as drydock mirror lock would write it
	Bases    []ObservedBase      `json:"bases"`
	Proposal []Proposed          `json:"proposal"`
	LockFile string              `json:"lockFile"` // beside this file: a whole lock, to be put where Takes says; "" while steps reach more than the mirrors
	Takes    string              `json:"takes"`    // the lock's place, relative to the project or the catalog
}

// ObservedHost is a host that is no mirror.
type ObservedHost struct {
	Host     string   `json:"host"`
	Schemes  []string `json:"schemes"`
	Requests int      `json:"requests"`
	Received int64    `json:"received"` // bytes
	Sent     int64    `json:"sent"`     // bytes, through tunnels
	Failed   int      `json:"failed"`   // of the requests
	Steps    []string `json:"steps"`
}

// ObservedBase is what a FROM named and what stood for it.
type ObservedBase struct {
	Ref    string          `json:"ref"`
	Base   string          `json:"base"`
	Digest artifact.Digest `json:"digest"`
}

// Proposed is one thing to change.
type Proposed struct {
	Kind   string `json:"kind"`   // mirror, file or unknown
	What   string `json:"what"`   // ecosystem, URL or host
	Where  string `json:"where"`  // file of the catalog, or step
	Change string `json:"change"` // what to write or do
}

// observeBuild marks one build's steps and lets them out.
func (l *Line) observeBuild(e *engine.Engine, img *catalog.Image, b *builtImage, text []byte, secrets map[string]string) (*underLock, []byte, error) {
	if e.Kind != engine.KindEmbedded {
		return nil, nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "observing", Place: "--engine " + e.Kind, Message: "its steps have a network that nobody watches",
			Remedy: "observe with the embedded engine: --engine embedded",
		}
	}
	box, err := l.gatewayBox.get()
	if err != nil {
		return nil, nil, err
	}
	if err := box.gateway.ObserveEgress(observedKey); err != nil {
		return nil, nil, err
	}
	b.Name += " " + observedKey // what it fetched within the mirrors is another build's
	mounts, more := mirror.ObserveMounts(observedKey)
	maps.Copy(secrets, more)
	for _, m := range mounts {
		f, err := dockerfile.Parse(img.DockerfilePath, text)
		if err != nil {
			return nil, nil, err
		}
		if text, err = f.MountInRuns(nil, m); err != nil {
			return nil, nil, err
		}
	}
	u := &underLock{key: observedKey, observed: true}
	if l.keepsCaches(img.Name) {
		// Then it runs anew every time: what it found there it would not fetch.
		mark, err := nonce()
		if err != nil {
			return nil, nil, err
		}
		u.mounts = observedKey + "-" + mark
	}
	return u, text, nil
}

// takeFetched notes what the steps of a build fetched, and whom else they
// reached. A build within the mirrors reached nobody: one that did took a step
// from an observed one.
func (l *Line) takeFetched(b *builtImage, under *underLock) error {
	box, err := l.gatewayBox.get()
	if err != nil {
		return err
	}
	f := box.gateway.Fetched(b.Name)
	b.Materials, b.Complete, b.Absent, b.Contacts = f.Materials, f.Complete, f.Absent, f.Contacts
	if err := under.checkMaterials(b); err != nil {
		return err
	}
	if len(b.Contacts) == 0 || l.cfg.Observe {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "building", Place: b.Image, Message: "a step of it was made by a build with --egress=observe at the same time",
		Remedy: "run again",
	}
}

// WriteObserved writes what the images of an observed run reached.
func (l *Line) WriteObserved(ctx context.Context, failed []string) error {
	if !l.cfg.Observe {
		return nil
	}
	l.mu.Lock()
	built := slices.Clone(l.built)
	l.mu.Unlock()
	byImage := map[string]*Observed{}
	of := func(image string) *Observed {
		if byImage[image] == nil {
			byImage[image] = &Observed{
				Version: 1, Image: image, Built: true, Complete: true,
				Hosts: []ObservedHost{}, Files: []mirror.Contact{}, Lock: []lockfile.Material{}, Bases: []ObservedBase{}, Proposal: []Proposed{},
			}
		}
		return byImage[image]
	}
	for _, b := range built {
		o := of(b.Image)
		o.Complete = o.Complete && b.Complete
		o.Files = append(o.Files, b.Contacts...)
		o.addLock(b.Materials)
		o.addBases(b)
	}
	if box, ok := l.gatewayBox.peek(); ok {
		for _, image := range failed {
			if byImage[image] != nil {
				continue // it was built, and failed later
			}
			o := of(image)
			o.Built, o.Complete = false, false
			o.Files = append(o.Files, box.gateway.LooseContacts()...)
		}
	}
	for _, image := range slices.Sorted(maps.Keys(byImage)) {
		o := byImage[image]
		o.addHosts()
		o.propose()
		if err := l.proposeLock(ctx, o); err != nil {
			return err
		}
		if err := l.writeObserved(o); err != nil {
			return err
		}
	}
	return nil
}

// proposeLock writes the lock of an image that reached the mirrors alone: with
// it the very same can be built within them.
func (l *Line) proposeLock(ctx context.Context, o *Observed) error {
	if !o.Built || !o.Complete || len(o.Hosts) > 0 {
		return nil
	}
	lock, ok, err := l.composeLock(o.Image)
	if err != nil || !ok {
		return err
	}
	if lock.Database, err = l.databaseToLock(ctx); err != nil {
		return err
	}
	raw, err := lock.Marshal()
	if err != nil {
		return err
	}
	name := o.Image + ".lock.json"
	if err := l.writeBesideObserved(name, raw); err != nil {
		return err
	}
	o.LockFile, o.Takes = name, l.lockName(o.Image)
	return nil
}

func (l *Line) writeBesideObserved(name string, raw []byte) error {
	file := filepath.Join(l.cfg.Out, "observed", filepath.FromSlash(name))
	if err := results.WriteFile(file, raw); err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "writing reports", Place: file, Err: err, Remedy: "give a folder that can be written with --out"}
	}
	return nil
}

func (l *Line) writeObserved(o *Observed) error {
	raw, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(l.cfg.Out, "observed", filepath.FromSlash(o.Image)+".json")
	if err := l.writeBesideObserved(o.Image+".json", append(raw, '\n')); err != nil {
		return err
	}
	l.note("%s reached %d hosts that are no mirrors: see %s", o.Image, len(o.Hosts), file)
	if o.LockFile != "" {
		l.note("%s needs nothing but the mirrors: review %s and commit it as %s, then run --locked", o.Image, filepath.Join(l.cfg.Out, "observed", filepath.FromSlash(o.LockFile)), o.Takes)
	}
	for _, p := range o.Proposal {
		l.note("%s: %s %s: %s", o.Image, p.Kind, p.What, p.Change)
	}
	return nil
}

func (o *Observed) addLock(materials []artifact.Material) {
	for _, m := range materials {
		one := lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, PURL: m.PURL, Steps: []string{stepLabel(m.Step)}}
		if m.Path == "" || slices.ContainsFunc(o.Lock, func(x lockfile.Material) bool { return x.Ecosystem == m.Ecosystem && x.Path == m.Path }) {
			continue
		}
		o.Lock = append(o.Lock, one)
	}
}

func (o *Observed) addBases(b *builtImage) {
	for _, r := range b.Variant.Refs {
		one := ObservedBase{Ref: r.Spelling, Base: r.Base}
		if r.Base == "" {
			one.Base = r.Image
		}
		for _, ready := range b.Bases {
			if ready.Name == one.Base || ready.Name == offeredPrefix+one.Base {
				one.Digest = ready.Digest
			}
		}
		if !slices.Contains(o.Bases, one) {
			o.Bases = append(o.Bases, one)
		}
	}
}

func (o *Observed) addHosts() {
	for i := range o.Files {
		c := &o.Files[i]
		c.Step = stepLabel(c.Step)
		at := slices.IndexFunc(o.Hosts, func(h ObservedHost) bool { return h.Host == c.Host })
		if at < 0 {
			o.Hosts = append(o.Hosts, ObservedHost{Host: c.Host})
			at = len(o.Hosts) - 1
		}
		h := &o.Hosts[at]
		h.Requests++
		h.Received += c.Received
		h.Sent += c.Sent
		if c.Failed != "" || c.Status >= 400 {
			h.Failed++
		}
		if !slices.Contains(h.Schemes, c.Scheme) {
			h.Schemes = append(h.Schemes, c.Scheme)
		}
		if !slices.Contains(h.Steps, c.Step) {
			h.Steps = append(h.Steps, c.Step)
		}
	}
	slices.SortFunc(o.Hosts, func(a, b ObservedHost) int { return strings.Compare(a.Host, b.Host) })
}

// kinds are what a URL's path gives away of its ecosystem; the part before it
// is where the mirror begins.
var kinds = []struct {
	ecosystem string
	path      *regexp.Regexp
}{
	{mirror.Debian, regexp.MustCompile(`/(dists|pool)/`)},
	{mirror.Go, regexp.MustCompile(`/([^/]+\.[^/]+/.*@(v/|latest)|sumdb/)`)},
	{mirror.Npm, regexp.MustCompile(`/(@[^/]+/)?[^/]+/-/[^/]+\.tgz$`)},
	{mirror.OCI, regexp.MustCompile(`/v2/.+/(manifests|blobs)/`)},
	{"pypi", regexp.MustCompile(`/simple/|/packages/.*\.(whl|tar\.gz)(\.metadata)?$`)},
	{"apk", regexp.MustCompile(`/[^/]+/(APKINDEX\.tar\.gz|[^/]+\.apk)$`)},
	{"rpm", regexp.MustCompile(`/repodata/|\.rpm$`)},
}

// words are what a host's name gives away of its ecosystem.
var words = []struct{ word, ecosystem string }{
	{"pypi", "pypi"}, {"pythonhosted", "pypi"}, {"npm", mirror.Npm}, {"yarn", mirror.Npm}, {"golang", mirror.Go}, {"debian", mirror.Debian},
	{"alpine", "apk"}, {"crates", "cargo"}, {"rubygems", "gem"}, {"maven", "maven"}, {"nuget", "nuget"}, {"docker", mirror.OCI},
	{"github", "git"}, {"gitlab", "git"}, {"bitbucket", "git"},
}

// propose says what would make each contact one with a mirror.
func (o *Observed) propose() {
	known := mirror.Ecosystems()
	add := func(p Proposed) {
		if !slices.Contains(o.Proposal, p) {
			o.Proposal = append(o.Proposal, p)
		}
	}
	for _, c := range o.Files {
		if c.Failed != "" || c.Status >= 400 {
			continue
		}
		ecosystem, base := ecosystemOf(c)
		switch {
		case slices.Contains(known, ecosystem):
			add(Proposed{"mirror", ecosystem, "mirrors.yaml", fmt.Sprintf("%s: a mirror of %s; its client in the step must ask that, not go round it%s", ecosystem, base, standIn(ecosystem, base))})
		case ecosystem != "":
			add(Proposed{"unknown", ecosystem, c.Step, "drydock has no mirrors of it: bring what comes from " + base + " in a base or in the context"})
		case c.Digest != "":
			add(Proposed{"file", c.URL, c.Step, fileChange(c)})
		default:
			add(Proposed{"unknown", c.Host, c.Step, "find out what the step takes from there: its client does not trust the gateway, so that its TLS was not looked into"})
		}
	}
}

// standIn is how a mirror answers for a registry that lockfiles name.
func standIn(ecosystem, base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || ecosystem != mirror.Npm {
		return ""
	}
	return fmt.Sprintf(", or the mirror answers for it: standsFor: {%s%s/: npm}", u.Host, strings.TrimRight(u.Path, "/"))
}

// fileChange is how a file may be had within the mirrors.
func fileChange(c mirror.Contact) string {
	prefix, name := path.Split(c.URL)
	_, sum, _ := strings.Cut(string(c.Digest), ":")
	return fmt.Sprintf("mirror it and list it in mirrors.yaml, files: [{prefix: %q, from: YOUR-MIRROR, sha256: {%q: %s}}]; or keep it in the context, ADD --checksum=%s",
		prefix, name, sum, c.Digest)
}

// ecosystemOf guesses what kind of mirror would serve a contact, and what it is
// a mirror of.
func ecosystemOf(c mirror.Contact) (ecosystem, base string) {
	for _, k := range kinds {
		if at := k.path.FindStringIndex(c.URL); at != nil {
			return k.ecosystem, c.URL[:at[0]]
		}
	}
	host, _, err := net.SplitHostPort(c.Host)
	if err != nil || c.URL != "" {
		return "", ""
	}
	for _, w := range words {
		if strings.Contains(host, w.word) {
			return w.ecosystem, host
		}
	}
	return "", ""
}

// contactMaterials are the files an observed build took from elsewhere.
func contactMaterials(contacts []mirror.Contact) (materials []artifact.Material, gaps []string) {
	for _, c := range contacts {
		switch {
		case c.Digest != "" && c.Status < 400:
			materials = append(materials, artifact.Material{
				Ecosystem: mirror.EcosystemObserved, URL: c.URL, Digest: c.Digest, Size: c.Received, Step: c.Step, Public: true,
			})
		case c.URL == "" && c.Failed == "":
			gap := "a step spoke TLS with " + c.Host + ", which was not looked into"
			if !slices.Contains(gaps, gap) {
				gaps = append(gaps, gap)
			}
		}
	}
	return materials, gaps
}
