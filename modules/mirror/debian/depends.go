package debian

import (
	"fmt"
	"strings"
)

// Satisfies says whether a package of that version satisfies the relation's
// version constraint. The name is the caller's to compare.
func (r Relation) Satisfies(version string) bool {
	if r.Op == "" {
		return true
	}
	c := Compare(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	default:
		return c > 0
	}
}

// String is the relation as a control file writes it.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// String is the field as a control file writes it.
func (d Dependencies) String() string {
	all := make([]string, len(d))
	for i, alternatives := range d {
		parts := make([]string, len(alternatives))
		for j, r := range alternatives {
			parts[j] = r.String()
		}
		all[i] = strings.Join(parts, " | ")
	}
	return strings.Join(all, ", ")
}

// ParseDependencies reads a field such as Depends or Provides of a binary
// package (Debian policy 7.1). Architecture and profile restrictions belong to
// source packages and are refused.
func ParseDependencies(field string) (Dependencies, error) {
	var out Dependencies
	for _, group := range strings.Split(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue
		}
		var alternatives []Relation
		for _, one := range strings.Split(group, "|") {
			r, err := parseRelation(one)
			if err != nil {
				return nil, fmt.Errorf("dependency %q: %w", strings.TrimSpace(group), err)
			}
			alternatives = append(alternatives, r)
		}
		out = append(out, alternatives)
	}
	return out, nil
}

func parseRelation(s string) (Relation, error) {
	s = strings.TrimSpace(s)
	name, constraint, constrained := strings.Cut(s, "(")
	name = strings.TrimSpace(name)
	var r Relation
	r.Name, r.Arch, _ = strings.Cut(name, ":")
	if r.Name == "" || !nameLike(r.Name) || !nameLike(r.Arch) {
		return Relation{}, fmt.Errorf("%q is not a package name", name)
	}
	if !constrained {
		return r, nil
	}
	body, rest, closed := strings.Cut(constraint, ")")
	if !closed || strings.TrimSpace(rest) != "" {
		return Relation{}, fmt.Errorf("unbalanced parentheses in %q", s)
	}
	body = strings.TrimSpace(body)
	version := strings.TrimLeft(body, "<>=")
	op := body[:len(body)-len(version)]
	r.Version = strings.TrimSpace(version)
	switch op {
	case "<<", "<=", "=", ">=", ">>":
		r.Op = op
	case "<": // deprecated spellings, policy 7.1
		r.Op = "<="
	case ">":
		r.Op = ">="
	default:
		return Relation{}, fmt.Errorf("%q is not a version relation", body)
	}
	if r.Version == "" || strings.ContainsAny(r.Version, " \t\n<>=(),|") {
		return Relation{}, fmt.Errorf("%q is not a version", r.Version)
	}
	return r, nil
}

// nameLike keeps out anything that is not part of a package or architecture
// name. Real archives have upper case in old names; dpkg reads those too.
func nameLike(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case isDigit(c), 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '+' || c == '-' || c == '.' || c == '_':
		default:
			return false
		}
	}
	return true
}
