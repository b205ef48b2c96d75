//go:build linux

package front

import (
	"context"
	"slices"
	"sort"
	"strings"
)

// containerConfigFields are the fields about the image's configuration.
func containerConfigFields() map[string]field {
	return merged(envFields(), commandFields(), labelFields(), portFields(), healthFields())
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
				out = append(out, newRecord("EnvVariable", args{"name": name, "value": value}))
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
				out = append(out, newRecord("Label", args{"name": name, "value": c.image.Config.Labels[name]}))
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
