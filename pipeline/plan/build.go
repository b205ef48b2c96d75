package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
)

// cell is one variant of an image of the catalog.
type cell struct {
	id       string
	image    *catalog.Image
	variant  *catalog.Variant
	selected bool
	mark     int // of the walk along the FROM graph: 0 new, 1 open, 2 done
}

// builder is one call of Build.
type builder struct {
	Input
	cells  []*cell
	byID   map[string]*cell
	stages []catalog.Stage // first to target
	order  []*cell
	plan   *Plan
}

// Build makes the plan. The same input gives the same plan.
func Build(in Input) (*Plan, error) {
	if in.Trigger == "" {
		in.Trigger = Local
	}
	if !slices.Contains([]Trigger{Local, ChangeRequest, Branch, Tag, Schedule}, in.Trigger) {
		return nil, usage("--trigger", fmt.Sprintf("%q is not a trigger", in.Trigger), "give local, change-request, branch, tag or schedule")
	}
	if in.Platform == (artifact.Platform{}) {
		in.Platform = artifact.Platform{OS: "linux", Architecture: "amd64"}
	}
	b := &builder{Input: in, byID: map[string]*cell{}, plan: &Plan{
		Version: Version, Trigger: in.Trigger,
		Mirrors: append([]Mirror{}, in.Mirrors...), Images: []Image{}, Nodes: []Node{},
	}}
	if err := b.findStages(); err != nil {
		return nil, err
	}
	if err := b.choose(); err != nil {
		return nil, err
	}
	for _, c := range b.cells {
		if c.selected {
			if err := b.visit(c, nil); err != nil {
				return nil, err
			}
		}
	}
	return b.plan, b.lay()
}

func usage(place, message, remedy string) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "planning", Place: place, Message: message, Remedy: remedy}
}

// findStages follows the target stage back to the first.
func (b *builder) findStages() error {
	all := b.Catalog.Stages
	if len(all) == 0 {
		return usage(b.Catalog.Name, "the catalog has no stages", "name at least the first in stages.yaml")
	}
	target := b.Target
	if target == "" {
		target = all[min(1, len(all)-1)].Name
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	for name := target; ; {
		s, ok := b.Catalog.Stage(name)
		if !ok || len(b.stages) > len(all) {
			return usage(name, "no such stage", "name one of "+strings.Join(names, ", "))
		}
		b.stages = append(b.stages, *s)
		if s.From == "" {
			break
		}
		name = s.From
	}
	slices.Reverse(b.stages)
	if b.Trigger == ChangeRequest {
		target = b.stages[0].Name
	}
	b.plan.Target = target
	return nil
}

// choose marks the variants that are selected and changed.
func (b *builder) choose() error {
	var names []string
	for i := range b.Catalog.Images {
		img := &b.Catalog.Images[i]
		for j := range img.Variants {
			c := &cell{id: id(img.Name, img.Variants[j].Name), image: img, variant: &img.Variants[j]}
			b.cells = append(b.cells, c)
			b.byID[c.id] = c
			names = append(names, c.id)
		}
	}
	if len(b.cells) == 0 {
		return usage(b.Catalog.Name, "the catalog has no images", "add one under images/")
	}
	wanted := map[*cell]bool{}
	for _, pattern := range b.Select {
		match, err := glob(pattern)
		if err != nil {
			return err
		}
		found := false
		for _, c := range b.cells {
			if match(c.id) || match(c.image.Name) {
				wanted[c], found = true, true
			}
		}
		if !found {
			return usage("--image "+pattern, "no image of the catalog matches", suggest(pattern, names))
		}
	}
	for _, c := range b.cells {
		c.selected = (len(b.Select) == 0 || wanted[c]) && (b.Changed == nil || slices.Contains(b.Changed, c.image.Name))
	}
	return nil
}

// visit puts what a variant builds on before it.
func (b *builder) visit(c *cell, chain []string) error {
	switch c.mark {
	case 2:
		return nil
	case 1:
		start := slices.Index(chain, c.id)
		return usage(c.image.Place, "images build on each other in a circle: "+strings.Join(append(chain[start:], c.id), " -> "),
			"let one of them build on a base instead")
	}
	c.mark = 1
	for _, r := range c.variant.Refs {
		if r.Image == "" {
			continue
		}
		next, ok := b.byID[id(r.Image, r.Variant)]
		if !ok {
			return usage(c.image.Place, r.Spelling+" is not in the catalog", "build on an image of the catalog")
		}
		if err := b.visit(next, append(chain, c.id)); err != nil {
			return err
		}
	}
	c.mark = 2
	b.order = append(b.order, c)
	return nil
}

// wants is the platform a reference asks for when the target is p.
func (b *builder) wants(r catalog.Ref, p artifact.Platform) artifact.Platform {
	switch {
	case r.Platform != nil:
		return *r.Platform
	case r.Build:
		return b.Platform
	}
	return p
}

// lay writes images and nodes down, each after what it needs.
func (b *builder) lay() error {
	bases := map[string]bool{}
	for _, c := range b.order {
		for _, r := range c.variant.Refs {
			if r.Base != "" && !bases[r.Base] {
				bases[r.Base] = true
				b.node(Node{ID: "base/" + r.Base, Kind: KindBase, Base: r.Base})
			}
		}
	}
	held := map[string]string{}
	for _, c := range b.order {
		img := Image{
			Image: c.image.Name, Variant: c.variant.Name, Platforms: c.image.Platforms,
			Stages: []string{b.stages[0].Name}, Needs: []string{}, Implied: !c.selected,
		}
		for _, r := range c.variant.Refs {
			if name := need(r); !slices.Contains(img.Needs, name) {
				img.Needs = append(img.Needs, name)
			}
		}
		held[c.id] = b.held(c, held)
		if c.selected {
			img.Held = held[c.id]
		}
		for _, s := range b.stages[1:] {
			if c.selected && img.Held == "" {
				img.Stages = append(img.Stages, s.Name)
				img.Tags = c.variant.Tags
			}
		}
		b.plan.Images = append(b.plan.Images, img)
		if err := b.steps(c, img); err != nil {
			return err
		}
	}
	return nil
}

func need(r catalog.Ref) string {
	if r.Base != "" {
		return r.Base
	}
	return id(r.Image, r.Variant)
}

// held says why an image goes no further than the first stage.
func (b *builder) held(c *cell, before map[string]string) string {
	if b.Trigger == ChangeRequest {
		return "a change request goes no further than " + b.stages[0].Name
	}
	if b.Observed {
		return "built with --egress=observe, which is for finding out what it needs"
	}
	if why, dirty := b.Dirty[c.image.Name]; dirty {
		return "not a clean commit: " + why
	}
	for _, r := range c.variant.Refs {
		if r.Image == "" {
			continue
		}
		if why := before[id(r.Image, r.Variant)]; why != "" {
			return "builds on " + id(r.Image, r.Variant) + ", " + why
		}
	}
	return ""
}

func (b *builder) node(n Node) {
	if n.Needs == nil {
		n.Needs = []string{}
	}
	b.plan.Nodes = append(b.plan.Nodes, n)
}

// steps lays the nodes of one variant. An implied one is built and pushed to
// the first stage, no more: others build on it by the digest of its index, so
// that it is built for all its platforms.
func (b *builder) steps(c *cell, img Image) error {
	var builds, done []string
	for i := range img.Platforms {
		p := &img.Platforms[i]
		needs, err := b.buildNeeds(c, *p)
		if err != nil {
			return err
		}
		at := func(kind Kind) string { return string(kind) + "/" + c.id + "@" + p.String() }
		add := func(kind Kind, needs ...string) {
			b.node(Node{ID: at(kind), Kind: kind, Image: img.Image, Variant: img.Variant, Platform: p, Needs: needs})
		}
		add(KindBuild, needs...)
		builds = append(builds, at(KindBuild))
		if img.Implied {
			continue
		}
		add(KindSBOM, at(KindBuild))
		add(KindScan, at(KindSBOM))
		add(KindTest, at(KindBuild))
		done = append(done, at(KindSBOM), at(KindScan), at(KindTest))
	}
	push, sign := "push/"+c.id, "sign/"+c.id
	b.node(Node{ID: push, Kind: KindPush, Image: img.Image, Variant: img.Variant, Stage: img.Stages[0], Needs: builds})
	if img.Implied {
		return nil
	}
	b.node(Node{ID: sign, Kind: KindSign, Image: img.Image, Variant: img.Variant, Stage: img.Stages[0], Needs: append([]string{push}, done...)})
	last := sign
	for _, s := range img.Stages[1:] {
		n := Node{ID: "promote/" + c.id + "@" + s, Kind: KindPromote, Image: img.Image, Variant: img.Variant, Stage: s, Needs: []string{last}}
		b.node(n)
		last = n.ID
	}
	return nil
}

// buildNeeds lists the nodes a build for one platform waits for.
func (b *builder) buildNeeds(c *cell, p artifact.Platform) ([]string, error) {
	needs := []string{}
	add := func(id string) {
		if !slices.Contains(needs, id) {
			needs = append(needs, id)
		}
	}
	for _, r := range c.variant.RefsOn(p) {
		want := b.wants(r, p)
		var platforms []artifact.Platform
		if r.Base != "" {
			base, _ := b.Catalog.Base(r.Base)
			platforms = base.Platforms
			add("base/" + r.Base)
		} else {
			platforms = b.byID[id(r.Image, r.Variant)].image.Platforms
			add("push/" + id(r.Image, r.Variant))
		}
		if !slices.Contains(platforms, want) {
			return nil, usage(fmt.Sprintf("%s:%d", c.image.Parsed.Name, r.Line), fmt.Sprintf("%s is not there for %s", r.Spelling, want),
				"add the platform to "+r.Spelling+", or build on an engine of another platform")
		}
	}
	return needs, nil
}

// glob compiles a pattern in which * stands for any text and ? for one
// character.
func glob(pattern string) (func(string) bool, error) {
	if pattern == "" {
		return nil, usage("--image", "the name is empty", "give an image name or a glob")
	}
	expr := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, usage("--image "+pattern, "not a glob", "use * and ? only")
	}
	return re.MatchString, nil
}

// suggest names the images there are, the likeliest first.
func suggest(pattern string, names []string) string {
	plain := strings.Trim(pattern, "*?")
	var like []string
	for _, n := range names {
		if plain != "" && (strings.Contains(n, plain) || strings.Contains(plain, n) || near(plain, n)) {
			like = append(like, n)
		}
	}
	if len(like) > 0 {
		return "did you mean " + strings.Join(like[:min(3, len(like))], ", ") + "?"
	}
	if len(names) > 10 {
		return "there are " + strings.Join(names[:10], ", ") + " and more: see drydock plan"
	}
	return "there are " + strings.Join(names, ", ")
}

// near says whether two names share most of their letters in order.
func near(a, b string) bool {
	i, common := 0, 0
	for _, r := range b {
		if j := strings.IndexRune(a[i:], r); j >= 0 {
			i += j + len(string(r))
			common++
		}
	}
	return common*4 >= max(len(a), len(b))*3
}
