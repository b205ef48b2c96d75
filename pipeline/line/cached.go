package line

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/patternmatcher"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
	"drydock/pipeline/results"
)

// finished is what a record remembers of an image that went through the whole
// line: what is reported of it, and the evidence its gates judged, so that
// they can be asked again at a later time.
type finished struct {
	Image      report.Image       `json:"image"`
	StaticOnly *report.StaticOnly `json:"staticOnly,omitempty"`
	Gate       *judgement         `json:"gate,omitempty"`
	Notes      []string           `json:"notes,omitempty"` // of bases that are not what their locks say
	Mirrors    []report.Mirror    `json:"mirrors,omitempty"`
	Checked    time.Time          `json:"checked"` // when the vulnerability database was last looked for
}

// judgement is the input of a policy evaluation and what came of it.
type judgement struct {
	Stage   string           `json:"stage"`
	Input   policy.Input     `json:"input"`
	Outcome artifact.Outcome `json:"outcome"`
}

// databaseCheck is how long a vulnerability database counts as the newest one
// without asking again.
const databaseCheck = 12 * time.Hour

// fingerprint is the identity of an image variant's inputs: everything its
// result follows from and nothing else (no time, no revision, no host).
func (l *Line) fingerprint(p plan.Image, seen map[string]bool) (artifact.Digest, error) {
	img, variant, err := l.find(plan.Node{Image: p.Image, Variant: p.Variant})
	if err != nil {
		return "", err
	}
	if seen[p.ID()] {
		return "", fmt.Errorf("image %s builds on itself", p.ID())
	}
	seen[p.ID()] = true
	k := results.NewKey("image/v1").
		Text("id", p.ID()).Text("version", l.cfg.Version).Text("engine", l.cfg.Engine).Text("tier", l.cfg.Tier).
		Text("program", l.programID()).
		JSON("image", img).JSON("args", variant.Args).JSON("platforms", p.Platforms).
		JSON("stages", p.Stages).Text("held", p.Held).
		JSON("mirrors", l.cfg.Catalog.Mirrors).JSON("all stages", l.cfg.Catalog.Stages).JSON("policies", l.cfg.Catalog.Policies).
		Text("signer", l.signerID()).Text("out", l.cfg.Data).JSON("locked", l.cfg.Locked)
	if l.cfg.Observe {
		k.Text("egress", "observe")
	}
	if err := l.addImageLock(k, p.Image); err != nil {
		return "", err
	}
	folders := append([]catalog.Context{{Name: "", Dir: img.ContextDir, Ignore: img.Ignore}}, img.NamedContexts...)
	for _, c := range folders {
		keep, err := kept(c)
		if err != nil {
			return "", err
		}
		k.Tree("context "+c.Name, filepath.Join(l.source(img), c.Dir), keep)
	}
	for _, path := range append([]string{img.DockerfilePath}, img.StructurePaths...) {
		raw, err := readFile(filepath.Join(l.source(img), path))
		if err != nil {
			return "", err
		}
		k.Text(path, string(raw))
	}
	addFrontend(k, img)
	if err := l.addEmulators(k); err != nil {
		return "", err
	}
	for _, ref := range variant.Refs {
		if err := l.addReference(k, ref, seen); err != nil {
			return "", err
		}
	}
	return k.Sum()
}

// kept says which paths of a context are sent. A folder that is ignored is
// still walked where patterns may bring back something below it.
func kept(c catalog.Context) (func(path string, d fs.DirEntry) bool, error) {
	matcher, err := patternmatcher.New(c.Ignore)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "reading .dockerignore", Place: c.Dir, Err: err}
	}
	return func(path string, d fs.DirEntry) bool {
		ignored, err := matcher.MatchesOrParentMatches(path)
		return err != nil || !ignored || (d.IsDir() && matcher.Exclusions())
	}, nil
}

// addImageLock adds the lock an image's steps are held to.
func (l *Line) addImageLock(k *results.Key, image string) error {
	file, _ := l.lockFile(image)
	raw, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	k.Text("image lock", string(raw))
	return nil
}

func (l *Line) addReference(k *results.Key, ref catalog.Ref, seen map[string]bool) error {
	if ref.Base == "" {
		sum, err := l.fingerprint(plan.Image{Image: ref.Image, Variant: ref.Variant}, seen)
		if err != nil {
			return err
		}
		k.Text("on image "+ref.Spelling, string(sum))
		return nil
	}
	b, ok := l.cfg.Catalog.Base(ref.Base)
	if !ok {
		return fmt.Errorf("base %q is not in the catalog", ref.Base)
	}
	k.JSON("on base "+ref.Spelling, b)
	raw, err := os.ReadFile(filepath.Join(l.cfg.CatalogDir, b.LockPath))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	k.Text("lock", string(raw))
	return nil
}

// programID identifies this program and the step program beside it without
// reading them whole.
func (l *Line) programID() string {
	exe, err := os.Executable()
	if err != nil {
		return "unknown " + l.cfg.Version
	}
	id, err := results.Program(exe)
	if err != nil {
		return "unknown " + l.cfg.Version
	}
	return id
}

// remembered finds an image's finished result, if nothing it follows from
// changed, what it left behind is there and its gate would say the same now.
func (l *Line) remembered(key artifact.Digest) (*finished, results.Record, bool) {
	r, ok := l.results().Get(key)
	if !ok {
		return nil, r, false
	}
	var f finished
	if json.Unmarshal(r.Value, &f) != nil {
		return nil, r, false
	}
	if age := l.cfg.Now.Sub(f.Checked); age < 0 || age > databaseCheck {
		return nil, r, false
	}
	if f.Gate != nil {
		in := f.Gate.Input
		in.Now = l.cfg.Now
		if policy.Evaluate(in).Outcome != f.Gate.Outcome {
			return nil, r, false
		}
	}
	f.Image.Cached = true
	return &f, r, true
}
