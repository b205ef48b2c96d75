package onboard

import (
	"encoding/json"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// A repository often says itself how its images are built: in a file of compose
// or bake, or in a Makefile that gives docker build its arguments.

// saying is one build that a file of the repository describes.
type saying struct {
	file       string // that says it
	name       string // of the service or target
	context    string // relative to the repository
	dockerfile string // relative to the repository
	target     string
	args       map[string]string
	work       bool // it is of compose, whose files are often for those who work on it
}

// speakers are the files that are asked, the better ones first.
var speakers = []*regexp.Regexp{
	regexp.MustCompile(`^docker-bake\.(json|hcl)$`),
	regexp.MustCompile(`^(docker-)?compose\.ya?ml$`),
}

// speaks says whether a file may describe builds.
func speaks(file string) bool {
	return slices.ContainsFunc(speakers, func(r *regexp.Regexp) bool { return r.MatchString(path.Base(file)) })
}

// sayings reads what the files say, in the order of what they are.
func sayings(fsys fs.FS, files []string) []saying {
	var out []saying
	for _, kind := range speakers {
		for _, file := range files {
			raw, err := fs.ReadFile(fsys, file)
			if err != nil || !kind.MatchString(path.Base(file)) {
				continue
			}
			switch path.Ext(file) {
			case ".json":
				out = append(out, bakeJSON(file, raw)...)
			case ".hcl":
				out = append(out, bakeHCL(file, string(raw))...)
			default:
				out = append(out, compose(file, raw)...)
			}
		}
	}
	return out
}

// within is a folder or file named in another, relative to the repository; not ok
// when it is elsewhere.
func within(file, dir, what string) (string, bool) {
	if what == "" {
		what = "."
	}
	p := path.Join(path.Dir(file), dir, what)
	return p, !strings.Contains(what, "://") && !strings.Contains(dir, "://") && !strings.HasPrefix(what, "git@") && !strings.Contains(p, "$") && fs.ValidPath(p)
}

// say adds a build whose context and Dockerfile are in the repository.
func say(out []saying, s saying, context, dockerfile string) []saying {
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	var here, there bool
	s.context, here = within(s.file, "", context)
	s.dockerfile, there = within(s.file, context, dockerfile)
	if !here || !there {
		return out
	}
	maps.DeleteFunc(s.args, func(_, v string) bool { return strings.Contains(v, "$") || v == "" })
	return append(out, s)
}

// composeBuild is build: of a service, also where it is a folder alone.
type composeBuild struct {
	Context    string    `yaml:"context"`
	Dockerfile string    `yaml:"dockerfile"`
	Inline     string    `yaml:"dockerfile_inline"`
	Target     string    `yaml:"target"`
	Args       yaml.Node `yaml:"args"` // a map, or a list of NAME=VALUE
}

// compose reads the services of a compose file.
func compose(file string, raw []byte) []saying {
	var doc struct {
		Services map[string]struct {
			Build yaml.Node `yaml:"build"`
		} `yaml:"services"`
	}
	if yaml.Unmarshal(raw, &doc) != nil {
		return nil // another program's file, that we need not understand
	}
	var out []saying
	for _, name := range slices.Sorted(maps.Keys(doc.Services)) {
		node := doc.Services[name].Build
		var b composeBuild
		switch node.Kind {
		case yaml.ScalarNode:
			b.Context = node.Value
		case yaml.MappingNode:
			if node.Decode(&b) != nil {
				continue
			}
		}
		if node.Kind == 0 || b.Inline != "" {
			continue
		}
		out = say(out, saying{file: file, name: name, target: defaults(b.Target), args: composeArgs(b.Args), work: true}, defaults(b.Context), defaults(b.Dockerfile))
	}
	return out
}

func composeArgs(n yaml.Node) map[string]string {
	out := map[string]string{}
	var list []string
	if n.Decode(&list) == nil {
		for _, one := range list {
			k, v, _ := strings.Cut(one, "=")
			out[k] = defaults(v)
		}
		return out
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		out[n.Content[i].Value] = defaults(n.Content[i+1].Value)
	}
	return out
}

var withDefault = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^${}]*)\}`)

// defaults puts in what ${NAME:-value} is without the variable.
func defaults(s string) string { return withDefault.ReplaceAllString(s, "$1") }

// bakeTarget is a target of bake, in either form.
type bakeTarget struct {
	Context    string             `json:"context"`
	Dockerfile string             `json:"dockerfile"`
	Target     string             `json:"target"`
	Args       map[string]*string `json:"args"`
	Inherits   []string           `json:"inherits"`
}

func bakeJSON(file string, raw []byte) []saying {
	var doc struct {
		Target map[string]bakeTarget `json:"target"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return nil
	}
	return bake(file, doc.Target)
}

// bake are the targets that nothing inherits from.
func bake(file string, targets map[string]bakeTarget) []saying {
	base := map[string]bool{}
	for _, t := range targets {
		for _, name := range t.Inherits {
			base[name] = true
		}
	}
	var out []saying
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if base[name] {
			continue
		}
		t := inherited(targets, name, 0)
		args := map[string]string{}
		for k, v := range t.Args {
			if v != nil {
				args[k] = *v
			}
		}
		out = say(out, saying{file: file, name: name, target: t.Target, args: args}, t.Context, t.Dockerfile)
	}
	return out
}

// inherited is a target with what it has of others; depth ends circles.
func inherited(targets map[string]bakeTarget, name string, depth int) bakeTarget {
	t := targets[name]
	out := bakeTarget{Args: map[string]*string{}}
	if depth < 10 {
		for _, from := range t.Inherits {
			out.take(inherited(targets, from, depth+1))
		}
	}
	out.take(t)
	return out
}

func (t *bakeTarget) take(o bakeTarget) {
	for _, f := range []struct{ to, from *string }{{&t.Context, &o.Context}, {&t.Dockerfile, &o.Dockerfile}, {&t.Target, &o.Target}} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	maps.Copy(t.Args, o.Args)
}

// Of HCL no more is read than bake files have: blocks of plain values, lists and
// maps of strings, and variables with a default.
var (
	hclComment = regexp.MustCompile(`(?m)^\s*(#|//).*$`)
	hclBlock   = regexp.MustCompile(`(?m)^(target|variable)\s+"([^"]+)"\s*\{`)
	hclString  = regexp.MustCompile(`(?m)^\s*"?([A-Za-z0-9_-]+)"?\s*=\s*("([^"\n]*)"|[A-Za-z0-9_]+)\s*,?\s*$`)
	hclArgs    = regexp.MustCompile(`\bargs\s*=\s*\{`)
	hclList    = regexp.MustCompile(`(?s)\binherits\s*=\s*\[(.*?)\]`)
	hclQuoted  = regexp.MustCompile(`"([^"]+)"`)
	hclName    = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)
)

func bakeHCL(file, text string) []saying {
	text = hclComment.ReplaceAllString(text, "")
	variables := map[string]string{}
	bodies := map[string]string{}
	for _, at := range hclBlock.FindAllStringSubmatchIndex(text, -1) {
		kind, name := text[at[2]:at[3]], text[at[4]:at[5]]
		body := block(text[at[1]:])
		if kind == "variable" {
			variables[name] = hclValues(body, nil)["default"]
		} else {
			bodies[name] += body
		}
	}
	targets := map[string]bakeTarget{}
	for name, body := range bodies {
		var t bakeTarget
		if m := hclArgs.FindStringIndex(body); m != nil {
			t.Args = map[string]*string{}
			args := block(body[m[1]:])
			for k, v := range hclValues(args, variables) {
				t.Args[k] = &v
			}
			body = body[:m[0]] + body[m[1]+len(args):]
		}
		if m := hclList.FindStringSubmatch(body); m != nil {
			for _, q := range hclQuoted.FindAllStringSubmatch(m[1], -1) {
				t.Inherits = append(t.Inherits, q[1])
			}
		}
		v := hclValues(body, variables)
		t.Context, t.Dockerfile, t.Target = v["context"], v["dockerfile"], v["target"]
		targets[name] = t
	}
	return bake(file, targets)
}

// block is a text up to the brace that closes what it is in.
func block(text string) string {
	depth := 1
	for i, r := range text {
		switch r {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return text[:i]
			}
		}
	}
	return text
}

func hclValues(body string, variables map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range hclString.FindAllStringSubmatch(body, -1) {
		value := m[3]
		if !strings.HasPrefix(m[2], `"`) {
			value = variables[m[2]]
		}
		out[m[1]] = hclName.ReplaceAllStringFunc(value, func(ref string) string {
			if v := variables[ref[2:len(ref)-1]]; v != "" {
				return v
			}
			return ref
		})
	}
	return out
}

// saidOf lists what is said of a Dockerfile: each way of building it once.
func saidOf(all []saying, file string) []saying {
	var out []saying
	for _, s := range all {
		same := func(o saying) bool {
			return o.context == s.context && o.target == s.target && maps.Equal(o.args, s.args)
		}
		if s.dockerfile == file && !slices.ContainsFunc(out, same) {
			out = append(out, s)
		}
	}
	return out
}

var (
	makeVariable = regexp.MustCompile(`(?m)^([A-Za-z_][A-Za-z0-9_]*)[ \t]*[?:]*=[ \t]*(.*?)[ \t]*$`)
	goListed     = regexp.MustCompile(`\$\(shell [^()]*(\([^()]*\))?[^()]*GoVersion[^()]*\)`) // asks the go command for it
	goDirective  = regexp.MustCompile(`(?m)^go (\d+\.\d+)`)
	makeName     = regexp.MustCompile(`\$[({]([A-Za-z_][A-Za-z0-9_]*)[)}]`)
	buildArg     = regexp.MustCompile(`--build-arg[= ]['"]?([A-Za-z_][A-Za-z0-9_]*)=([^\s'"]+)`)
)

// makeArguments are the build arguments a Makefile gives, the first of each; what
// only make knows stays in them as it is written.
func makeArguments(fsys fs.FS) map[string]string {
	out := map[string]string{}
	raw, err := fs.ReadFile(fsys, "Makefile")
	if err != nil {
		return out
	}
	text := strings.ReplaceAll(string(raw), "\\\n", " ")
	release := "$$"
	if mod, err := fs.ReadFile(fsys, "go.mod"); err == nil {
		if m := goDirective.FindSubmatch(mod); m != nil {
			release = string(m[1])
		}
	}
	variables := map[string]string{}
	for _, m := range makeVariable.FindAllStringSubmatch(text, -1) {
		if _, twice := variables[m[1]]; !twice {
			variables[m[1]] = m[2]
		}
	}
	for _, m := range buildArg.FindAllStringSubmatch(text, -1) {
		value := m[2]
		for range 5 { // variables of variables
			value = makeName.ReplaceAllStringFunc(value, func(ref string) string {
				if v, ok := variables[ref[2:len(ref)-1]]; ok {
					return v
				}
				return ref
			})
		}
		value = goListed.ReplaceAllString(value, release)
		if _, twice := out[m[1]]; !twice && value != "" {
			out[m[1]] = value
		}
	}
	return out
}
