//go:build linux

package front

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// CacheSetting is what a client posts to /cache before its first query: the
// caches its builds import, and whether they are to be exported later.
type CacheSetting struct {
	Imports []CacheEntry `json:"imports"`
	Record  bool         `json:"record"`
}

// CacheEntry is a cache in BuildKit's words.
type CacheEntry struct {
	Type  string            `json:"type"`
	Attrs map[string]string `json:"attrs"`
}

// CacheExport is what a client posts to /cache/export: where to.
type CacheExport struct {
	Export CacheEntry `json:"export"`
}

// CacheExported is the answer. Steps are the commands that the exported builds
// consist of.
type CacheExported struct {
	Manifest *ocispecs.Descriptor `json:"manifest,omitempty"` // nil: there was nothing to export
	Steps    []string             `json:"steps"`
	Error    string               `json:"error,omitempty"`
}

// remoteCache is a client's part in caches beyond this machine.
type remoteCache struct {
	mu      sync.Mutex
	imports []gateway.CacheOptionsEntry
	record  bool
	solved  map[string]solved // what was asked for and succeeded, by digest
	order   []string
}

// solved is one request that can be made again.
type solved struct {
	request gateway.SolveRequest
	secrets map[string][]byte
}

// cachingClient adds the client's imports to what is solved and remembers it.
type cachingClient struct {
	gateway.Client
	server *Server
	job    job
}

// Solve solves with the imports.
func (c *cachingClient) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	plain := req
	plain.FrontendOpt = maps.Clone(req.FrontendOpt)
	rc := &c.server.remote
	rc.mu.Lock()
	imports, record := slices.Clone(rc.imports), rc.record
	rc.mu.Unlock()
	if len(imports) > 0 {
		req.CacheImports = append(slices.Clone(req.CacheImports), imports...)
		if req.Frontend != "" { // it solves by itself, and is told by an option
			b, err := json.Marshal(imports)
			if err != nil {
				return nil, err
			}
			req.FrontendOpt = maps.Clone(req.FrontendOpt)
			if req.FrontendOpt == nil {
				req.FrontendOpt = map[string]string{}
			}
			req.FrontendOpt["cache-imports"] = string(b)
		}
	}
	res, err := c.Client.Solve(ctx, req)
	if err == nil && record {
		rc.keep(plain, c.job.secrets)
	}
	return res, err
}

func (rc *remoteCache) keep(req gateway.SolveRequest, secrets map[string][]byte) {
	req.Evaluate = true
	key := keyOf(req.Definition, req.Frontend, req.FrontendOpt, req.FrontendInputs)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if _, ok := rc.solved[key]; ok {
		return
	}
	if rc.solved == nil {
		rc.solved = map[string]solved{}
	}
	rc.solved[key] = solved{request: req, secrets: secrets}
	rc.order = append(rc.order, key)
}

func (s *Server) serveCache(w http.ResponseWriter, r *http.Request) {
	var set CacheSetting
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&set); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	s.remote.record = set.Record
	s.remote.imports = nil
	for _, i := range set.Imports {
		s.remote.imports = append(s.remote.imports, gateway.CacheOptionsEntry{Type: i.Type, Attrs: i.Attrs})
	}
}

func (s *Server) serveCacheExport(w http.ResponseWriter, r *http.Request) {
	var e CacheExport
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, err := s.exportCache(r.Context(), e.Export)
	if err != nil {
		out = &CacheExported{Error: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// exportCache solves everything once more, which is all cached, and has the
// cache of all of it exported together.
func (s *Server) exportCache(ctx context.Context, to CacheEntry) (*CacheExported, error) {
	s.remote.mu.Lock()
	s.remote.record = false
	var all []solved
	secrets := map[string][]byte{}
	for _, key := range s.remote.order {
		all = append(all, s.remote.solved[key])
		maps.Copy(secrets, s.remote.solved[key].secrets)
	}
	s.remote.mu.Unlock()
	out := &CacheExported{Steps: []string{}}
	if len(all) == 0 {
		return out, nil
	}
	if err := os.MkdirAll(to.Attrs["dest"], 0o700); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var resp client.SolveResponse
	j := job{secrets: secrets, response: &resp, cacheExports: []client.CacheOptionsEntry{{Type: to.Type, Attrs: to.Attrs}}}
	err := s.build(ctx, j, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		res := gateway.NewResult()
		var names exptypes.Platforms // BuildKit wants each result to be some platform's
		for i, one := range all {
			r, err := gw.Solve(ctx, one.request)
			if err != nil {
				return nil, err
			}
			refs := slices.Collect(maps.Values(r.Refs))
			if r.Ref != nil {
				refs = append(refs, r.Ref)
			}
			for k, ref := range refs {
				if ref == nil {
					continue
				}
				id := strconv.Itoa(i) + "." + strconv.Itoa(k)
				res.AddRef(id, ref)
				names.Platforms = append(names.Platforms, exptypes.Platform{ID: id, Platform: s.platform})
				if err := s.addSteps(ctx, ref, seen); err != nil {
					return nil, err
				}
			}
		}
		b, err := json.Marshal(names)
		res.AddMeta(exptypes.ExporterPlatformsKey, b)
		return res, err
	})
	if err != nil {
		return nil, fmt.Errorf("exporting the cache: %w", err)
	}
	out.Steps = slices.Sorted(maps.Keys(seen))
	text := resp.ExporterResponse["cache.manifest"]
	if text == "" {
		return nil, errors.New("exporting the cache: the engine wrote none")
	}
	return out, json.NewDecoder(strings.NewReader(text)).Decode(&out.Manifest)
}

func (s *Server) addSteps(ctx context.Context, ref gateway.Reference, seen map[string]bool) error {
	st, err := ref.ToState()
	if err != nil {
		return err
	}
	steps, err := s.runSteps(ctx, st, nil)
	for _, one := range steps {
		seen[one.Step] = true
	}
	return err
}
