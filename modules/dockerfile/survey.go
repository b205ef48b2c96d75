package dockerfile

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Source is one path a COPY or ADD takes from the build context.
type Source struct {
	Path string // as written: it may hold wildcards and build arguments
	Line int
}

// Sources lists what COPY and ADD take from the build context, in order.
func (f *File) Sources() []Source { return f.sources(nil) }

// SourcesOf is Sources of what a target stage is made of; "" is the last stage.
func (f *File) SourcesOf(target string) []Source {
	env, err := f.globals(nil)
	if err != nil {
		return f.sources(nil)
	}
	return f.sources(f.part(target, env))
}

// part says which stages a target is made of: what it stands on, copies from
// or mounts, and so on from there.
func (f *File) part(target string, env values) []bool {
	part := make([]bool, len(f.Stages))
	for queue := []int{f.targetStage(target)}; len(queue) > 0; queue = queue[1:] {
		if i := queue[0]; !part[i] {
			part[i] = true
			queue = append(queue, f.wants(i, env)...)
		}
	}
	return part
}

// wants lists the stages a stage stands on, copies from or mounts.
func (f *File) wants(stage int, env values) []int {
	var out []int
	for _, st := range f.code {
		if st.stage != stage {
			continue
		}
		switch c := st.cmd.(type) {
		case *instructions.Stage:
			name, err := shell.NewLex(f.escape).ProcessWordWithMatches(c.BaseName, env)
			if i := f.stageNamed(name.Result, stage); err == nil && i >= 0 {
				out = append(out, i)
			}
		case *instructions.CopyCommand:
			out = f.addStage(out, c.From)
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				out = f.addStage(out, m.From)
			}
		}
	}
	return out
}

// sources lists what is taken from the build context, by the stages given; nil
// is all of them.
func (f *File) sources(stages []bool) []Source {
	var out []Source
	for _, st := range f.code {
		if stages != nil && !stages[st.stage] {
			continue
		}
		var paths []string
		switch c := st.cmd.(type) {
		case *instructions.CopyCommand:
			if c.From == "" {
				paths = c.SourcePaths
			}
		case *instructions.AddCommand:
			paths = localSources(c.SourcePaths)
		}
		for _, p := range paths {
			out = append(out, Source{Path: p, Line: st.node.StartLine})
		}
	}
	return out
}

// Tool is a program a RUN calls that fetches from somewhere.
type Tool struct {
	Name string // apt, go, npm, pip, …
	Line int    // of the RUN
}

// tools are the calls that fetch, by the name of the tool.
var tools = []struct {
	name string
	call *regexp.Regexp
}{
	{"apt", calls(`apt(-get)?\b[^;&|\n]*\b(update|install|upgrade|dist-upgrade|build-dep)`)},
	{"apk", calls(`apk\b[^;&|\n]*\b(add|update|upgrade)`)},
	{"rpm", calls(`(yum|dnf|microdnf|tdnf|zypper)\b[^;&|\n]*\b(install|update|upgrade|makecache|builddep)`)},
	{"go", calls(`go(\.exe)? +(build|install|get|mod +(download|tidy|vendor)|test|run|generate|list|vet|tool)`)},
	{"npm", calls(`(npm +(ci|i|install|install-clean|update|exec|x|run|add)|npx|yarn|pnpm|corepack)`)},
	{"pip", calls(`(pip[0-9.]*|python[0-9.]* +-m +pip|pipx|pipenv|poetry|uv|pdm) +[a-z][a-z-]*`)},
	{"cargo", calls(`cargo +(build|install|fetch|test|run|update|chef|check)`)},
	{"gem", calls(`(gem +install|bundle +(install|update)|bundle\b)`)},
	{"maven", calls(`(mvn|\./mvnw|gradle|\./gradlew)`)},
	{"nuget", calls(`(dotnet +(restore|build|publish|test|tool)|nuget)`)},
	{"composer", calls(`composer +(install|update|require)`)},
	{"git", calls(`git +(clone|fetch|pull|submodule|ls-remote)`)},
	{"download", calls(`(curl|wget|aria2c)`)},
	{"make", calls(`(make|gmake|just|task|mage|bazel(isk)?)`)}, // what it calls stands in a file of its own
}

// calls matches a command where the shell would begin one.
func calls(command string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)(^|[;&|({\n]|\bthen\b|\bdo\b|\belse\b|\bsudo\b|\benv\b|\bexec\b|\btime\b|\bnice\b|\b[A-Za-z_][A-Za-z0-9_]*=[^ ;&|]*)[ \t]*(/usr/local/go/bin/|/usr/(local/)?bin/)?` + command + `([ \t;&|)\n]|$)`)
}

// Tools lists the fetching programs RUN instructions call, each once a RUN, as
// far as the Dockerfile itself shows.
func (f *File) Tools() []Tool {
	var out []Tool
	for _, st := range f.code {
		run, ok := st.cmd.(*instructions.RunCommand)
		if !ok {
			continue
		}
		text := runText(run)
		for _, t := range tools {
			if t.call.MatchString(text) {
				out = append(out, Tool{Name: t.name, Line: st.node.StartLine})
			}
		}
	}
	return out
}

// Calls lists which of some programs the RUN instructions call that stand on the
// FROM of a line, in its stage and in those that build on it; ran says whether
// there are any such instructions.
func (f *File) Calls(line int, programs []string) (called []string, ran bool) {
	on := f.standing(line)
	for _, st := range f.code {
		run, ok := st.cmd.(*instructions.RunCommand)
		if !ok || !on[st.stage] {
			continue
		}
		ran = true
		text := runText(run)
		for _, p := range programs {
			if !slices.Contains(called, p) && calls(regexp.QuoteMeta(p)).MatchString(text) {
				called = append(called, p)
			}
		}
	}
	return called, ran
}

// Sets says whether the stage with the FROM of a line, or one that builds on it,
// gives a variable a value, by ENV or in a RUN.
func (f *File) Sets(line int, name, value string) bool {
	on := f.standing(line)
	return slices.ContainsFunc(f.code, func(st statement) bool {
		switch c := st.cmd.(type) {
		case *instructions.EnvCommand:
			return on[st.stage] && slices.ContainsFunc(c.Env, func(e instructions.KeyValuePair) bool { return e.Key == name && e.Value == value })
		case *instructions.RunCommand:
			return on[st.stage] && regexp.MustCompile(`\b`+regexp.QuoteMeta(name+"="+value)+`\b`).MatchString(runText(c))
		}
		return false
	})
}

// standing says which stages have the FROM of a line, or build on one that has.
func (f *File) standing(line int) []bool {
	on := make([]bool, len(f.Stages))
	for i, s := range f.Stages {
		below := f.stageNamed(s.From.Raw, i)
		on[i] = s.From.Line == line || below >= 0 && on[below]
	}
	return on
}

// runText is what a RUN gives its shell, lines joined.
func runText(run *instructions.RunCommand) string {
	text := strings.Join(run.CmdLine, " ")
	for _, file := range run.Files {
		text += "\n" + file.Data
	}
	return strings.ReplaceAll(text, "\\\n", " ")
}

// Root is what a target ("" is the last stage) stands on in the end, arguments
// that have a default put in.
func (f *File) Root(target string) string {
	i := f.targetStage(target)
	for below := i; below >= 0; below = f.stageNamed(f.Stages[i].From.Raw, i) {
		i = below
	}
	return f.Stages[i].From.Name
}

// CacheMounts says whether a RUN keeps a directory from build to build: what it
// fetched once it does not fetch again.
func (f *File) CacheMounts() bool {
	return slices.ContainsFunc(f.code, func(st statement) bool {
		run, ok := st.cmd.(*instructions.RunCommand)
		return ok && slices.ContainsFunc(instructions.GetMounts(run), func(m *instructions.Mount) bool { return m.Type == instructions.MountTypeCache })
	})
}

// Targets lists the named stages that nothing in the file stands on or copies
// from, the last stage apart: what --target may be meant for.
func (f *File) Targets() []string {
	used := make([]bool, len(f.Stages))
	use := func(name string, n int) {
		if i := f.stageNamed(name, n); i >= 0 {
			used[i] = true
		} else if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(used) {
			used[i] = true
		}
	}
	for _, st := range f.code {
		switch c := st.cmd.(type) {
		case *instructions.Stage:
			use(c.BaseName, st.stage)
		case *instructions.CopyCommand:
			use(c.From, len(f.Stages))
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				use(m.From, len(f.Stages))
			}
		}
	}
	var out []string
	for i, s := range f.Stages[:len(f.Stages)-1] {
		if s.Name != "" && !used[i] {
			out = append(out, s.Name)
		}
	}
	return out
}

// User is the last USER of a target ("" is the last stage) and of the stages it
// stands on; "" when the file names none.
func (f *File) User(target string) string {
	user := ""
	for i := f.targetStage(target); i >= 0 && user == ""; {
		for _, st := range f.code {
			if c, ok := st.cmd.(*instructions.UserCommand); ok && st.stage == i {
				user = c.User
			}
		}
		i = f.stageNamed(f.Stages[i].From.Raw, i)
	}
	return user
}

// Arguments lists the global arguments FROM lines need and no ARG gives a value.
func (f *File) Arguments() []string {
	var out []string
	for _, cmd := range f.meta {
		for _, kp := range cmd.Args {
			needed := slices.ContainsFunc(f.Stages, func(s Stage) bool {
				return s.From.Name == "" && needs(s.From.Raw, kp.Key)
			})
			if kp.Value == nil && needed {
				out = append(out, kp.Key)
			}
		}
	}
	return out
}
