package ociarchive

import (
	"encoding/json"
	"sort"

	"drydock/modules/steprun/wire"
)

// Runtime reads the "config" object of an image configuration. A field of the
// wrong type counts as absent.
func Runtime(raw map[string]json.RawMessage) wire.Config {
	var c wire.Config
	get := func(key string, into any) { _ = json.Unmarshal(raw[key], into) }
	get("User", &c.User)
	get("Env", &c.Env)
	get("Entrypoint", &c.Entrypoint)
	get("Cmd", &c.Cmd)
	get("WorkingDir", &c.Workdir)
	get("Labels", &c.Labels)
	c.Ports = keys(raw["ExposedPorts"])
	c.Volumes = keys(raw["Volumes"])
	return c
}

func keys(raw json.RawMessage) []string {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
