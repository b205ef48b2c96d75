package scan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
)

const (
	maxLatest  = 1 << 20
	maxArchive = 8 << 30
)

// latest is a mirror's latest.json, as grype reads it.
type latest struct {
	Status        string          `json:"status"`
	SchemaVersion string          `json:"schemaVersion"`
	Path          string          `json:"path"` // beside latest.json
	Checksum      artifact.Digest `json:"checksum"`
}

func (r Resolver) parseLatest(raw []byte) (latest, error) {
	var l latest
	wrong := func(message string, err error) error {
		return &artifact.Error{Kind: artifact.KindUsage, Op: op, Place: r.Setting, Message: message, Err: err,
			Remedy: "point vulndb at the latest.json of a grype v6 mirror"}
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, wrong("it is no latest.json", err)
	}
	if !strings.HasPrefix(strings.TrimPrefix(l.SchemaVersion, "v"), "6.") {
		return l, wrong(fmt.Sprintf("its databases have schema %q, want v6", l.SchemaVersion), nil)
	}
	if _, err := artifact.ParseDigest(string(l.Checksum)); err != nil {
		return l, wrong("its checksum is not a sha256 digest", nil)
	}
	if l.Path == "" || path.IsAbs(l.Path) || strings.Contains("/"+l.Path+"/", "/../") {
		return l, wrong(fmt.Sprintf("its path %q does not lead to a file beside it", l.Path), nil)
	}
	return l, nil
}

// remote is what a mirror serves.
func (r Resolver) remote(ctx context.Context) (DB, error) {
	u, err := url.Parse(r.Setting)
	if err != nil || u.Host == "" {
		return DB{}, &artifact.Error{Kind: artifact.KindUsage, Op: op, Place: r.Place,
			Message: "vulndb is not a URL", Remedy: "write http(s)://host/path/latest.json"}
	}
	if path.Ext(u.Path) != ".json" {
		return r.remoteArchive(ctx, u)
	}
	raw, err := r.get(ctx, u)
	if err != nil {
		return DB{}, err
	}
	l, err := r.parseLatest(raw)
	if err != nil {
		return DB{}, err
	}
	key := importKey(string(l.Checksum))
	if db, ok := r.stored(key, SourceMirror); ok {
		return db, nil
	}
	// Not ResolveReference: archives are named after times, and a colon in the
	// first element would make a scheme of it.
	archive := *u
	archive.Path, archive.RawPath = path.Join(path.Dir(u.Path), l.Path), ""
	file, got, _, err := r.download(ctx, &archive, "")
	if err != nil {
		return DB{}, err
	}
	defer func() { _ = os.Remove(file) }()
	if got != l.Checksum {
		return DB{}, &artifact.Error{Kind: artifact.KindFault, Op: op, Place: archive.Redacted(),
			Message: fmt.Sprintf("the archive is %s, latest.json says %s", got, l.Checksum),
			Remedy:  "try again; if it stays so, the mirror is broken"}
	}
	return r.imported(ctx, key, file, l.Checksum, SourceMirror)
}

// remoteArchive is an archive or a database at a URL of its own. What it was
// the last time is asked for by its entity tag.
func (r Resolver) remoteArchive(ctx context.Context, u *url.URL) (DB, error) {
	note := filepath.Join(r.dir(), "url-"+hashKey(u.Redacted())+".json")
	var known struct{ ETag, Digest string }
	if raw, err := os.ReadFile(note); err == nil {
		_ = json.Unmarshal(raw, &known) // an unreadable note is none
	}
	db, have := r.stored(importKey(known.Digest), SourceMirror)
	if !have {
		known.ETag = ""
	}
	file, got, tag, err := r.download(ctx, u, known.ETag)
	if err != nil {
		return DB{}, err
	}
	if file == "" {
		return db, nil
	}
	defer func() { _ = os.Remove(file) }()
	db, err = r.imported(ctx, importKey(string(got)), file, got, SourceMirror)
	if err != nil {
		return DB{}, err
	}
	known.ETag, known.Digest = tag, string(got)
	raw, err := json.Marshal(known)
	if err == nil {
		err = os.WriteFile(note, raw, 0o644)
	}
	if err != nil {
		return DB{}, r.fault("writing to the cache directory", err)
	}
	return db, nil
}

// get reads a small document.
func (r Resolver) get(ctx context.Context, u *url.URL) ([]byte, error) {
	resp, err := r.request(ctx, u, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxLatest))
	if err != nil {
		return nil, r.fault("reading "+u.Redacted(), err)
	}
	return raw, nil
}

// download fetches a file into the cache directory. The name is "" when the
// server says that the tagged one still holds.
func (r Resolver) download(ctx context.Context, u *url.URL, tag string) (file string, d artifact.Digest, etag string, err error) {
	resp, err := r.request(ctx, u, tag)
	if err != nil {
		return "", "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNotModified {
		return "", "", tag, nil
	}
	f, err := os.CreateTemp(r.dir(), ".download-")
	if err != nil {
		return "", "", "", r.fault("writing to the cache directory", err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(resp.Body, maxArchive+1))
	if err == nil && n > maxArchive {
		err = fmt.Errorf("it has more than %d bytes", int64(maxArchive))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		if cause := context.Cause(ctx); cause != nil {
			return "", "", "", cause
		}
		return "", "", "", r.fault("fetching "+u.Redacted(), err)
	}
	return f.Name(), artifact.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), resp.Header.Get("ETag"), nil
}

func (r Resolver) request(ctx context.Context, u *url.URL, tag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, r.fault("asking "+u.Redacted(), err)
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	client := r.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, r.fault("asking "+u.Redacted(), err)
	}
	if resp.StatusCode == http.StatusOK || (tag != "" && resp.StatusCode == http.StatusNotModified) {
		return resp, nil
	}
	_ = resp.Body.Close()
	return nil, r.fault(fmt.Sprintf("%s answered %s", u.Redacted(), resp.Status), nil)
}
