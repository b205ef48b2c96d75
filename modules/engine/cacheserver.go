package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"drydock/modules/artifact"
)

// cacheServer hands blobs of the caches a run imports to the engine, over a
// private socket: registries and their credentials stay in this process, and
// what does not match its digest never leaves it.
type cacheServer struct {
	dir      string // private, with the socket and downloads
	socket   string
	listener net.Listener
	sources  []*cacheSource
	notice   func(string)

	mu     sync.Mutex
	warned map[string]bool
}

// serveCaches opens the caches of a configuration. One that cannot be used is
// told and left out: a cache only makes builds faster.
func serveCaches(ctx context.Context, cfg Config) (*cacheServer, error) {
	s := &cacheServer{notice: cfg.Notice, warned: map[string]bool{}}
	if len(cfg.CacheFrom) == 0 {
		return s, nil
	}
	dir, err := os.MkdirTemp("", "drydock-cache-") // short enough for a socket
	if err != nil {
		return nil, fmt.Errorf("opening caches: %w", err)
	}
	s.dir, s.socket = dir, filepath.Join(dir, "s")
	for _, c := range cfg.CacheFrom {
		src, err := openCache(ctx, c, cfg.Registries)
		if err == nil {
			src.free = cfg.Limits.FreeDisk
			err = src.check(ctx, dir)
		}
		var user *artifact.Error
		switch {
		case errors.Is(err, errNoCache):
			s.say("nothing is imported from cache %s: %v", c, err)
		case errors.As(err, &user) && user.Kind == artifact.KindUsage:
			s.close()
			return nil, err
		case err != nil:
			s.say("cache %s is ignored: %v", c, err)
		default:
			s.sources = append(s.sources, src)
		}
	}
	if len(s.sources) == 0 {
		s.close()
		return s, nil
	}
	if s.listener, err = net.Listen("unix", s.socket); err != nil {
		s.close()
		return nil, fmt.Errorf("opening caches: %w", err)
	}
	go s.serve(context.WithoutCancel(ctx))
	s.importSteps(ctx, cfg.Steps)
	return s, nil
}

func (s *cacheServer) close() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// say tells something once.
func (s *cacheServer) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	known := s.warned[text]
	s.warned[text] = true
	s.mu.Unlock()
	if !known && s.notice != nil {
		s.notice(text)
	}
}

func (s *cacheServer) importSteps(ctx context.Context, to StepRecords) {
	if to == nil {
		return
	}
	for _, src := range s.sources {
		b, err := src.steps(ctx, s.dir)
		if err == nil && b != nil {
			err = to.ImportSteps(b)
		}
		if err != nil {
			s.say("cache %s: what its steps fetched is not known: %v", src.name, err)
		}
	}
}

func (s *cacheServer) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.say("caches are no longer answered for: %v", err)
			return
		}
		go s.answer(ctx, c)
	}
}

// answer is one blob: a digest in, the path of a verified file out.
func (s *cacheServer) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	var q struct {
		descriptor
		Problem string
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &q) != nil {
		return
	}
	if q.Problem != "" {
		s.complain(q.Digest, q.Problem)
		_, _ = c.Write([]byte("{}\n"))
		return
	}
	var reply struct {
		Path  string `json:"path,omitempty"`
		Error string `json:"error,omitempty"`
	}
	for _, src := range s.sources {
		path, err := src.blob(ctx, q.descriptor, s.dir)
		if err == nil {
			reply.Path, reply.Error = path, ""
			break
		}
		reply.Error = err.Error()
		if len(s.sources) == 1 || !isMissing(err) {
			s.say("cache %s: %v; it is ignored, and what it was for is built", src.name, err)
		}
	}
	_ = json.NewEncoder(c).Encode(reply) // an engine that went away asks no more
}

// complain tells what the engine has against a result of the cache whose manifest
// has a digest.
func (s *cacheServer) complain(manifest artifact.Digest, problem string) {
	for _, src := range s.sources {
		if m, _ := src.index.find(cacheResults); m.Digest == manifest {
			s.say("cache %s: %s; what it was for is built", src.name, problem)
		}
	}
}

// isMissing: another of several caches may have it.
func isMissing(err error) bool { return bytes.Contains([]byte(err.Error()), []byte("is missing")) }

// cacheEntry is a cache import or export in the front's words.
type cacheEntry struct {
	Type  string            `json:"type"`
	Attrs map[string]string `json:"attrs"`
}

// The type and attributes of core.RemoteCache.
const remoteCacheType = "drydock"

// settings are what the front is told before the first query.
func (s *cacheServer) settings(record bool) any {
	entries := []cacheEntry{}
	for _, src := range s.sources {
		m, _ := src.index.find(cacheResults)
		entries = append(entries, cacheEntry{Type: remoteCacheType, Attrs: map[string]string{
			"socket": s.socket, "digest": string(m.Digest), "size": strconv.FormatInt(m.Size, 10),
		}})
	}
	return map[string]any{"imports": entries, "record": record}
}

// post asks the front for something beside GraphQL.
func post(ctx context.Context, c *conn, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://drydock"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answered %s", resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// stagingAge is when the directory of an export that was killed is removed.
const stagingAge = 24 * time.Hour

// ExportCache writes the results of all builds of this connection to the caches
// of Config.CacheTo. It says in notices what came of each; a cache that cannot
// be written fails no build, so that only asking the engine is an error.
func (e *Engine) ExportCache(ctx context.Context) error {
	if e.export == nil {
		return nil
	}
	return e.export(ctx)
}

// exportCaches is ExportCache for the embedded engine.
func exportCaches(ctx context.Context, cfg Config, c *conn) error {
	sweepStaging(cfg.CacheDir)
	staging, err := os.MkdirTemp(cfg.CacheDir, stagingPrefix)
	if err != nil {
		return fmt.Errorf("exporting the cache: %w", err)
	}
	defer os.RemoveAll(staging)
	var made struct {
		Manifest *descriptor
		Steps    []string
		Error    string
	}
	err = post(ctx, c, "/cache/export", map[string]any{"export": cacheEntry{
		Type: remoteCacheType, Attrs: map[string]string{"dest": staging, "mode": "max"},
	}}, &made)
	switch {
	case err != nil:
		return fmt.Errorf("exporting the cache: %w", err)
	case made.Error != "":
		return &artifact.Error{Kind: artifact.KindFault, Op: "exporting the cache", Message: made.Error}
	case made.Manifest == nil:
		return nil
	}
	var steps []byte
	if cfg.Steps != nil {
		if steps, err = cfg.Steps.ExportSteps(made.Steps); err != nil {
			return fmt.Errorf("exporting the cache: %w", err)
		}
	}
	index, err := finishLayout(staging, *made.Manifest, steps)
	if err != nil {
		return fmt.Errorf("exporting the cache: %w", err)
	}
	useless := importable(ctx, staging)
	for _, to := range cfg.CacheTo {
		text := fmt.Sprintf("the cache was written to %s", to)
		err := useless
		if err == nil {
			err = writeCache(ctx, cfg, to, staging, index)
		}
		if err != nil {
			text = fmt.Sprintf("the cache was not written to %s: %v", to, err)
		}
		if cfg.Notice != nil {
			cfg.Notice(text)
		}
	}
	return nil
}

// importable: a layout is a cache that serveCaches would take.
func importable(ctx context.Context, layout string) error {
	s, err := openCache(ctx, Cache{Dir: layout}, nil)
	if err == nil {
		err = s.check(ctx, layout)
	}
	if err != nil {
		return fmt.Errorf("nobody could import it: %w; give some of the images (--image) a cache of their own", err)
	}
	return nil
}

const stagingPrefix = "cache-export-"

func writeCache(ctx context.Context, cfg Config, to Cache, staging string, index artifact.Digest) error {
	if to.Dir != "" {
		return replaceCache(staging, to.Dir)
	}
	repo, tag, err := cacheRepo(to, cfg.Registries)
	if err != nil {
		return err
	}
	if _, err := repo.PushLayout(ctx, staging, index); err != nil {
		return err
	}
	return repo.Tag(ctx, tag, index)
}

func sweepStaging(cacheDir string) {
	old, _ := filepath.Glob(filepath.Join(cacheDir, stagingPrefix+"*"))
	for _, dir := range old {
		if fi, err := os.Stat(dir); err == nil && time.Since(fi.ModTime()) > stagingAge {
			_ = os.RemoveAll(dir) // it is looked at again next time
		}
	}
}
