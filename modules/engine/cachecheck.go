package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

const (
	configMediaType = "application/vnd.buildkit.cacheconfig.v0"
	maxCacheChains  = 200_000 // layers a cache's results consist of, each counted for every result
	maxCacheRecords = 50_000  // commands a cache has results of
)

// check reads what a cache says its results are, and refuses what would take the
// engine much memory to read.
func (s *cacheSource) check(ctx context.Context, downloads string) error {
	results, _ := s.index.find(cacheResults)
	raw, err := s.small(ctx, "manifest", results, maxCacheIndex, downloads)
	if err != nil {
		return err
	}
	var m struct{ Config descriptor }
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("its manifest is damaged: %w", err)
	}
	if m.Config.MediaType != configMediaType { // BuildKit would look for caches within images
		return fmt.Errorf("its manifest is not a cache's: its configuration is %q", m.Config.MediaType)
	}
	if raw, err = s.small(ctx, "configuration", m.Config, maxCacheIndex, downloads); err != nil {
		return err
	}
	var c cacheConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("its configuration is damaged: %w", err)
	}
	if len(c.Records) > maxCacheRecords {
		return fmt.Errorf("it has results of %d commands: more than %d are not read", len(c.Records), maxCacheRecords)
	}
	return c.check()
}

// cacheConfig is, of a cache's configuration, which layers its results consist of
// (BuildKit's cache/remotecache/v1/types). A few bytes name a long chain of them.
type cacheConfig struct {
	Layers []struct {
		Parent int `json:"parent"`
	} `json:"layers"`
	Records []struct {
		Results []struct {
			Layer int `json:"layer"`
		} `json:"layers"`
		Chains []struct {
			Layers []int `json:"layers"`
		} `json:"chains"`
	} `json:"records"`
}

func (c cacheConfig) check() error {
	lengths, err := c.lengths()
	if err != nil {
		return err
	}
	named := 0
	for _, r := range c.Records {
		for _, res := range r.Results {
			if res.Layer < 0 || res.Layer >= len(lengths) {
				return noLayer(res.Layer, len(lengths))
			}
			named += lengths[res.Layer]
		}
		for _, chain := range r.Chains {
			named += len(chain.Layers)
		}
		if named > maxCacheChains {
			return fmt.Errorf("its results consist of more than %d layers", maxCacheChains)
		}
	}
	return nil
}

// lengths are those of the chains of layers that each layer is the end of.
func (c cacheConfig) lengths() ([]int, error) {
	const following = -1
	lengths := make([]int, len(c.Layers))
	for i := range c.Layers {
		var chain []int
		at := i
		for ; at >= 0 && at < len(lengths) && lengths[at] == 0; at = c.Layers[at].Parent {
			lengths[at] = following
			chain = append(chain, at)
		}
		length := 0
		if at != -1 { // the first of a chain has no parent
			if at < -1 || at >= len(lengths) {
				return nil, noLayer(at, len(lengths))
			}
			if length = lengths[at]; length == following {
				return nil, errors.New("its configuration is damaged: its layers lie on each other in a circle")
			}
		}
		for _, at := range slices.Backward(chain) {
			length++
			lengths[at] = length
		}
	}
	return lengths, nil
}

func noLayer(n, of int) error {
	return fmt.Errorf("its configuration is damaged: it names layer %d of %d", n, of)
}
