package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// reference is a BaseRef and where its text stands.
type reference struct {
	BaseRef
	at      int    // index into File.code
	written string // as written
}

// Bases lists the references to images that are no stage of the file, in
// order, with the given build arguments (and where none is given, defaults), of
// the stages a target is made of; "" is the last stage. What other stages name
// is never asked for. The arguments BuildKit sets by itself (TARGETPLATFORM, …)
// are only known when they are among args.
func (f *File) Bases(target string, args map[string]string) ([]BaseRef, error) {
	refs, err := f.references(target, args)
	if err != nil {
		return nil, err
	}
	out := make([]BaseRef, len(refs))
	for i, r := range refs {
		out[i] = r.BaseRef
	}
	return out, nil
}

// RefKey is the same for arguments that lead to the same Bases: it has those of
// them that a reference can depend on.
func (f *File) RefKey(args map[string]string) string {
	var key strings.Builder
	add := func(name string) {
		if v, ok := args[name]; ok {
			key.WriteString(strconv.Quote(name) + strconv.Quote(v))
		}
	}
	for _, name := range automatic {
		add(name)
	}
	for _, cmd := range f.meta {
		for _, kp := range cmd.Args {
			add(kp.Key)
		}
	}
	return key.String()
}

func (f *File) references(target string, args map[string]string) ([]reference, error) {
	env, err := f.globals(args)
	if err != nil {
		return nil, err
	}
	part := f.part(target, env)
	var out []reference
	for i, st := range f.code {
		if !part[st.stage] {
			continue
		}
		var found []reference
		switch c := st.cmd.(type) {
		case *instructions.Stage:
			found, err = f.fromReference(st, c, env)
		case *instructions.CopyCommand:
			found, err = f.copyReference(st, c)
		case *instructions.RunCommand:
			found, err = f.mountReferences(st, c)
		}
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			r.at, r.Line = i, st.node.StartLine
			out = append(out, r)
		}
	}
	return out, nil
}

// fromReference expands a FROM; only stages before it can be meant by name.
func (f *File) fromReference(st statement, c *instructions.Stage, env values) ([]reference, error) {
	lex := shell.NewLex(f.escape)
	res, err := lex.ProcessWordWithMatches(c.BaseName, env)
	if err != nil {
		return nil, f.fault(st.node.StartLine, err, "")
	}
	if res.Result == "" {
		return nil, f.fault(st.node.StartLine, fmt.Errorf("FROM %s names nothing", c.BaseName),
			"give the argument a default before the first FROM, or a value in the image's args or matrix")
	}
	if res.Result == scratch || f.isStage(res.Result, st.stage) {
		return nil, nil
	}
	r := reference{BaseRef: BaseRef{Ref: res.Result, Instruction: "FROM", Platform: c.Platform}, written: c.BaseName}
	if c.Platform != "" {
		res, err := lex.ProcessWordWithMatches(c.Platform, env)
		if err != nil {
			return nil, f.fault(st.node.StartLine, err, "")
		}
		if !unknown(c.Platform, res.Unmatched) {
			r.Platform = res.Result
		}
	}
	return []reference{r}, nil
}

// copyReference looks at COPY --from, which knows no variables and may name
// any stage, also by number.
func (f *File) copyReference(st statement, c *instructions.CopyCommand) ([]reference, error) {
	if c.From == "" || c.From == scratch || f.isStage(c.From, len(f.Stages)) {
		return nil, nil
	}
	if n, err := strconv.Atoi(c.From); err == nil {
		if n < 0 || n >= len(f.Stages) {
			return nil, f.fault(st.node.StartLine, fmt.Errorf("there is no stage %d", n), "name the stage with AS and use its name")
		}
		return nil, nil
	}
	if err := f.plain(st, "--from", c.From); err != nil {
		return nil, err
	}
	return []reference{{BaseRef: BaseRef{Ref: c.From, Instruction: "COPY"}, written: c.From}}, nil
}

// mountReferences looks at RUN --mount=…,from=….
func (f *File) mountReferences(st statement, c *instructions.RunCommand) ([]reference, error) {
	var out []reference
	for _, m := range instructions.GetMounts(c) {
		if m.From == "" || m.From == scratch || f.isStage(m.From, len(f.Stages)) {
			continue
		}
		if err := f.plain(st, "from of a mount", m.From); err != nil {
			return nil, err
		}
		out = append(out, reference{BaseRef: BaseRef{Ref: m.From, Instruction: "RUN"}, written: m.From})
	}
	return out, nil
}

// plain refuses what BuildKit would not take literally.
func (f *File) plain(st statement, what, ref string) error {
	if !strings.ContainsAny(ref, "$\"'\\` \t") {
		return nil
	}
	return f.fault(st.node.StartLine, fmt.Errorf("%s takes no variables and no quotes: %s", what, ref),
		"define a stage with FROM using an ARG from before the first FROM, and name that stage")
}

// isStage says whether a name means one of the first n stages.
func (f *File) isStage(name string, n int) bool {
	return slices.ContainsFunc(f.Stages[:n], func(s Stage) bool {
		return s.Name != "" && strings.EqualFold(s.Name, name)
	})
}

// ContextPaths lists the paths of the build context the file copies from,
// cleaned, relative to the context; "." is all of it. Wildcards are kept, and
// a path with a variable in it counts as all of the context.
func (f *File) ContextPaths() []string {
	var out []string
	for _, st := range f.code {
		switch c := st.cmd.(type) {
		case *instructions.CopyCommand:
			if c.From == "" {
				out = append(out, c.SourcePaths...)
			}
		case *instructions.AddCommand:
			out = append(out, localSources(c.SourcePaths)...)
		case *instructions.RunCommand:
			out = append(out, boundSources(c)...)
		}
	}
	for i, p := range out {
		if strings.Contains(p, "$") {
			p = "."
		}
		out[i] = strings.TrimPrefix(path.Clean("/"+p), "/")
		if out[i] == "" {
			out[i] = "."
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// localSources leaves out what ADD fetches.
func localSources(sources []string) []string {
	var out []string
	for _, s := range sources {
		if !strings.Contains(s, "://") && !strings.HasPrefix(s, "git@") {
			out = append(out, s)
		}
	}
	return out
}

// boundSources lists the context paths a RUN binds.
func boundSources(c *instructions.RunCommand) []string {
	keep := func(word string) (string, error) { return word, nil }
	if err := c.Expand(keep); err != nil {
		return []string{"."} // a variable where a number belongs: assume the most
	}
	var out []string
	for _, m := range instructions.GetMounts(c) {
		if m.Type == instructions.MountTypeBind && m.From == "" {
			out = append(out, m.Source)
		}
	}
	return out
}

// StandsOn is the reference whose layers the target's image begins with; false
// for one from scratch. target is a stage, "" the last.
func (f *File) StandsOn(target string, args map[string]string) (BaseRef, bool, error) {
	env, err := f.globals(args)
	if err != nil {
		return BaseRef{}, false, err
	}
	at := len(f.Stages) - 1
	for i, s := range f.Stages {
		if target != "" && strings.EqualFold(s.Name, target) {
			at = i
		}
	}
	stages := make([]statement, 0, len(f.Stages))
	for _, st := range f.code {
		if _, ok := st.cmd.(*instructions.Stage); ok {
			stages = append(stages, st)
		}
	}
	for {
		c, _ := stages[at].cmd.(*instructions.Stage)
		found, err := f.fromReference(stages[at], c, env)
		if err != nil {
			return BaseRef{}, false, err
		}
		if len(found) == 1 {
			found[0].Line = stages[at].node.StartLine
			return found[0].BaseRef, true, nil
		}
		res, err := shell.NewLex(f.escape).ProcessWordWithMatches(c.BaseName, env)
		if err != nil {
			return BaseRef{}, false, f.fault(stages[at].node.StartLine, err, "")
		}
		before := slices.IndexFunc(f.Stages[:at], func(s Stage) bool { return s.Name != "" && strings.EqualFold(s.Name, res.Result) })
		if before < 0 {
			return BaseRef{}, false, nil // scratch
		}
		at = before
	}
}

var errMoved = errors.New("the reference cannot be replaced where it stands")

// Fetch is a file that ADD takes from an address.
type Fetch struct {
	URL      string // as written, with its build arguments
	Checksum string // as written, "" when it has none
	Line     int
}

// Fetches lists what ADD takes from http and https addresses, in order.
func (f *File) Fetches() []Fetch {
	var out []Fetch
	for _, st := range f.code {
		add, ok := st.cmd.(*instructions.AddCommand)
		if !ok {
			continue
		}
		for _, src := range add.SourcePaths {
			if strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://") {
				out = append(out, Fetch{URL: src, Checksum: add.Checksum, Line: st.node.StartLine})
			}
		}
	}
	return out
}

// Demand is a privilege a RUN asks for.
type Demand struct {
	Flag string // --security=insecure or --network=host
	Line int
}

// Demands lists the privileges that RUN instructions ask for, in order.
func (f *File) Demands() []Demand {
	var out []Demand
	for _, st := range f.code {
		run, ok := st.cmd.(*instructions.RunCommand)
		if !ok {
			continue
		}
		if s := instructions.GetSecurity(run); s == instructions.SecurityInsecure {
			out = append(out, Demand{"--security=" + s, st.node.StartLine})
		}
		if n := instructions.GetNetwork(run); n == instructions.NetworkHost {
			out = append(out, Demand{"--network=" + n, st.node.StartLine})
		}
	}
	return out
}
