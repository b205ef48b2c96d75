package mirror

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1" //nolint:gosec // npm's shasum, beside a better one
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drydock/modules/mirror/lockfile"
)

// What npm and PyPI say of a package changes with every release, deprecation and
// signature, and nobody keeps what was said before; the files of a release stay.
// When the metadata a lock names is served no more, the gateway makes some of the
// lock's own files, as it does of Debian's packages (lockedindex.go): it has the
// versions in the lock and no others, as they describe themselves, so clients
// choose the same, and each file is held to its digest in the lock.

// madeMeta is the metadata of one package, as a lock has it.
type madeMeta struct {
	once sync.Once
	npm  *npmDoc
	pypi *pypiPage
	err  error  // of a file that cannot be had
	pin  string // that file's path
}

// serveMadeMeta answers with metadata made of a lock's files. false: what is asked
// for is no metadata, or the lock has no file of the package.
func (g *Gateway) serveMadeMeta(w http.ResponseWriter, r *http.Request, s *lockSet, pin lockfile.Material, rel string) bool {
	name, version := "", ""
	switch {
	case pin.Ecosystem == Npm && isNpmMeta(rel):
		name, version = npmName(rel)
	case pin.Ecosystem == PyPI && strings.HasPrefix(pin.Path, "simple/"):
		name = strings.TrimPrefix(pin.Path, "simple/")
	default:
		return false
	}
	key := pin.Ecosystem + " " + name
	g.locks.mu.Lock()
	made := s.meta[key]
	if made == nil {
		made = &madeMeta{}
		s.meta[key] = made
	}
	g.locks.mu.Unlock()
	made.once.Do(func() { g.makeMeta(context.WithoutCancel(r.Context()), s, pin.Ecosystem, name, made) })
	var out []byte
	var contentType string
	err := made.err
	switch {
	case err != nil && mayComeBack(err):
		g.locks.mu.Lock()
		delete(s.meta, key)
		g.locks.mu.Unlock()
		g.fail(w, r, err)
		return true
	case err != nil:
		of, _, _ := g.locks.find(s, pin.Ecosystem+" "+made.pin)
		g.refuseBy(w, r, g.notServed(s, of, of.Path, err))
		return true
	case made.npm != nil:
		if out, err = made.npm.render(version); out != nil && err == nil {
			out, err = rewriteTarballs(out, npmBase(r, rel), name)
		}
		contentType = npmForm(r.Header)
	case made.pypi != nil:
		out, contentType, err = made.pypi.render(pypiPath(rel), r.Header)
	}
	if err != nil || out == nil {
		return false
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Vary", "Accept")
	_, _ = w.Write(out)
	return true
}

// render is the document, or one version's by number or tag; nil without it.
func (d *npmDoc) render(version string) ([]byte, error) {
	if version == "" {
		return json.Marshal(d)
	}
	if one, ok := d.version(version); ok {
		return json.Marshal(one)
	}
	return nil, nil
}

// makeMeta makes a package's metadata of the files a lock has of it.
func (g *Gateway) makeMeta(ctx context.Context, s *lockSet, ecosystem, name string, made *madeMeta) {
	files := s.filesOf(ecosystem, name)
	var err error
	switch {
	case ecosystem == PyPI && (len(files) > 0 || name == "pip"): // pip looks for newer versions of itself in vain
		made.pypi, err = g.makePage(ctx, s, name, files)
	case ecosystem == Npm && len(files) > 0:
		made.npm, err = g.makeDoc(ctx, s, name, files)
	case ecosystem == Npm:
		// npm reads of packages that are for other machines and then leaves them out
		var optional bool
		if optional, err = g.isOptional(ctx, s, name); optional {
			made.npm = &npmDoc{Name: name, Tags: map[string]string{}, Time: map[string]time.Time{}, Versions: map[string]map[string]any{}}
		}
	}
	var e *madeError
	switch {
	case errors.As(err, &e):
		made.pin, made.err = e.asked, e.err
	case err != nil:
		g.logf("%s: nothing can be said of %s: %v", ecosystem, name, err)
	case made.npm != nil || made.pypi != nil:
		g.logf("%s: what is said of %s that %s names is served no more; steps are told of its %d files", ecosystem, name, s.file, len(files))
	}
}

// filesOf are the paths of the files a lock has of a package; "" is all packages.
func (s *lockSet) filesOf(ecosystem, name string) []string {
	var out []string
	for key := range s.pins {
		asked, ok := strings.CutPrefix(key, ecosystem+" ")
		switch {
		case !ok:
		case ecosystem == Npm && npmPURL(asked) != "" && (name == "" || strings.HasPrefix(asked, name+"/-/")),
			ecosystem == PyPI && strings.HasPrefix(asked, "files/"+name+"/") && !strings.HasSuffix(asked, ".metadata"):
			out = append(out, asked)
		}
	}
	slices.Sort(out)
	return out
}

// eachFile fetches files of a lock and looks into them, several at a time.
func (g *Gateway) eachFile(ctx context.Context, s *lockSet, ecosystem string, files []string, look func(i int, asked string, b Blob) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, asked := range files {
		group.Go(func() error {
			blob, err := g.pinnedBlob(ctx, s, ecosystem, asked)
			if err != nil {
				return &madeError{asked, err}
			}
			if err = look(i, asked, blob); err != nil {
				return fmt.Errorf("reading %s: %w", asked, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// makeDoc makes npm's metadata of a package.
func (g *Gateway) makeDoc(ctx context.Context, s *lockSet, name string, files []string) (*npmDoc, error) {
	all := make([]map[string]any, len(files))
	err := g.eachFile(ctx, s, Npm, files, func(i int, asked string, b Blob) (err error) {
		all[i], err = readTarball(b.Path)
		if err == nil && (all[i]["name"] != name || asked != npmTarballRel(name, fmt.Sprint(all[i]["version"]))) {
			err = fmt.Errorf("it says that it is %v %v", all[i]["name"], all[i]["version"])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	doc := &npmDoc{Name: name, Tags: map[string]string{}, Time: map[string]time.Time{}, Versions: map[string]map[string]any{}}
	var versions []string
	for _, one := range all {
		version := fmt.Sprint(one["version"])
		doc.Versions[version] = npmVersion(name, version, one)
		versions = append(versions, "v"+version)
	}
	if newest := strings.TrimPrefix(newestVersion(versions), "v"); newest != "" {
		doc.Tags["latest"] = newest
	}
	return doc, nil
}

// isOptional says whether a file of a lock wants a package only if it can be had.
func (g *Gateway) isOptional(ctx context.Context, s *lockSet, name string) (bool, error) {
	files := s.filesOf(Npm, "")
	found := make([]bool, len(files))
	err := g.eachFile(ctx, s, Npm, files, func(i int, _ string, b Blob) error {
		one, err := readTarball(b.Path)
		optional, _ := one["optionalDependencies"].(map[string]any)
		_, found[i] = optional[name]
		return err
	})
	return slices.Contains(found, true), err
}

// tarballLimit bounds what of a package is unpacked to be looked at, and
// manifestLimit what of that is read, in bytes.
const (
	tarballLimit  = 4 << 30
	manifestLimit = 8 << 20
)

// readTarball is what a package says of itself, in the form of the registry's
// metadata: its package.json, with what the registry adds when it is published.
func readTarball(file string) (map[string]any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	weak, strong := sha1.New(), sha512.New() //nolint:gosec // as above
	in := io.TeeReader(f, io.MultiWriter(weak, strong))
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	has := map[string]bool{}
	for t := tar.NewReader(io.LimitReader(z, tarballLimit)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(path.Clean(h.Name), "/") // npm, too, takes the first folder's name for any
		if has[name] = true; name == "package.json" && out == nil {
			if err := json.NewDecoder(io.LimitReader(t, manifestLimit)).Decode(&out); err != nil {
				return nil, fmt.Errorf("reading package.json: %w", err)
			}
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, err
	}
	if out == nil {
		return nil, errors.New("the package has no package.json")
	}
	asPublished(out, has)
	out["dist"] = map[string]any{
		"integrity": "sha512-" + base64.StdEncoding.EncodeToString(strong.Sum(nil)), "shasum": hex.EncodeToString(weak.Sum(nil)),
	}
	return out, nil
}

// asPublished changes a package.json as npm does when it publishes it (the
// registry's documentation, "package metadata"; npm's normalization of bin).
func asPublished(manifest map[string]any, has map[string]bool) {
	if bin, ok := manifest["bin"].(string); ok {
		manifest["bin"] = map[string]any{path.Base(fmt.Sprint(manifest["name"])): bin}
	}
	scripts, _ := manifest["scripts"].(map[string]any)
	if has["binding.gyp"] && manifest["gypfile"] != false && scripts["install"] == nil && scripts["preinstall"] == nil {
		if scripts == nil {
			scripts = map[string]any{}
		}
		scripts["install"] = "node-gyp rebuild"
		manifest["scripts"] = scripts
	}
	for _, when := range []string{"preinstall", "install", "postinstall"} {
		if scripts[when] != nil {
			manifest["hasInstallScript"] = true
		}
	}
	if has["npm-shrinkwrap.json"] {
		manifest["_hasShrinkwrap"] = true
	}
	// those that are optional are no others
	optional, _ := manifest["optionalDependencies"].(map[string]any)
	needed, _ := manifest["dependencies"].(map[string]any)
	for name := range optional {
		delete(needed, name)
	}
}

// makePage makes a project's page of a simple index.
func (g *Gateway) makePage(ctx context.Context, s *lockSet, project string, files []string) (*pypiPage, error) {
	all := make([]pypiFile, len(files))
	err := g.eachFile(ctx, s, PyPI, files, func(i int, asked string, b Blob) error {
		name := path.Base(asked)
		all[i] = pypiFile{
			Filename: name, URL: url.PathEscape(name), Hashes: map[string]string{"sha256": b.Material.Digest.Hex()}, Size: b.Material.Size,
		}
		if beside, ok, _ := g.locks.find(s, PyPI+" "+asked+".metadata"); ok {
			all[i].Metadata = map[string]any{"sha256": beside.Digest.Hex()}
		}
		var err error
		if strings.HasSuffix(name, ".whl") {
			all[i].RequiresPython, err = requiresPython(b.Path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &pypiPage{Name: project, Files: all}, nil
}

// requiresPython is which Python a wheel says it is for (core metadata); "" when
// it says nothing.
func requiresPython(file string) (string, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return "", err
	}
	defer z.Close()
	for _, f := range z.File {
		if dir, base := path.Split(f.Name); base != "METADATA" || !strings.HasSuffix(dir, ".dist-info/") || strings.Count(dir, "/") != 1 {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return "", err
		}
		defer in.Close()
		b, err := io.ReadAll(io.LimitReader(in, manifestLimit))
		if err != nil {
			return "", err
		}
		head, _, _ := bytes.Cut(b, []byte("\n\n"))
		h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(head, "\n\n"...)))).ReadMIMEHeader()
		return h.Get("Requires-Python"), err
	}
	return "", nil
}
