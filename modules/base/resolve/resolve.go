// Package resolve chooses Debian packages: a closure over Depends and
// Pre-Depends, newest versions first. It does no I/O.
//
// It is no SAT solver. Like apt it takes the first alternative that can hold
// and never goes back; conflicts among what was chosen are an error. That is
// enough for bases, whose packages come from one stable suite, and it gives the
// same answer every time.
package resolve

import (
	"fmt"
	"slices"
	"strings"

	"drydock/modules/mirror/debian"
)

// Candidate is a package and the archive that has it.
type Candidate struct {
	debian.Package
	Archive string
}

// Request says what is wanted.
type Request struct {
	Root         string   // what asks, for errors: the base's name
	Architecture string   // Debian's name: amd64
	Seeds        []string // package names, virtual ones too
	// Skip says that a dependency of a package need not hold: nil is none. Bases
	// that run no maintainer script skip what only those need.
	Skip func(pkg, dependency string) bool
}

// Error is a request that cannot be met, with the chain that led to it.
type Error struct {
	Chain   []string // from the root to the package that has the problem
	Problem string
}

// Error is the chain and the problem on one line.
func (e *Error) Error() string { return strings.Join(e.Chain, " -> ") + ": " + e.Problem }

// Pool is the packages to choose from.
type Pool struct {
	byName    map[string][]Candidate // newest first
	providers map[string][]provider  // by the name provided
}

type provider struct {
	name    string
	version string // provided, "" is unversioned
	pkg     Candidate
}

// NewPool sorts candidates for one architecture. Packages for another one are
// left out. Of two with the same version the first archive by name wins.
func NewPool(candidates []Candidate, architecture string) (*Pool, error) {
	p := &Pool{byName: map[string][]Candidate{}, providers: map[string][]provider{}}
	for _, c := range candidates {
		if c.Architecture != architecture && c.Architecture != "all" {
			continue
		}
		p.byName[c.Name] = append(p.byName[c.Name], c)
	}
	for _, list := range p.byName {
		slices.SortStableFunc(list, func(a, b Candidate) int {
			if c := debian.Compare(b.Version, a.Version); c != 0 {
				return c
			}
			return strings.Compare(a.Archive, b.Archive)
		})
		// Only the newest of a name provides: an older one is chosen only by an
		// exact constraint on its own name.
		newest := list[0]
		provides, err := debian.ParseDependencies(newest.Provides)
		if err != nil {
			return nil, fmt.Errorf("provides of %s: %w", newest.Name, err)
		}
		for _, group := range provides {
			for _, r := range group {
				p.providers[r.Name] = append(p.providers[r.Name], provider{r.Name, r.Version, newest})
			}
		}
	}
	for _, list := range p.providers {
		slices.SortFunc(list, func(a, b provider) int {
			if c := priority(a.pkg) - priority(b.pkg); c != 0 {
				return c
			}
			return strings.Compare(a.pkg.Name, b.pkg.Name)
		})
	}
	return p, nil
}

func priority(c Candidate) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, c.Priority); i >= 0 {
		return i
	}
	return 4
}

// Newest is the newest package of that name, if there is one.
func (p *Pool) Newest(name string) (Candidate, bool) {
	list := p.byName[name]
	if len(list) == 0 {
		return Candidate{}, false
	}
	return list[0], true
}

// Where lists, sorted, the names of the newest packages that a condition
// holds for.
func (p *Pool) Where(holds func(Candidate) bool) []string {
	var out []string
	for name, list := range p.byName {
		if holds(list[0]) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Solve gives the closure of the seeds, sorted by name.
func (p *Pool) Solve(req Request) ([]Candidate, error) {
	s := &solver{pool: p, req: req, chosen: map[string]*choice{}}
	for _, seed := range req.Seeds {
		if err := s.require([]debian.Relation{{Name: seed}}, nil); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(s.queue); i++ {
		if err := s.expand(s.queue[i]); err != nil {
			return nil, err
		}
	}
	if err := s.conflicts(); err != nil {
		return nil, err
	}
	out := make([]Candidate, 0, len(s.queue))
	for _, c := range s.queue {
		out = append(out, c.Candidate)
	}
	slices.SortFunc(out, func(a, b Candidate) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

type choice struct {
	Candidate
	by       *choice // who asked first; nil is the root
	provides debian.Dependencies
}

type solver struct {
	pool   *Pool
	req    Request
	chosen map[string]*choice
	queue  []*choice // in the order they were chosen
}

// expand requires everything a chosen package needs.
func (s *solver) expand(c *choice) error {
	for _, field := range []string{c.PreDepends, c.Depends} {
		groups, err := debian.ParseDependencies(field)
		if err != nil {
			return s.problem(c, err.Error())
		}
		for _, group := range groups {
			if s.skipped(c.Name, group) {
				continue
			}
			if err := s.require(group, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *solver) skipped(name string, group []debian.Relation) bool {
	if s.req.Skip == nil {
		return false
	}
	return slices.ContainsFunc(group, func(r debian.Relation) bool { return s.req.Skip(name, r.Name) })
}

// require makes one element of a dependency field hold.
func (s *solver) require(group []debian.Relation, by *choice) error {
	if slices.ContainsFunc(group, s.holds) {
		return nil
	}
	var missing []string
	for _, r := range group {
		pick, why := s.candidate(r)
		if why != "" {
			missing = append(missing, why)
			continue
		}
		provides, err := debian.ParseDependencies(pick.Provides)
		if err != nil {
			return s.problem(by, fmt.Sprintf("provides of %s: %v", pick.Name, err))
		}
		c := &choice{Candidate: pick, by: by, provides: provides}
		s.chosen[pick.Name] = c
		s.queue = append(s.queue, c)
		return nil
	}
	return s.problem(by, strings.Join(missing, ", "))
}

// holds says whether a chosen package satisfies the relation.
func (s *solver) holds(r debian.Relation) bool {
	if !s.native(r) {
		return false
	}
	if c := s.chosen[r.Name]; c != nil && r.Satisfies(c.Version) {
		return true
	}
	for _, p := range s.pool.providers[r.Name] {
		if c := s.chosen[p.pkg.Name]; c != nil && satisfiedBy(r, c.provides) {
			return true
		}
	}
	return false
}

func (s *solver) native(r debian.Relation) bool {
	return r.Arch == "" || r.Arch == "any" || r.Arch == "native" || r.Arch == s.req.Architecture
}

// satisfiedBy says whether a Provides field satisfies the relation: an
// unversioned one satisfies only a relation without version (policy 7.5).
func satisfiedBy(r debian.Relation, provides debian.Dependencies) bool {
	for _, group := range provides {
		for _, p := range group {
			if p.Name == r.Name && (r.Op == "" || p.Version != "" && r.Satisfies(p.Version)) {
				return true
			}
		}
	}
	return false
}

// candidate finds a package for the relation, or says why there is none.
func (s *solver) candidate(r debian.Relation) (Candidate, string) {
	if !s.native(r) {
		return Candidate{}, fmt.Sprintf("%s is for another architecture", r)
	}
	if c := s.chosen[r.Name]; c != nil {
		return Candidate{}, fmt.Sprintf("needs %s, but %s was chosen for %s",
			r, c.Version, strings.Join(s.chain(c.by), " -> "))
	}
	list := s.pool.byName[r.Name]
	for _, c := range list {
		if r.Satisfies(c.Version) {
			return c, ""
		}
	}
	for _, p := range s.pool.providers[r.Name] {
		if s.chosen[p.pkg.Name] == nil && (r.Op == "" || p.version != "" && r.Satisfies(p.version)) {
			return p.pkg, ""
		}
	}
	if len(list) > 0 {
		return Candidate{}, fmt.Sprintf("needs %s, the mirror has %s", r, list[0].Version)
	}
	return Candidate{}, fmt.Sprintf("needs %s, which the mirror does not have", r)
}

// conflicts refuses a choice whose packages exclude one another.
func (s *solver) conflicts() error {
	for _, c := range s.queue {
		for _, field := range []string{c.Conflicts, c.Breaks} {
			groups, err := debian.ParseDependencies(field)
			if err != nil {
				return s.problem(c, err.Error())
			}
			for _, group := range groups {
				for _, r := range group {
					if other := s.excluded(c, r); other != nil {
						return s.problem(c, fmt.Sprintf("conflicts with %s, and %s %s was chosen by %s",
							r, other.Name, other.Version, strings.Join(s.chain(other.by), " -> ")))
					}
				}
			}
		}
	}
	return nil
}

// excluded is the chosen package a conflict speaks of; never the package
// itself, which may conflict with a name it provides (policy 7.6.2).
func (s *solver) excluded(c *choice, r debian.Relation) *choice {
	if !s.native(r) {
		return nil
	}
	if o := s.chosen[r.Name]; o != nil && o != c && r.Satisfies(o.Version) {
		return o
	}
	for _, p := range s.pool.providers[r.Name] {
		o := s.chosen[p.pkg.Name]
		if o != nil && o != c && satisfiedBy(r, o.provides) {
			return o
		}
	}
	return nil
}

func (s *solver) chain(c *choice) []string {
	var out []string
	for ; c != nil; c = c.by {
		out = append(out, c.Name)
	}
	out = append(out, s.req.Root)
	slices.Reverse(out)
	return out
}

func (s *solver) problem(by *choice, problem string) error {
	return &Error{Chain: s.chain(by), Problem: problem}
}
