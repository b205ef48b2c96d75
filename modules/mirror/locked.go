package mirror

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/gitpack"
	"drydock/modules/mirror/lockfile"
)

// The rules that refuse what a lock does not cover.
const (
	RuleLocked  = "lock/not-locked" // the file is not in the lock
	RuleServed  = "lock/not-served" // it is, and neither mirror nor content store has it
	RuleOffline = "offline/not-in-store"
)

// A step says which lock it is under by a mount its RUN is given: part of the
// step's identity, so that what was built under another lock is not taken for
// it, and of no layer. What is mounted tells apt that an index it is served is
// as old as the lock says (apt.conf(5), Acquire::Check-Valid-Until), or made of
// the lock (lockedindex.go).
const (
	lockMark  = "drydock-lock-"
	aptSecret = "drydock-apt-config" //nolint:gosec // a name
	aptFile   = "/dev/drydock-apt.conf"
	aptConf   = "Acquire::Check-Valid-Until \"false\";\nAcquire::AllowInsecureRepositories \"true\";\nAPT::Get::AllowUnauthenticated \"true\";\n" + aptTrust
	aptTrust  = "Acquire::https::CAInfo \"/dev/drydock-cas.pem\";\n" // what the executor gives a step to trust
)

var (
	lockedName = regexp.MustCompile(`id=` + lockMark + `([0-9a-z-]+)`)
	lockMounts = regexp.MustCompile(` --mount=type=secret,id=drydock-(lock-[0-9a-z-]+|apt-config|epoch-[0-9]+),[^ ]*`)
)

// LockMounts are the mounts every RUN of a build under a lock is given, and the
// secrets they name. key is lower-case letters, digits and dashes.
func LockMounts(key string) (mounts []string, secrets map[string]string) {
	return []string{
		"type=secret,id=" + aptSecret + ",env=APT_CONFIG",
		"type=secret,id=" + lockMark + key + ",target=" + aptFile + ",mode=0444",
	}, map[string]string{lockMark + key: aptConf, aptSecret: aptFile}
}

// EpochMount is the mount that sets SOURCE_DATE_EPOCH in a RUN: like a lock's,
// part of the step's identity and of no layer.
func EpochMount(epoch int64) (mount string, secrets map[string]string) {
	seconds := strconv.FormatInt(epoch, 10)
	id := "drydock-epoch-" + seconds
	return "type=secret,id=" + id + ",env=SOURCE_DATE_EPOCH", map[string]string{id: seconds}
}

// lockOf is the key of the lock in a step's name.
func lockOf(name string) string {
	if m := lockedName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// plainName is a step's name as its Dockerfile has it.
func plainName(name string) string { return lockMounts.ReplaceAllString(name, "") }

// lockBook is the locks steps may be under.
type lockBook struct {
	mu     sync.Mutex
	used   bool
	strict bool
	locks  map[string]*lockSet
	merged *lockSet // of all locks, as ofFetch made it; nil when they changed since
}

// lockSet is one lock, by "ecosystem path".
type lockSet struct {
	file   string // the lock's, for refusals
	remedy string
	grows  bool      // it learns: what is asked for first stays as it was answered
	to     time.Time // the mirrors were taken as of then; zero: as they were
	epoch  int64
	suites []string              // of Debian archives, whose indexes it names: <archive>/dists/<suite>
	made   map[string]*madeIndex // of them, by name
	meta   map[string]*madeMeta  // by "ecosystem package"

	pins   map[string]lockfile.Material
	absent map[string]bool
	refs   map[string][]gitpack.Ref // of a growing lock: what was told of repositories
}

// Enforce holds the steps whose RUN has the key's LockMounts to a lock: file is
// the lock's, for refusals, and remedy how to make it anew. A nil lock allows
// nothing to be fetched.
func (g *Gateway) Enforce(key string, l *lockfile.Lock, file, remedy string) {
	s := &lockSet{file: file, remedy: remedy, pins: map[string]lockfile.Material{}, absent: map[string]bool{}, meta: map[string]*madeMeta{}}
	if l != nil {
		if l.To != nil {
			s.to = *l.To
		}
		for _, m := range l.Materials {
			s.pins[m.Ecosystem+" "+m.Path] = m
		}
		for _, a := range l.Absent {
			s.absent[a.Ecosystem+" "+a.Path] = true
		}
		s.epoch, s.suites, s.made = l.Epoch, s.suitesOf(), map[string]*madeIndex{}
	}
	g.locks.put(key, s)
}

// Observe lets the steps whose RUN has the key's LockMounts fetch what they
// want; whatever was fetched once is the same for all of them, so that what they
// fetch together can be locked.
func (g *Gateway) Observe(key string) {
	g.locks.put(key, &lockSet{grows: true, pins: map[string]lockfile.Material{}, absent: map[string]bool{}})
}

// Strict refuses everything to steps that are under no lock.
func (g *Gateway) Strict() {
	g.locks.mu.Lock()
	defer g.locks.mu.Unlock()
	g.locks.used, g.locks.strict = true, true
}

func (b *lockBook) put(key string, s *lockSet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.locks == nil {
		b.locks = map[string]*lockSet{}
	}
	b.used, b.merged = true, nil
	b.locks[key] = s
}

// of is the lock a step is under; nil when it is under none and may do without.
func (b *lockBook) of(ctx context.Context, steps *stepBook, step string) *lockSet {
	b.mu.Lock()
	used := b.used
	b.mu.Unlock()
	if !used {
		return nil
	}
	key := steps.lockOf(ctx, step)
	b.mu.Lock()
	defer b.mu.Unlock()
	if key == fetchLock {
		return b.ofFetch()
	}
	if s := b.locks[key]; s != nil {
		return s
	}
	if b.strict {
		return &lockSet{file: "no lock", remedy: "drydock mirror lock"}
	}
	return nil
}

// fetchLock is the key of steps that are an ADD of an address: those have no
// mounts, so that nothing says whose lock they are under.
const fetchLock = "+fetch"

// ofFetch is what holds such a step: where nothing else may be fetched, what all
// locks say, without the files of which they say different things; where a lock
// is made, that one; else nothing. The lock is held.
func (b *lockBook) ofFetch() *lockSet {
	names := slices.Sorted(maps.Keys(b.locks))
	for _, key := range names {
		if s := b.locks[key]; s.grows {
			return s
		}
	}
	if !b.strict || b.merged != nil {
		return b.merged
	}
	all := &lockSet{file: "any lock", remedy: "drydock mirror lock", pins: map[string]lockfile.Material{}, absent: map[string]bool{}, meta: map[string]*madeMeta{}}
	twice := map[string]bool{}
	for i, key := range names {
		s := b.locks[key]
		if all.file, all.remedy = s.file, s.remedy; i > 0 {
			all.file = "the locks of these images"
		}
		for k, m := range s.pins {
			old, ok := all.pins[k]
			twice[k] = twice[k] || ok && old.Digest != m.Digest
			all.pins[k] = m
		}
	}
	maps.DeleteFunc(all.pins, func(k string, _ lockfile.Material) bool { return twice[k] })
	b.merged = all
	return all
}

// held is of, without waiting: not ok when it is not known yet which lock the
// step is under, or when what the lock holds it to is not settled.
func (b *lockBook) held(steps *stepBook, step string) (s *lockSet, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.used {
		return nil, true
	}
	key, begun := steps.lockNow(step)
	s = b.locks[key]
	return s, begun && (s != nil || !b.strict) && (s == nil || !s.grows)
}

// learn makes the first answer to a growing lock's step the answer to all.
func (b *lockBook) learn(ctx context.Context, steps *stepBook, step string, m artifact.Material) {
	s := b.of(ctx, steps, step)
	if s == nil || !s.grows || m.Path == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := m.Ecosystem + " " + m.Path; s.pins[k].Digest == "" {
		s.pins[k] = lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, PURL: m.PURL}
	}
}

func (b *lockBook) find(s *lockSet, key string) (pin lockfile.Material, pinned, absent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pin, pinned = s.pins[key]
	return pin, pinned, s.absent[key]
}

type askedKey struct{}

// askedPath is what a lock calls a path: without the checksum database's name,
// and with the form of npm metadata where it is not the usual short one.
func askedPath(ecosystem, rel string, h http.Header) string {
	if e, ok := ecosystemOf(ecosystem); ok && e.asked != nil {
		return e.asked(rel, h)
	}
	return rel
}

func goAsked(rel string) string {
	if !strings.HasPrefix(rel, "sumdb/") {
		return rel
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(rel, "sumdb/"), "/")
	return "sumdb/" + rest
}

// as names what is wanted as locks do.
func (w want) as(asked string) want {
	w.asked = asked
	return w
}

// serveLocked answers a step that is under a lock; false leaves the answer to
// the mirrors.
func (g *Gateway) serveLocked(w http.ResponseWriter, r *http.Request, s *lockSet, ecosystem, rel, asked string) bool {
	if s == nil {
		return false
	}
	pin, pinned, absent := g.locks.find(s, ecosystem+" "+asked)
	var versions string
	if ecosystem == Go {
		versions = g.locks.versions(s, asked)
	}
	switch {
	case ecosystem == Debian && g.serveMade(w, r, s, asked):
	case pinned:
		g.servePinned(w, r, s, pin, rel)
	case s.grows:
		return false
	case absent:
		g.steps.absent(stepOf(r.Context()), lockfile.Absent{Ecosystem: ecosystem, Path: asked})
		answer(w, http.StatusNotFound, "drydock: the mirrors did not have it when "+s.file+" was made")
	case ecosystem == Npm && isNpmItself(asked):
		answer(w, http.StatusNotFound, "drydock: npm looks for newer versions of itself in vain")
	case versions != "":
		answer(w, http.StatusOK, versions)
	case ecosystem == Go && g.locks.isPrefix(s, asked):
		answer(w, http.StatusNotFound, "drydock: "+s.file+" has no such module")
	case ecosystem == Go && isProof(asked):
		return false // it proves what the lock has, and signs for itself
	default:
		g.refuseBy(w, r, refusal{
			URL: gatewayURL + "/" + ecosystem + "/" + rel, Rule: RuleLocked,
			Reason: ecosystem + " " + asked + " is not in " + s.file, Remedy: s.remedy,
		})
	}
	return true
}

// isNpmItself says whether npm asks for news of itself, which it does without.
func isNpmItself(asked string) bool {
	return asked == "npm" || asked == "npm/latest" || strings.HasPrefix(asked, "npm?")
}

// isPrefix says whether a path is of a module whose name is the beginning of a
// locked one's. The go command asks for all of them at once and does not wait
// for the others when it has found the module, so a lock may not know that they
// are not there. Nothing is served.
func (b *lockBook) isPrefix(s *lockSet, asked string) bool {
	mod, _, ok := strings.Cut(asked, "/@")
	if !ok {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range s.pins {
		if strings.HasPrefix(k, Go+" "+mod+"/") && !strings.HasPrefix(k, Go+" "+mod+"/@") {
			return true
		}
	}
	return false
}

// versions answers for the list of a module's versions with those a lock has. The
// go command reads it to learn of retractions and does without, so that a lock may
// not know it of a mirror that did not give it.
func (b *lockBook) versions(s *lockSet, asked string) string {
	mod, ok := strings.CutSuffix(asked, "/@v/list")
	if !ok {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for k := range s.pins {
		version, of := strings.CutPrefix(k, Go+" "+mod+"/@v/")
		if version, isZip := strings.CutSuffix(version, ".zip"); of && isZip && !module.IsPseudoVersion(version) {
			out = append(out, version)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// isProof says whether a path is of the checksum database: which of it a client
// reads depends on the order it gets other answers in.
func isProof(asked string) bool { return strings.HasPrefix(asked, "sumdb/") }

// servePinned answers with the file a lock names, from the content store or
// from whichever mirror still has those bytes.
func (g *Gateway) servePinned(w http.ResponseWriter, r *http.Request, s *lockSet, pin lockfile.Material, rel string) {
	ctx := r.Context()
	wants, err := g.pinnedWants(ctx, s, pin, rel, r.Header)
	for _, wanted := range wants {
		if err = g.serveWant(w, r, wanted); err == nil {
			return
		}
		if ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil || s.grows || mayComeBack(err) {
		g.fail(w, r, err)
		return
	}
	if !g.serveMadeMeta(w, r, s, pin, rel) {
		g.refuseBy(w, r, g.notServed(s, pin, rel, err))
	}
}

// mayComeBack says whether a mirror could not be asked, which says nothing of
// what it has.
func mayComeBack(err error) bool { return fetch.Unreachable(err) && !errors.Is(err, ErrOffline) }

// notServed is the refusal of a file a lock names.
func (g *Gateway) notServed(s *lockSet, pin lockfile.Material, rel string, err error) refusal {
	ref := refusal{
		URL: gatewayURL + "/" + pin.Ecosystem + "/" + rel, Rule: RuleServed,
		Reason: pin.Ecosystem + " " + pin.Path + " as " + s.file + " has it (" + string(pin.Digest) + ") is served by no mirror any more and is not in the content store",
		Remedy: "bring the cache of a run that has it (--cache), or lock anew: remove the lock and run drydock mirror lock",
	}
	switch {
	case errors.Is(err, ErrOffline):
		ref.Rule = RuleOffline
		ref.Reason = pin.Ecosystem + " " + pin.Path + " (" + string(pin.Digest) + "): " + fetch.ErrOffline.Error()
		ref.Remedy = strings.Join(artifact.Remedies(err), "; ")
	case !s.to.IsZero():
		g.explainMoment(&ref, s.to, pin.Ecosystem, err)
	}
	return ref
}

// explainMoment says why what a lock made as of a time has cannot be had or made
// again.
func (g *Gateway) explainMoment(ref *refusal, to time.Time, ecosystem string, err error) {
	when := to.UTC().Format(time.RFC3339)
	if ecosystem == Debian && g.set.cfg.Snapshot == "" {
		ref.Reason += "; it is of " + when
		ref.Remedy = "set snapshot: in mirrors.yaml to a mirror that keeps snapshots, as where the lock was made; or " + ref.Remedy
		return
	}
	ref.Reason += "; what the mirrors had on " + when + " they do not state as they did when it was locked (" + err.Error() + ")"
}

// pinnedWants is where a locked file may be had, in order.
func (g *Gateway) pinnedWants(ctx context.Context, s *lockSet, pin lockfile.Material, rel string, h http.Header) ([]want, error) {
	var wants, before, after []want
	ups, below, err := g.pinnedUpstreams(ctx, pin, rel)
	eco, _ := ecosystemOf(pin.Ecosystem)
	m := g.locks.moment(s, pin)
	for i, up := range ups {
		more, first := g.set.asLocked(up, pin, below, h, m)
		switch {
		case i > 0 && pin.Ecosystem == Debian: // the same for all
		case first:
			before = append(before, more...)
		default:
			after = append(after, more...)
		}
		if eco.pinned != nil {
			wants = append(wants, eco.pinned(g.set, ctx, up, below, h)...)
		} else {
			wants = append(wants, g.set.wantOf(up, below))
		}
	}
	for i := range wants {
		wants[i].derive = nil
	}
	wants = slices.Concat(before, wants, after)
	for i := range wants {
		w := &wants[i]
		w.asked, w.sha256, w.size, w.verify, w.stale = pin.Path, pin.Digest, pin.Size, nil, false
		if pin.PURL != "" {
			w.purl = pin.PURL
		}
	}
	return wants, err
}

// pinnedUpstreams is every mirror of an ecosystem. Where none is configured the
// content store may have the file all the same.
func (g *Gateway) pinnedUpstreams(ctx context.Context, pin lockfile.Material, rel string) ([]upstream, string, error) {
	ups, below, err := g.set.candidates(ctx, Request{Ecosystem: pin.Ecosystem, Path: rel, SHA256: pin.Digest})
	if eco, _ := ecosystemOf(pin.Ecosystem); eco.upstreams != nil {
		ups, below, _ = eco.upstreams(g.set, rel)
		err = nil
	}
	if pin.Ecosystem == Npm && err == nil {
		ups, err = g.set.npmUpstreams(ctx, rel)
	}
	if len(ups) == 0 {
		if _, _, here := g.set.store.Blob(pin.Digest, pin.Size); here {
			base := &url.URL{Scheme: "http", Host: GatewayHost, Path: "/" + pin.Ecosystem}
			return []upstream{{ecosystem: pin.Ecosystem, base: base}}, rel, nil
		}
	}
	return ups, below, err
}

// IsProof says whether a material is a note of the Go checksum database: it
// proves what other materials are, and which of them a client reads depends on
// the order answers come in.
func IsProof(m artifact.Material) bool { return m.Ecosystem == Go && isProof(m.Path) }
