package line

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
	"drydock/pipeline/run"
)

// shipped is a line over the shipped catalog with a state of its own. Nothing
// in these tests opens an engine, a network or a key.
func shipped(t *testing.T, change func(*Config)) *Line {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "catalog"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Load(os.DirFS(dir), "catalog")
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	cfg := Config{
		Catalog: c, CatalogDir: dir, Version: "test", Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		Cache: filepath.Join(state, "cache"), Data: filepath.Join(state, "data"),
		Keys: filepath.Join(state, "keys"), Out: filepath.Join(state, "out"),
	}
	if change != nil {
		change(&cfg)
	}
	l := New(t.Context(), cfg)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func picture(name, variant string) plan.Image {
	return plan.Image{Image: name, Variant: variant, Stages: []string{"quarantine", "staging"}}
}

func mark(t *testing.T, l *Line, img plan.Image) artifact.Digest {
	t.Helper()
	d, err := l.fingerprint(img, map[string]bool{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFingerprintFollowsWhatAnImageIsMadeOf(t *testing.T) {
	base := shipped(t, nil)
	data := base.cfg.Data
	same := func(c *Config) { c.Data = data }
	first := mark(t, base, picture("nginx", ""))
	if again := mark(t, shipped(t, same), picture("nginx", "")); again != first {
		t.Error("two lines over the same catalog disagree")
	}
	if later := mark(t, shipped(t, func(c *Config) { same(c); c.Now = c.Now.Add(time.Hour) }), picture("nginx", "")); later != first {
		t.Error("the time is part of the fingerprint")
	}
	if mark(t, base, picture("httpbin", "1.25")) == mark(t, base, picture("httpbin", "1.26")) {
		t.Error("two variants have one fingerprint")
	}
	held := picture("nginx", "")
	held.Stages, held.Held = held.Stages[:1], "a change request"
	if mark(t, base, held) == first {
		t.Error("how far an image may go is not part of the fingerprint")
	}
	for name, change := range map[string]func(*Config){
		"version": func(c *Config) { c.Version = "other" },
		"policy":  func(c *Config) { c.Catalog.Policies[0].AllowUnknown = !c.Catalog.Policies[0].AllowUnknown },
		"mirrors": func(c *Config) { c.Catalog.Mirrors.VulnDB = "db" },
		"base": func(c *Config) {
			b, _ := c.Catalog.Base("full")
			b.Packages = append(b.Packages, "x")
		},
		"signing key": func(c *Config) { c.Environ = []string{envSigningKey + "=-----BEGIN x"} },
	} {
		if mark(t, shipped(t, func(c *Config) { same(c); change(c) }), picture("nginx", "")) == first {
			t.Errorf("%s is not part of the fingerprint", name)
		}
	}
}

func nodes(t *testing.T, l *Line) *plan.Plan {
	t.Helper()
	p, err := plan.Build(plan.Input{Catalog: l.cfg.Catalog, Trigger: plan.Branch})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPartialRunWantsNoMoreThanItNeeds(t *testing.T) {
	p := nodes(t, shipped(t, nil))
	parts := map[string]*part{}
	for _, img := range p.Images {
		parts[img.ID()] = &part{Image: img, finished: &finished{}}
	}
	parts["crane"].finished = nil
	keep := wanted(p, parts, []plan.Kind{plan.KindScan})
	for _, n := range p.Nodes {
		want := n.Image == "crane" && slices.Contains([]plan.Kind{plan.KindBuild, plan.KindSBOM, plan.KindScan}, n.Kind) ||
			n.Kind == plan.KindBase && (n.Base == "minimal" || n.Base == "golang-1.26")
		if keep[n.ID] != want {
			t.Errorf("%s: kept %v, want %v", n.ID, keep[n.ID], want)
		}
	}
}

func TestAStepIsHandedWhatItsOwnImageFoundOut(t *testing.T) {
	l := shipped(t, nil)
	tasks, err := l.tasks(nodes(t, l), func(plan.Node) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]run.Task{}
	for _, task := range tasks {
		byID[task.ID] = task
	}
	sign := byID["sign/crane"].Needs
	for _, need := range []string{"push/crane", "build/crane@linux/arm64", "sbom/crane@linux/amd64", "scan/crane@linux/arm64", "test/crane@linux/amd64"} {
		if !slices.Contains(sign, need) {
			t.Errorf("signing crane is not handed %s: %v", need, sign)
		}
	}
	if slices.ContainsFunc(sign, func(id string) bool { return id == "base/minimal" || id == "build/nginx@linux/amd64" }) {
		t.Errorf("signing crane is handed what is not its own: %v", sign)
	}
	if got := byID["sbom/crane@linux/arm64"].Needs; slices.Contains(got, "build/crane@linux/amd64") {
		t.Errorf("the SBOM of one platform is handed the other's build: %v", got)
	}
}

func TestTheExitCodeIsTheGravestThatHappened(t *testing.T) {
	bad := func(kind artifact.Kind) report.Image {
		return report.Image{Error: report.NewError(&artifact.Error{Kind: kind, Op: "x"})}
	}
	refused, passed := report.Image{Verdict: artifact.Fail}, report.Image{Verdict: artifact.Pass}
	admitted := func(i report.Image) bool { return i.Verdict == artifact.Pass }
	for _, c := range []struct {
		images []report.Image
		want   int
	}{
		{[]report.Image{passed}, artifact.ExitOK},
		{[]report.Image{passed, refused}, artifact.ExitGate},
		{[]report.Image{refused, bad(artifact.KindFault)}, artifact.ExitFault},
		{[]report.Image{bad(artifact.KindFault), bad(artifact.KindUsage)}, artifact.ExitUsage},
		{[]report.Image{bad(artifact.KindUsage), bad(artifact.KindInternal), refused}, artifact.ExitInternal},
	} {
		if got := exitOf(t.Context(), c.images, admitted); got != c.want {
			t.Errorf("%+v: exit %d, want %d", c.images, got, c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(artifact.ErrInterrupted)
	if got := exitOf(ctx, []report.Image{passed}, admitted); got != artifact.ExitInterrupted {
		t.Errorf("interrupted: exit %d", got)
	}
}

func TestTheFirstOwnErrorIsBlamed(t *testing.T) {
	boom := errors.New("boom")
	all := map[string]run.Outcome{"base/x": {Err: boom}, "build/a": {Blocked: "base/x"}, "sign/a": {Blocked: "base/x"}}
	err := firstError([]run.Outcome{all["build/a"], all["sign/a"]}, all)
	if !errors.Is(err, boom) || err.Error() != "base/x failed: boom" {
		t.Errorf("got %v", err)
	}
	own := errors.New("own")
	if err := firstError([]run.Outcome{{Blocked: "base/x"}, {Err: own}}, all); !errors.Is(err, own) {
		t.Errorf("got %v", err)
	}
}

// What is remembered is asked again with the present time.
func TestARememberedVerdictThatWouldChangeIsForgotten(t *testing.T) {
	l := shipped(t, nil)
	key := artifact.Digest("sha256:" + "aa00000000000000000000000000000000000000000000000000000000000000")
	in := policy.Input{
		Subject: artifact.Subject{Repository: "q/app", Digest: key}, Now: l.cfg.Now,
		Policy: policy.Policy{Version: 1, Name: "p"},
	}
	outcome := policy.Evaluate(in).Outcome
	put := func(f finished) {
		if err := l.results().Put(key, f, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	put(finished{Checked: l.cfg.Now, Gate: &judgement{Input: in, Outcome: outcome}})
	if _, _, ok := l.remembered(key); !ok {
		t.Fatal("a result that still holds was forgotten")
	}
	put(finished{Checked: l.cfg.Now, Gate: &judgement{Input: in, Outcome: artifact.Pass}})
	if _, _, ok := l.remembered(key); ok {
		t.Error("a verdict that would be another one now was believed")
	}
	put(finished{Checked: l.cfg.Now.Add(-databaseCheck - time.Minute)})
	if _, _, ok := l.remembered(key); ok {
		t.Error("a result was believed without asking for a newer database in time")
	}
}
