package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"drydock/modules/mirror/debian/deb"
)

// A Debian archive replaces its indexes several times a day and keeps its
// packages for years. A lock names both: the indexes are what its steps read,
// the packages what they took. When an index a lock names is served no more, the
// gateway makes one that lists the lock's packages and nothing else, from what
// the packages say of themselves: apt finds the same versions in it and no
// newer ones. It cannot be signed as Debian signs, and need not be: every
// package is held to the digest in the lock whatever an index says (aptConf
// lets apt take it).

// madeIndex is the index of one suite, as a lock has it.
type madeIndex struct {
	once  sync.Once
	files map[string][]byte // by path below the suite; nil: the real ones are served
	err   error             // of a package that cannot be had
	pin   string            // that package's path
}

// suiteOf splits the path of a file of a suite's index: <archive>/dists/<suite>
// and the rest. Suites have slashes at times; a Release file is at their top and
// the rest is below <component>/<kind>-<arch>.
func (s *lockSet) suiteOf(asked string) (suite, rest string, ok bool) {
	for _, root := range s.suites {
		if rest, ok = strings.CutPrefix(asked, root+"/"); ok {
			return root, rest, true
		}
	}
	return "", "", false
}

// suitesOf are the suites whose Release file a lock names.
func (s *lockSet) suitesOf() []string {
	var out []string
	for k := range s.pins {
		asked, ok := strings.CutPrefix(k, Debian+" ")
		if base := path.Base(asked); ok && strings.Contains(asked, "/dists/") && (base == "InRelease" || base == "Release") {
			out = append(out, path.Dir(asked))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// serveMade answers from an index made for a lock; false: the real one is there.
func (g *Gateway) serveMade(w http.ResponseWriter, r *http.Request, s *lockSet, asked string) bool {
	suite, rest, ok := s.suiteOf(asked)
	if !ok || s.grows {
		return false
	}
	g.locks.mu.Lock()
	made := s.made[suite]
	if made == nil {
		made = &madeIndex{}
		s.made[suite] = made
	}
	g.locks.mu.Unlock()
	made.once.Do(func() { g.makeIndex(context.WithoutCancel(r.Context()), s, suite, made) })
	switch doc, ok := made.files[rest]; {
	case mayComeBack(made.err):
		g.locks.mu.Lock()
		delete(s.made, suite) // it may be back
		g.locks.mu.Unlock()
		g.fail(w, r, made.err)
	case made.err != nil:
		pin, _, _ := g.locks.find(s, Debian+" "+made.pin)
		g.refuseBy(w, r, g.notServed(s, pin, pin.Path, made.err))
	case made.files == nil:
		return false
	case !ok:
		answer(w, http.StatusNotFound, "drydock: of this suite there is what "+s.file+" names")
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		http.ServeContent(w, r, "", time.Unix(s.epoch, 0), bytes.NewReader(doc))
	}
	return true
}

// makeIndex finds out whether a suite's index is to be made, and makes it.
func (g *Gateway) makeIndex(ctx context.Context, s *lockSet, suite string, made *madeIndex) {
	var index, packages []string // paths
	archive, _, _ := strings.Cut(suite, "/")
	for k := range s.pins {
		switch asked, ok := strings.CutPrefix(k, Debian+" "); {
		case !ok:
		case strings.HasPrefix(asked, suite+"/"):
			index = append(index, asked)
		case strings.HasPrefix(asked, archive+"/") && (strings.HasSuffix(asked, ".deb") || isDsc(asked)):
			packages = append(packages, asked)
		}
	}
	slices.Sort(index) // the Release file, which goes first, before what it lists
	slices.Sort(packages)
	if g.haveAll(ctx, s, index) {
		return
	}
	parts := partsOf(index, suite)
	stanzas := make([]stanza, len(packages))
	err := g.eachFile(ctx, s, Debian, packages, func(i int, asked string, b Blob) (err error) {
		read := stanzaOf
		if isDsc(asked) {
			read = sourceOf
		}
		if stanzas[i], err = read(b, strings.TrimPrefix(asked, archive+"/")); err != nil {
			return &madeError{asked, err}
		}
		return nil
	})
	if err != nil {
		var e *madeError
		if errors.As(err, &e) {
			made.pin, made.err = e.asked, e.err
		}
		return
	}
	g.logf("%s: the index of %s that %s names is served no more; steps get one of its %d packages, which apt cannot authenticate and the lock does", Debian, suite, s.file, len(packages))
	made.files = indexOf(path.Base(suite), time.Unix(s.epoch, 0), parts, stanzas)
}

type madeError struct {
	asked string
	err   error
}

func (e *madeError) Error() string { return e.asked + ": " + e.err.Error() }
func (e *madeError) Unwrap() error { return e.err }

// haveAll fetches all files; false when one is served no more. One that cannot
// be asked for now may be back.
func (g *Gateway) haveAll(ctx context.Context, s *lockSet, paths []string) bool {
	for _, asked := range paths {
		if _, err := g.pinnedBlob(ctx, s, Debian, asked); err != nil {
			return mayComeBack(err)
		}
	}
	return true
}

// pinnedBlob gets a file a lock names into the content store.
func (g *Gateway) pinnedBlob(ctx context.Context, s *lockSet, ecosystem, asked string) (Blob, error) {
	pin, _, _ := g.locks.find(s, ecosystem+" "+asked)
	wants, err := g.pinnedWants(ctx, s, pin, asked, http.Header{})
	for _, w := range wants {
		var blob Blob
		if blob, err = g.set.get(ctx, w); err == nil {
			return blob, nil
		}
	}
	if err == nil {
		err = notFoundError(gatewayURL + "/" + ecosystem + "/" + asked)
	}
	return Blob{}, err
}

// stanza is a package's in an index.
type stanza struct {
	arch string
	text []byte
}

// stanzaOf makes a package's stanza from its control file (Debian policy 5.3).
func stanzaOf(blob Blob, rel string) (stanza, error) {
	f, err := os.Open(blob.Path)
	if err != nil {
		return stanza{}, err
	}
	defer f.Close()
	size := blob.Material.Size
	p, err := deb.Open(f, size)
	if err != nil {
		return stanza{}, err
	}
	control := bytes.TrimSpace(p.Control["control"])
	out := stanza{}
	for line := range bytes.Lines(control) {
		if v, ok := bytes.CutPrefix(line, []byte("Architecture:")); ok {
			out.arch = string(bytes.TrimSpace(v))
		}
	}
	if out.arch == "" {
		return stanza{}, errors.New("the package does not say of which architecture it is")
	}
	out.text = fmt.Appendf(nil, "%s\nFilename: %s\nSize: %d\nSHA256: %s\n\n", control, rel, size, blob.Material.Digest.Hex())
	return out, nil
}

// ofSource is the architecture of a stanza, or a list, of sources.
const ofSource = "source"

func isDsc(asked string) bool { return strings.HasSuffix(asked, ".dsc") }

// sourceOf makes a source package's stanza of its control file, which is signed in
// itself (Debian policy 5.4): the Source is the Package, and the file itself is
// one more of those it lists.
func sourceOf(blob Blob, rel string) (stanza, error) {
	text, err := os.ReadFile(blob.Path)
	if err != nil {
		return stanza{}, err
	}
	if _, signed, ok := bytes.Cut(text, []byte("-----BEGIN PGP SIGNED MESSAGE-----")); ok {
		_, text, _ = bytes.Cut(signed, []byte("\n\n"))
		text, _, _ = bytes.Cut(text, []byte("-----BEGIN PGP SIGNATURE-----"))
	}
	own := fmt.Sprintf(" %s %d %s\n", blob.Material.Digest.Hex(), blob.Material.Size, path.Base(rel))
	var out bytes.Buffer
	skip, named, listed := false, false, false
	for line := range bytes.Lines(append(bytes.TrimSpace(text), '\n')) {
		field, _, ok := bytes.Cut(line, []byte(":"))
		if ok && len(line) > 0 && line[0] != ' ' && line[0] != '\t' {
			skip = bytes.Equal(field, []byte("Files")) || bytes.Equal(field, []byte("Checksums-Sha1"))
			switch string(field) {
			case "Source":
				line = append([]byte("Package"), line[len(field):]...)
				named = true
			case "Checksums-Sha256":
				line = []byte("Checksums-Sha256:\n" + own)
				listed = true
			}
		}
		if !skip {
			out.Write(line)
		}
	}
	if !named || !listed {
		return stanza{}, errors.New("it is no control file of a source package")
	}
	fmt.Fprintf(&out, "Directory: %s\n\n", path.Dir(rel))
	return stanza{arch: ofSource, text: out.Bytes()}, nil
}

// part is one list of packages of a suite.
type part struct{ component, arch string }

// file is where it is below the suite.
func (p part) file() string {
	if p.arch == ofSource {
		return p.component + "/source/Sources"
	}
	return p.component + "/binary-" + p.arch + "/Packages"
}

// partsOf are the lists whose files a lock names, below a suite.
func partsOf(index []string, suite string) []part {
	var out []part
	for _, asked := range index {
		component, rest, _ := strings.Cut(strings.TrimPrefix(asked, suite+"/"), "/binary-")
		arch, _, ok := strings.Cut(rest, "/")
		if below := strings.TrimPrefix(asked, suite+"/"); strings.Contains(below, "/source/") {
			component, _, ok = strings.Cut(below, "/source/")
			arch = ofSource
		}
		if p := (part{component, arch}); ok && arch != "all" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// indexOf writes a suite's lists and the Release file that names them.
func indexOf(suite string, at time.Time, parts []part, stanzas []stanza) map[string][]byte {
	files := map[string][]byte{}
	var components, archs []string
	var sums strings.Builder
	for _, p := range parts {
		var list []byte
		for _, s := range stanzas {
			if s.arch == p.arch || s.arch == "all" && p.arch != ofSource {
				list = append(list, s.text...)
			}
		}
		name := p.file()
		files[name] = list
		sum := sha256.Sum256(list)
		fmt.Fprintf(&sums, " %s %d %s\n", hex.EncodeToString(sum[:]), len(list), name)
		if components = append(components, p.component); p.arch != ofSource {
			archs = append(archs, p.arch)
		}
	}
	slices.Sort(components)
	slices.Sort(archs)
	var release strings.Builder
	fmt.Fprintf(&release, "Origin: Debian\nLabel: Debian\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\nComponents: %s\n",
		suite, suite, at.UTC().Format(time.RFC1123), strings.Join(slices.Compact(archs), " "), strings.Join(slices.Compact(components), " "))
	if strings.HasSuffix(suite, "-backports") { // taken when asked for, as there
		release.WriteString("NotAutomatic: yes\nButAutomaticUpgrades: yes\n")
	}
	release.WriteString("SHA256:\n" + sums.String())
	files["Release"] = []byte(release.String())
	return files
}
