package vuln

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
	"gorm.io/gorm"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/changelog"
)

// Build says what a database is built from.
type Build struct {
	Debs   string    // directory of binary packages
	Distro string    // "debian 12"
	Built  time.Time // when the packages were fetched
	Out    string    // directory for vulnerability.db and knowledge.json
}

// provider is the name distributions' records go by in grype.
const provider = "debian"

// affected is one vulnerability of one source package.
type affected struct {
	source string
	changelog.Fix
}

// FromChangelogs builds a database from the changelogs in packages: what they
// say was fixed, and in which version. It knows neither severities nor what is
// not fixed yet, and says so in knowledge.json.
func FromChangelogs(b Build) (*wire.Database, error) {
	name, major, ok := strings.Cut(b.Distro, " ")
	if !ok || name != "debian" {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "building vulnerability database",
			Message: fmt.Sprintf("changelogs say nothing of %q", b.Distro), Remedy: "give a database with vulndb in mirrors.yaml"}
	}
	found, sources, silent, err := collect(b.Debs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return nil, err
	}
	if err := writeDatabase(b, major, found); err != nil {
		return nil, fmt.Errorf("writing vulnerability database: %w", err)
	}
	k := knowledgeFile{
		Version:   1,
		Knowledge: map[string]artifact.Knowledge{"deb": {Covered: true}},
		Packages:  map[string][]string{"deb": sources},
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(b.Out, KnowledgeFile), append(raw, '\n'), 0o644); err != nil {
		return nil, err
	}
	d, err := finish(b.Out)
	if err != nil {
		return nil, err
	}
	d.Digest = recordsDigest(b, sources, found)
	d.Entries, d.Sources, d.Silent = len(found), sources, silent
	return d, nil
}

// collect reads every package's changelog. Of a source package it takes the
// longest; silent are the packages that carry none.
func collect(dir string) (found []affected, sources, silent []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, nil, nil, err
	}
	logs := map[string][]changelog.Entry{}
	for _, f := range files {
		entries, err := changelog.FromDeb(f)
		if errors.Is(err, changelog.ErrNone) {
			silent = append(silent, filepath.Base(f))
			continue
		}
		if err != nil {
			return nil, nil, nil, &artifact.Error{Kind: artifact.KindFault, Op: "building vulnerability database", Err: err,
				Remedy: "the mirror serves a broken package; give a database with vulndb in mirrors.yaml"}
		}
		if s := entries[0].Source; len(entries) > len(logs[s]) {
			logs[s] = entries
		}
	}
	for s, entries := range logs {
		sources = append(sources, s)
		for _, fix := range changelog.Fixes(entries) {
			found = append(found, affected{s, fix})
		}
	}
	sort.Strings(sources)
	sort.Slice(found, func(i, j int) bool {
		if found[i].CVE != found[j].CVE {
			return found[i].CVE < found[j].CVE
		}
		return found[i].source < found[j].source
	})
	return found, sources, silent, nil
}

// recordsDigest names what a built database says. Its file's own digest would
// not do: the order in which gorm writes constraints is that of a Go map.
func recordsDigest(b Build, sources []string, found []affected) artifact.Digest {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "changelogs 1\n%s\n%d\n%s\n", b.Distro, b.Built.Unix(), strings.Join(sources, " "))
	for _, a := range found {
		_, _ = fmt.Fprintln(h, a.CVE, a.source, a.Version, a.Date.Unix())
	}
	return artifact.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// codename is what Debian calls a release; the database can do without.
func codename(major string) string {
	return map[string]string{"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}[major]
}

func writeDatabase(b Build, major string, found []affected) (err error) {
	w, err := v6.NewWriter(v6.Config{DBDirPath: b.Out})
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, w.Close())
		}
	}()
	built := b.Built.UTC().Truncate(time.Second)
	p := v6.Provider{ID: provider, Version: "1", Processor: "drydock", DateCaptured: &built}
	if err := w.AddProvider(p); err != nil {
		return err
	}
	os := &v6.OperatingSystem{Name: provider, ReleaseID: provider, MajorVersion: major, Codename: codename(major)}
	var handle *v6.VulnerabilityHandle
	for _, a := range found {
		if handle == nil || handle.Name != a.CVE {
			handle = &v6.VulnerabilityHandle{
				Name: a.CVE, Status: v6.VulnerabilityActive, ProviderID: provider, Provider: &p,
				BlobValue: &v6.VulnerabilityBlob{ID: a.CVE},
			}
			if err := w.AddVulnerabilities(handle); err != nil {
				return err
			}
		}
		if err := w.AddAffectedPackages(newAffected(handle, os, a)); err != nil {
			return err
		}
	}
	// The writer stamps the clock; the same packages must give the same bytes.
	db, ok := w.(interface{ GetDB() *gorm.DB })
	if !ok {
		return errors.New("this release of grype does not let the database be asked")
	}
	if err := db.GetDB().Exec("UPDATE db_metadata SET build_timestamp = ?", built).Error; err != nil {
		return err
	}
	closed = true
	return w.Close()
}

func newAffected(h *v6.VulnerabilityHandle, os *v6.OperatingSystem, a affected) *v6.AffectedPackageHandle {
	fix := &v6.Fix{Version: a.Version, State: v6.FixedStatus}
	if !a.Date.IsZero() {
		date := a.Date
		fix.Detail = &v6.FixDetail{Available: &v6.FixAvailability{Date: &date, Kind: "release"}}
	}
	return &v6.AffectedPackageHandle{
		VulnerabilityID: h.ID, Vulnerability: h, OperatingSystem: os,
		Package: &v6.Package{Ecosystem: "deb", Name: a.source},
		BlobValue: &v6.PackageBlob{Ranges: []v6.Range{{
			Version: v6.Version{Type: "dpkg", Constraint: "< " + a.Version}, Fix: fix,
		}}},
	}
}

// finish indexes a database, which is shipped without indexes, leaves the note
// by which stock grype knows that it is indexed, and describes it. The digest
// is that of the file as it was shipped: the order in which indexes are made,
// and so the bytes after, differ from run to run.
func finish(dir string) (*wire.Database, error) {
	path := filepath.Join(dir, v6.VulnerabilityDBFileName)
	// Asked before it is touched: indexing would make a v6 database of anything.
	d, err := v6.ReadDescription(path)
	if err != nil {
		return nil, databaseError(dir, err)
	}
	digest, err := fileDigest(path)
	if err != nil {
		return nil, err
	}
	if err := hydrate(dir); err != nil {
		return nil, err
	}
	out := &wire.Database{Version: wire.Version, Digest: digest, Schema: d.SchemaVersion.String(), Built: d.Built.UTC()}
	for _, name := range []string{v6.VulnerabilityDBFileName, v6.ImportMetadataFileName, KnowledgeFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			out.Files = append(out.Files, name)
		}
	}
	return out, nil
}

func hydrate(dir string) error {
	if err := v6.Hydrater()(dir); err != nil {
		return fmt.Errorf("indexing vulnerability database: %w", err)
	}
	if _, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, "drydock"); err != nil {
		return fmt.Errorf("indexing vulnerability database: %w", err)
	}
	return nil
}
