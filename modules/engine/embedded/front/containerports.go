//go:build linux

package front

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// port is a port that a container answers on.
type port struct {
	number      int
	udp         bool
	description string
	unchecked   bool // nobody waits until it answers
}

func (p port) protocol() string {
	if p.udp {
		return "UDP"
	}
	return "TCP"
}

// key is the port as an image configuration writes it.
func (p port) key() string { return fmt.Sprintf("%d/%s", p.number, strings.ToLower(p.protocol())) }

func (p port) record() object {
	a := args{"port": int64(p.number), "protocol": p.protocol(), "experimentalSkipHealthcheck": p.unchecked}
	if p.description != "" {
		a["description"] = p.description
	}
	return newRecord("Port", a)
}

// parsePort reads a port of an image configuration; one that is none is left.
func parsePort(key string) (port, bool) {
	number, protocol, _ := strings.Cut(key, "/")
	n, err := strconv.Atoi(number)
	return port{number: n, udp: strings.EqualFold(protocol, "udp")}, err == nil && n > 0 && n < 1<<16
}

// portArg is the port a call names.
func portArg(k *call) (port, error) {
	p := port{
		number: k.num("port"), udp: strings.EqualFold(k.str("protocol"), "udp"),
		description: k.str("description"), unchecked: k.flag("experimentalSkipHealthcheck"),
	}
	known := k.str("protocol") == "" || strings.EqualFold(k.str("protocol"), "tcp") || p.udp
	if p.number < 1 || p.number > 65535 || !known {
		return p, usage(fmt.Sprintf("%s.%s: %d/%s is not a port", k.typ, k.field, p.number, k.str("protocol")), "")
	}
	return p, nil
}

// exposedPorts are the ports in the order they were exposed; those an image
// brought come first.
func (c *container) exposedPorts() []port {
	var out []port
	for _, key := range sortedKeys(c.image.Config.ExposedPorts) {
		if p, ok := parsePort(key); ok && !slices.ContainsFunc(c.ports, func(o port) bool { return o.key() == p.key() }) {
			out = append(out, p)
		}
	}
	return append(out, c.ports...)
}

func portFields() map[string]field {
	return map[string]field{
		"exposedPorts": get("", func(_ *call, c *container) any {
			out := []object{}
			for _, p := range c.exposedPorts() {
				out = append(out, p.record())
			}
			return out
		}),
		"withExposedPort": edit("port:i! protocol:s description:s experimentalSkipHealthcheck:b", func(k *call, c *container) error {
			p, err := portArg(k)
			if err != nil {
				return err
			}
			if c.image.Config.ExposedPorts == nil {
				c.image.Config.ExposedPorts = map[string]struct{}{}
			}
			c.image.Config.ExposedPorts[p.key()] = struct{}{}
			c.dropPort(p)
			c.ports = append(c.ports, p)
			return nil
		}),
		"withoutExposedPort": edit("port:i! protocol:s", func(k *call, c *container) error {
			p, err := portArg(k)
			delete(c.image.Config.ExposedPorts, p.key())
			c.dropPort(p)
			return err
		}),
	}
}

func (c *container) dropPort(p port) {
	c.ports = slices.DeleteFunc(c.ports, func(o port) bool { return o.key() == p.key() })
}

// healthFields are the fields about HEALTHCHECK.
func healthFields() map[string]field {
	return map[string]field{
		"dockerHealthcheck": get("", func(_ *call, c *container) any {
			h := c.image.Config.Healthcheck
			if h == nil || len(h.Test) == 0 {
				return nil
			}
			return healthRecord(h)
		}),
		"withDockerHealthcheck": edit("args:l! shell:b interval:s timeout:s startPeriod:s startInterval:s retries:i",
			func(k *call, c *container) error {
				h := &dockerspec.HealthcheckConfig{Retries: k.num("retries")}
				for name, to := range map[string]*time.Duration{
					"interval": &h.Interval, "timeout": &h.Timeout, "startPeriod": &h.StartPeriod, "startInterval": &h.StartInterval,
				} {
					text := k.str(name)
					if text == "" {
						continue
					}
					d, err := time.ParseDuration(text)
					if err != nil || d < 0 {
						return usage(fmt.Sprintf("%s.%s: %s %q is not a duration", k.typ, k.field, name, text), "write for example 5s")
					}
					*to = d
				}
				words := k.strs("args")
				switch {
				case len(words) == 0:
					return usage(fmt.Sprintf("%s.%s: there is no command", k.typ, k.field), "")
				case k.flag("shell") && len(words) > 1:
					return usage(fmt.Sprintf("%s.%s: for a shell the command is one argument", k.typ, k.field), "")
				case k.flag("shell"):
					h.Test = append([]string{"CMD-SHELL"}, words...)
				default:
					h.Test = append([]string{"CMD"}, words...)
				}
				c.image.Config.Healthcheck = h
				return nil
			}),
		"withoutDockerHealthcheck": edit("", func(_ *call, c *container) error {
			c.image.Config.Healthcheck = nil
			return nil
		}),
	}
}

func healthRecord(h *dockerspec.HealthcheckConfig) object {
	a := args{"args": anys(h.Test[1:]), "shell": h.Test[0] == "CMD-SHELL"}
	for name, d := range map[string]time.Duration{
		"interval": h.Interval, "timeout": h.Timeout, "startPeriod": h.StartPeriod, "startInterval": h.StartInterval,
	} {
		a[name] = ""
		if d >= 0 {
			a[name] = d.String()
		}
	}
	a["retries"] = int64(h.Retries)
	return newRecord("HealthcheckConfig", a)
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
