//go:build linux

package front

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// containerConfigFields are the fields about the image's configuration.
func containerConfigFields() map[string]field {
	return merged(envFields(), commandFields(), labelFields(), portFields())
}

// edit makes a field that changes a copy of the container.
func edit(params string, fn func(*call, *container) error) field {
	return on(params, func(_ context.Context, k *call, c *container) (any, error) {
		d := c.clone()
		return d, fn(k, d)
	})
}

// get makes a field that reads the container.
func get(params string, fn func(*call, *container) any) field {
	return on(params, func(_ context.Context, k *call, c *container) (any, error) { return fn(k, c), nil })
}

func envFields() map[string]field {
	return map[string]field{
		"envVariable": get("name:s!", func(k *call, c *container) any {
			if v, ok := lookupEnv(c.image.Config.Env, k.str("name")); ok {
				return v
			}
			return nil
		}),
		"envVariables": get("", func(_ *call, c *container) any {
			out := []object{}
			for _, pair := range c.image.Config.Env {
				name, value, _ := strings.Cut(pair, "=")
				out = append(out, newPair("EnvVariable", name, value))
			}
			return out
		}),
		"withEnvVariable": edit("name:s! value:s! expand:b", func(k *call, c *container) error {
			v, err := c.expand(k, k.str("value"))
			if err != nil {
				return err
			}
			c.image.Config.Env = setEnv(c.image.Config.Env, k.str("name"), v)
			return nil
		}),
		"withoutEnvVariable": edit("name:s!", func(k *call, c *container) error {
			c.image.Config.Env = slices.DeleteFunc(c.image.Config.Env, func(pair string) bool {
				name, _, _ := strings.Cut(pair, "=")
				return name == k.str("name")
			})
			return nil
		}),
		"user":        get("", func(_ *call, c *container) any { return c.image.Config.User }),
		"withUser":    edit("name:s!", func(k *call, c *container) error { c.image.Config.User = k.str("name"); return nil }),
		"withoutUser": edit("", func(_ *call, c *container) error { c.image.Config.User = ""; return nil }),
		"workdir":     get("", func(_ *call, c *container) any { return c.image.Config.WorkingDir }),
		"withWorkdir": edit("path:s! expand:b", func(k *call, c *container) error {
			p, err := c.at(k, "path")
			c.image.Config.WorkingDir = p
			return err
		}),
		"withoutWorkdir": edit("", func(_ *call, c *container) error { c.image.Config.WorkingDir = ""; return nil }),
	}
}

func commandFields() map[string]field {
	return map[string]field{
		"entrypoint":  get("", func(_ *call, c *container) any { return list(c.image.Config.Entrypoint) }),
		"defaultArgs": get("", func(_ *call, c *container) any { return list(c.image.Config.Cmd) }),
		"withEntrypoint": edit("args:l! keepDefaultArgs:b", func(k *call, c *container) error {
			c.image.Config.Entrypoint = k.strs("args")
			if !k.flag("keepDefaultArgs") {
				c.image.Config.Cmd = nil
			}
			return nil
		}),
		"withoutEntrypoint": edit("keepDefaultArgs:b", func(k *call, c *container) error {
			c.image.Config.Entrypoint = nil
			if !k.flag("keepDefaultArgs") {
				c.image.Config.Cmd = nil
			}
			return nil
		}),
		"withDefaultArgs":    edit("args:l!", func(k *call, c *container) error { c.image.Config.Cmd = k.strs("args"); return nil }),
		"withoutDefaultArgs": edit("", func(_ *call, c *container) error { c.image.Config.Cmd = nil; return nil }),
	}
}

func list(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func labelFields() map[string]field {
	return map[string]field{
		"label": get("name:s!", func(k *call, c *container) any {
			if v, ok := c.image.Config.Labels[k.str("name")]; ok {
				return v
			}
			return nil
		}),
		"labels": get("", func(_ *call, c *container) any {
			out := []object{}
			for _, name := range sortedKeys(c.image.Config.Labels) {
				out = append(out, newPair("Label", name, c.image.Config.Labels[name]))
			}
			return out
		}),
		"withLabel": edit("name:s! value:s!", func(k *call, c *container) error {
			if c.image.Config.Labels == nil {
				c.image.Config.Labels = map[string]string{}
			}
			c.image.Config.Labels[k.str("name")] = k.str("value")
			return nil
		}),
		"withoutLabel": edit("name:s!", func(k *call, c *container) error {
			delete(c.image.Config.Labels, k.str("name"))
			return nil
		}),
		"withAnnotation": edit("name:s! value:s!", func(k *call, c *container) error {
			if c.annotations == nil {
				c.annotations = map[string]string{}
			}
			c.annotations[k.str("name")] = k.str("value")
			return nil
		}),
		"withoutAnnotation": edit("name:s!", func(k *call, c *container) error {
			delete(c.annotations, k.str("name"))
			return nil
		}),
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// portKey is a port as an image configuration writes it.
func portKey(k *call) (string, error) {
	port, protocol := k.num("port"), strings.ToLower(k.str("protocol"))
	if protocol == "" {
		protocol = "tcp"
	}
	if port < 1 || port > 65535 || (protocol != "tcp" && protocol != "udp") {
		return "", usage(fmt.Sprintf("%s.%s: %d/%s is not a port", k.typ, k.field, port, protocol), "")
	}
	return fmt.Sprintf("%d/%s", port, protocol), nil
}

func portFields() map[string]field {
	return map[string]field{
		"exposedPorts": get("", func(_ *call, c *container) any {
			out := []object{}
			for _, key := range sortedKeys(c.image.Config.ExposedPorts) {
				port, protocol, _ := strings.Cut(key, "/")
				out = append(out, newPair("Port", port, strings.ToUpper(protocol)))
			}
			return out
		}),
		"withExposedPort": edit("port:i! protocol:s description:s experimentalSkipHealthcheck:b", func(k *call, c *container) error {
			key, err := portKey(k)
			if err != nil {
				return err
			}
			if c.image.Config.ExposedPorts == nil {
				c.image.Config.ExposedPorts = map[string]struct{}{}
			}
			c.image.Config.ExposedPorts[key] = struct{}{}
			return nil
		}),
		"withoutExposedPort": edit("port:i! protocol:s", func(k *call, c *container) error {
			key, err := portKey(k)
			delete(c.image.Config.ExposedPorts, key)
			return err
		}),
	}
}

// pair is an EnvVariable, a Label or a Port: two values that belong together.
type pair struct {
	node
	typ, name, value string
}

// newPair is a pair whose id is a field of Query that only ids use.
func newPair(typ, name, value string) *pair {
	r := newRecipe(nil, "Query", "_"+typ, args{"name": name, "value": value})
	return &pair{node: node{r}, typ: typ, name: name, value: value}
}

func (p *pair) typeName() string { return p.typ }

func (p *pair) withRecipe(r *recipe) object {
	q := *p
	q.recipe = r
	return &q
}

func pairField(get func(*pair) any) field {
	return on("", func(_ context.Context, _ *call, p *pair) (any, error) { return get(p), nil })
}

// pairTypes are the fields of the pairs.
func pairTypes() map[string]map[string]field {
	name := pairField(func(p *pair) any { return p.name })
	value := pairField(func(p *pair) any { return p.value })
	return map[string]map[string]field{
		"EnvVariable": {"name": name, "value": value},
		"Label":       {"name": name, "value": value},
		"Port": {
			"port":                        pairField(func(p *pair) any { n, _ := strconv.Atoi(p.name); return n }),
			"protocol":                    value,
			"description":                 pairField(func(*pair) any { return nil }),
			"experimentalSkipHealthcheck": pairField(func(*pair) any { return false }),
		},
	}
}

// pairLoaders are the fields of Query by which the ids of pairs load.
func pairLoaders() map[string]field {
	out := map[string]field{}
	for typ := range pairTypes() {
		out["_"+typ] = on("name:s! value:s!", func(_ context.Context, c *call, _ *query) (any, error) {
			return newPair(typ, c.str("name"), c.str("value")), nil
		})
	}
	return out
}
