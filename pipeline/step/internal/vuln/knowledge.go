package vuln

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/pkg"
	"gorm.io/gorm"

	"drydock/modules/artifact"
)

// KnowledgeFile lies beside vulnerability.db and says what it knows, for a
// database that knows that better than a look at its rows does.
const KnowledgeFile = "knowledge.json"

type knowledgeFile struct {
	Version   int                           `json:"version"`
	Knowledge map[string]artifact.Knowledge `json:"knowledge"` // by package type
	Packages  map[string][]string           `json:"packages,omitempty"`
}

// describe identifies the database and says what it knows of each type of
// package that is looked at.
func describe(r v6.Reader, o Options, packages []pkg.Package) (*artifact.Database, error) {
	meta, err := r.GetDBMetadata()
	if err != nil {
		return nil, err
	}
	d := &artifact.Database{
		Source: o.Source, Digest: o.Digest,
		Schema:    fmt.Sprintf("v%d.%d.%d", meta.Model, meta.Revision, meta.Addition),
		Knowledge: map[string]artifact.Knowledge{},
	}
	if meta.BuildTimestamp != nil {
		d.Built = meta.BuildTimestamp.UTC()
	}
	if d.Digest == "" {
		if d.Digest, err = fileDigest(filepath.Join(o.DB, v6.VulnerabilityDBFileName)); err != nil {
			return nil, err
		}
	}
	declared, err := readKnowledge(o.DB)
	if err != nil {
		return nil, err
	}
	db, ok := r.(interface{ GetDB() *gorm.DB })
	if !ok {
		return nil, errors.New("this release of grype does not let the database be asked")
	}
	for typ, distro := range typesOf(packages) {
		if declared != nil {
			k := declared.Knowledge[typ]
			k.Covered = k.Covered && covers(declared, typ, packages)
			d.Knowledge[typ] = k
			continue
		}
		if d.Knowledge[typ], err = ask(db.GetDB(), typ, distro); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// typesOf is every type of package there is, with its distribution if the
// distribution makes it.
func typesOf(packages []pkg.Package) map[string]*distro.Distro {
	out := map[string]*distro.Distro{}
	for _, p := range packages {
		d := p.Distro
		switch p.Type {
		case "deb", "rpm", "apk", "alpm", "portage":
		default:
			d = nil // the distribution it lies in does not say what it is
		}
		out[string(p.Type)] = d
	}
	return out
}

// covers says whether a database built for a set of packages was built for
// these.
func covers(k *knowledgeFile, typ string, packages []pkg.Package) bool {
	set, limited := k.Packages[typ]
	if !limited {
		return true
	}
	have := map[string]bool{}
	for _, s := range set {
		have[s] = true
	}
	for _, p := range packages {
		if string(p.Type) == typ && !have[sourceName(p)] {
			return false
		}
	}
	return true
}

// sourceName is the source package a binary package was made from.
func sourceName(p pkg.Package) string {
	if len(p.Upstreams) > 0 && p.Upstreams[0].Name != "" {
		return p.Upstreams[0].Name
	}
	return p.Name
}

func readKnowledge(dir string) (*knowledgeFile, error) {
	raw, err := os.ReadFile(filepath.Join(dir, KnowledgeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := new(knowledgeFile)
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("parsing %s: %w", KnowledgeFile, err)
	}
	if k.Version != 1 {
		return nil, fmt.Errorf("%s has version %d, want 1", KnowledgeFile, k.Version)
	}
	return k, nil
}

// ask looks at the database's rows: whether it has any for a type, whether any
// speaks of a vulnerability that is not fixed, and whether most are rated.
func ask(db *gorm.DB, typ string, d *distro.Distro) (artifact.Knowledge, error) {
	var k artifact.Knowledge
	from := "FROM affected_package_handles a JOIN packages p ON p.id = a.package_id WHERE p.ecosystem = ?"
	args := []any{typ}
	if d != nil {
		ids, err := systems(db, d)
		if err != nil || len(ids) == 0 {
			return k, err
		}
		from = "FROM affected_package_handles a JOIN packages p ON p.id = a.package_id WHERE p.ecosystem = ? AND a.operating_system_id IN ?"
		args = append(args, ids)
	}
	total, err := number(db, "SELECT count(*) "+from, args...)
	if err != nil || total == 0 {
		return k, err
	}
	k.Covered = true
	unfixed, err := number(db, "SELECT EXISTS (SELECT 1 "+strings.Replace(from, " WHERE ", " JOIN blobs b ON b.id = a.blob_id WHERE ", 1)+
		` AND b.value NOT LIKE '%"state":"fixed"%')`, args...)
	if err != nil {
		return k, err
	}
	rated, err := number(db, "SELECT count(*) "+strings.Replace(from, " WHERE ",
		" JOIN vulnerability_handles v ON v.id = a.vulnerability_id JOIN blobs b ON b.id = v.blob_id WHERE ", 1)+
		` AND b.value LIKE '%"severities":%'`, args...)
	if err != nil {
		return k, err
	}
	k.Unfixed, k.Severities = unfixed == 1, 2*rated >= total
	return k, nil
}

// systems are the database's names for a distribution's release.
func systems(db *gorm.DB, d *distro.Distro) ([]int64, error) {
	major := d.MajorVersion()
	if n, err := strconv.Atoi(major); err == nil {
		major = strconv.Itoa(n) // the database drops leading zeros
	}
	var ids []int64
	err := db.Raw("SELECT id FROM operating_systems WHERE (lower(name) = lower(?) OR lower(release_id) = lower(?)) AND (major_version = ? OR ? = '')",
		d.Name(), d.Name(), major, major).Scan(&ids).Error
	return ids, err
}

func number(db *gorm.DB, query string, args ...any) (int64, error) {
	var n int64
	err := db.Raw(query, args...).Scan(&n).Error
	return n, err
}
