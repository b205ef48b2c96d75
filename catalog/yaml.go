package catalog

import (
	"fmt"
	"maps"
	"slices"

	"gopkg.in/yaml.v3"
)

// lineError is what yaml.v3 collects with the other complaints of a file.
func lineError(n *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format, args...)}}
}

// UnmarshalYAML reads auto, a URL or a list of URLs.
func (s *Setting) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value == "auto" {
			*s = Setting{Auto: true}
			return nil
		}
		*s = Setting{URLs: []string{n.Value}}
		return nil
	}
	var urls []string
	if err := n.Decode(&urls); err != nil || len(urls) == 0 {
		return lineError(n, "a mirror is auto, a URL or a list of URLs")
	}
	*s = Setting{URLs: urls}
	return nil
}

// MarshalYAML is the inverse of UnmarshalYAML.
func (s Setting) MarshalYAML() (any, error) {
	switch {
	case len(s.URLs) == 0:
		return "auto", nil
	case len(s.URLs) == 1:
		return s.URLs[0], nil
	}
	return s.URLs, nil
}

// UnmarshalYAML reads a mapping of axis names to lists of values, with the
// keys include and exclude for single cells; the order of the axes counts.
func (m *Matrix) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "a matrix is a mapping of build arguments to lists of values")
	}
	*m = Matrix{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		switch key.Value {
		case "include", "exclude":
			var cells []map[string]string
			if err := val.Decode(&cells); err != nil {
				return lineError(val, "%s is a list of mappings of axis names to values", key.Value)
			}
			if key.Value == "include" {
				m.Include = cells
			} else {
				m.Exclude = cells
			}
		default:
			var values []string
			if err := val.Decode(&values); err != nil || len(values) == 0 {
				return lineError(val, "axis %s is not a list of values", key.Value)
			}
			if slices.ContainsFunc(m.Axes, func(a Axis) bool { return a.Name == key.Value }) {
				return lineError(key, "axis %s is there twice", key.Value)
			}
			m.Axes = append(m.Axes, Axis{Name: key.Value, Values: values})
		}
	}
	return nil
}

// MarshalYAML is the inverse of UnmarshalYAML.
func (m Matrix) MarshalYAML() (any, error) {
	out := &yaml.Node{Kind: yaml.MappingNode}
	add := func(key string, v any) error {
		var val yaml.Node
		if err := val.Encode(v); err != nil {
			return err
		}
		out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &val)
		return nil
	}
	for _, a := range m.Axes {
		if err := add(a.Name, a.Values); err != nil {
			return nil, err
		}
	}
	if len(m.Include) > 0 {
		if err := add("include", m.Include); err != nil {
			return nil, err
		}
	}
	if len(m.Exclude) > 0 {
		if err := add("exclude", m.Exclude); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// IsZero lets an image without a matrix be printed without one.
func (m Matrix) IsZero() bool { return len(m.Axes) == 0 && len(m.Include) == 0 && len(m.Exclude) == 0 }

// cells lists the combinations of the axes in order, without the excluded
// ones, then the included ones.
func (m Matrix) cells() []map[string]string {
	if len(m.Axes) == 0 {
		return nil
	}
	out := []map[string]string{{}}
	for _, a := range m.Axes {
		var next []map[string]string
		for _, c := range out {
			for _, v := range a.Values {
				d := maps.Clone(c)
				d[a.Name] = v
				next = append(next, d)
			}
		}
		out = next
	}
	out = slices.DeleteFunc(out, func(c map[string]string) bool {
		return slices.ContainsFunc(m.Exclude, func(x map[string]string) bool { return subset(x, c) })
	})
	return append(out, m.Include...)
}

// subset says whether every pair of x is in c.
func subset(x, c map[string]string) bool {
	for k, v := range x {
		if c[k] != v {
			return false
		}
	}
	return len(x) > 0
}
