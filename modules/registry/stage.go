package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

const manifestLimit = 8 << 20 // olareg's default

// stage is one embedded registry: olareg over a folder, and around it what
// olareg 0.2.1 lacks: manifest writes of one repository come one after the other
// (its list of referrers is read, changed and written without a lock, so
// concurrent pushes lose some), a damaged repository is refused instead of
// written over, and a failure says why.
type stage struct {
	dir    string
	olareg http.Handler
	log    *lastError
	locks  keyedLocks

	mu    sync.Mutex
	known map[string]stamp // index.json of each repository as last checked
}

type stamp struct {
	mod  time.Time
	size int64
}

func newStage(dir string) *stage {
	log := &lastError{}
	no := false
	return &stage{
		dir: dir, log: log, known: map[string]stamp{},
		olareg: olareg.New(config.Config{
			Storage: config.ConfigStorage{
				StoreType: config.StoreDir, RootDir: dir,
				// Nothing is collected: a stage is small, and an image without a tag
				// is how everything is kept here.
				GC: config.ConfigGC{
					Frequency: -1, GracePeriod: -1, RepoUploadMax: -1,
					Untagged: &no, EmptyRepo: &no, ReferrersDangling: &no, ReferrersWithSubj: &no,
				},
			},
			API: config.ConfigAPI{DeleteEnabled: new(true)},
			Log: slog.New(log),
		}),
	}
}

// ServeHTTP implements the distribution API.
func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Trim(r.URL.Path, "/") == "v2/_catalog" {
		s.catalog(w)
		return
	}
	repo, kind := splitPath(r.URL.Path)
	if repo != "" {
		if err := s.check(repo); err != nil {
			writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
	}
	ew := &errorWriter{ResponseWriter: w, log: s.log, upload: strings.Contains(r.URL.Path, "/blobs/uploads/")}
	defer ew.finish()
	if kind == "referrers" {
		lw := &listWriter{ResponseWriter: ew}
		s.olareg.ServeHTTP(lw, r)
		lw.finish()
		return
	}
	if kind != "manifests" || r.Method == http.MethodGet || r.Method == http.MethodHead {
		s.olareg.ServeHTTP(ew, r)
		return
	}
	// The body is read before the lock is taken: a slow client holds up nobody.
	body, err := io.ReadAll(io.LimitReader(r.Body, manifestLimit+1))
	if err != nil {
		writeError(w, http.StatusBadRequest, "MANIFEST_INVALID", "reading the manifest: "+err.Error())
		return
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	defer s.locks.lock(repo)()
	s.olareg.ServeHTTP(ew, r)
}

// splitPath finds repository and kind (manifests, blobs, tags, referrers) in a
// path of the distribution API.
func splitPath(path string) (repo, kind string) {
	p, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", ""
	}
	parts := strings.Split(strings.Trim(p, "/"), "/")
	for i := len(parts) - 1; i > 0; i-- {
		switch parts[i] {
		case "manifests", "blobs", "tags", "referrers":
			return strings.Join(parts[:i], "/"), parts[i]
		}
	}
	return "", ""
}

// check refuses a repository whose state cannot be read. olareg would take it
// for empty and write over it.
func (s *stage) check(repo string) error {
	if !filepath.IsLocal(filepath.FromSlash(repo)) {
		return nil // olareg refuses the name, by its pattern
	}
	dir := filepath.Join(s.dir, filepath.FromSlash(repo))
	s.mu.Lock()
	if _, seen := s.known[repo]; !seen {
		s.known[repo] = stamp{}
		sweep(dir)
	}
	s.mu.Unlock()
	index := filepath.Join(dir, "index.json")
	fi, err := os.Stat(index)
	if errors.Is(err, fs.ErrNotExist) {
		if blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); err != nil || len(blobs) == 0 {
			return nil // not there yet
		}
		fi, err = os.Stat(index) // made meanwhile by another request: it comes before any blob
	}
	if err != nil {
		return corrupt(index, err)
	}
	now := stamp{fi.ModTime(), fi.Size()}
	s.mu.Lock()
	last := s.known[repo]
	s.mu.Unlock()
	if last == now {
		return nil
	}
	for _, file := range []string{"oci-layout", "index.json"} {
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err != nil {
			return corrupt(path, err)
		}
		var v struct {
			ImageLayoutVersion string            `json:"imageLayoutVersion"`
			SchemaVersion      int               `json:"schemaVersion"`
			Manifests          []json.RawMessage `json:"manifests"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return corrupt(path, err)
		}
		if (file == "oci-layout") != (v.ImageLayoutVersion == "1.0.0") || (file == "index.json") != (v.SchemaVersion == 2) {
			return corrupt(path, errors.New("not what an OCI layout has there"))
		}
	}
	s.mu.Lock()
	s.known[repo] = now
	s.mu.Unlock()
	return nil
}

func corrupt(path string, err error) error {
	return fmt.Errorf("the state of the embedded registry is damaged: %s: %w; nothing was changed: "+
		"restore the file from a backup, or move its folder away to start anew", path, err)
}

// sweep removes uploads a killed program left. It runs before the first request
// to a repository, under the lock on the folder, so none is in progress.
func sweep(dir string) {
	_ = os.RemoveAll(filepath.Join(dir, "_uploads"))
	left, _ := filepath.Glob(filepath.Join(dir, "index.json.*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}

// repositories lists what has an index.
func (s *stage) repositories() ([]string, error) {
	var out []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "blobs" || d.Name() == "_uploads") {
			return fs.SkipDir
		}
		if d.IsDir() || d.Name() != "index.json" {
			return nil
		}
		rel, err := filepath.Rel(s.dir, filepath.Dir(path))
		if err != nil {
			return err
		}
		out = append(out, filepath.ToSlash(rel))
		return nil
	})
	sort.Strings(out)
	return out, err
}

func (s *stage) catalog(w http.ResponseWriter) {
	repos, err := s.repositories()
	if err != nil {
		writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string][]string{"repositories": append([]string{}, repos...)})
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"errors": []map[string]string{{"code": code, "message": message}},
	})
}

// errorWriter gives olareg's silent 500 answers the reason it logged, and has
// clients begin an upload anew that a process which ended had: of a session that
// is not known they take the specification's code (BLOB_UPLOAD_UNKNOWN) for one
// that no further attempt will mend.
type errorWriter struct {
	http.ResponseWriter
	log     *lastError
	upload  bool // the request is part of an upload
	pending int  // a status of 500 and more, or 400 of an upload, held back until a body comes
	written bool
}

func (w *errorWriter) WriteHeader(status int) {
	if w.written {
		return // olareg answers a blob that came with its POST twice
	}
	if status >= http.StatusInternalServerError || w.upload && status == http.StatusBadRequest {
		w.pending = status
		return
	}
	w.written = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *errorWriter) Write(b []byte) (int, error) {
	if w.pending != 0 && !w.written {
		w.written = true
		if w.upload && bytes.Contains(b, []byte("BLOB_UPLOAD_UNKNOWN")) {
			writeError(w.ResponseWriter, http.StatusNotFound, "BLOB_UPLOAD_INVALID",
				"this upload is not known: the process that had it may have ended; begin it anew")
			return len(b), nil
		}
		w.ResponseWriter.WriteHeader(w.pending)
	}
	w.written = true
	return w.ResponseWriter.Write(b)
}

func (w *errorWriter) finish() {
	switch {
	case w.pending == 0 || w.written:
	case w.pending < http.StatusInternalServerError:
		w.ResponseWriter.WriteHeader(w.pending)
	default:
		writeError(w.ResponseWriter, w.pending, "UNKNOWN", w.log.get())
	}
}

// listWriter holds an answer back to give the list of referrers of what has none
// as the specification does, as an empty list; olareg says null.
type listWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *listWriter) WriteHeader(status int)      { w.status = status }
func (w *listWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

func (w *listWriter) finish() {
	b := bytes.Replace(w.body.Bytes(), []byte(`"manifests":null`), []byte(`"manifests":[]`), 1)
	if w.Header().Get("Content-Length") != "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	}
	if w.status != 0 {
		w.ResponseWriter.WriteHeader(w.status)
	}
	if len(b) > 0 {
		_, _ = w.ResponseWriter.Write(b)
	}
}

// lastError is a slog.Handler that keeps the last error olareg logged.
type lastError struct {
	mu   sync.Mutex
	text string
}

func (l *lastError) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" {
		return "the embedded registry failed"
	}
	return l.text
}

// Enabled implements slog.Handler.
func (l *lastError) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (l *lastError) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			l.mu.Lock()
			l.text = r.Message + ": " + a.Value.String()
			l.mu.Unlock()
		}
		return true
	})
	return nil
}

// WithAttrs implements slog.Handler.
func (l *lastError) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *lastError) WithGroup(string) slog.Handler { return l }
