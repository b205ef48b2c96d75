package dockerfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// RunPlatforms lists the platforms on which a build of target ("" is the last
// stage) runs commands, each once, as os/architecture[/variant]: those of the
// stages it is made from that have a RUN. The arguments are as for Bases; with
// TARGETPLATFORM and BUILDPLATFORM among them every platform is known, one that
// is not is left as written.
func (f *File) RunPlatforms(target string, args map[string]string) ([]string, error) {
	env, err := f.globals(args)
	if err != nil {
		return nil, err
	}
	platform := make([]string, len(f.Stages))
	needs := make([][]int, len(f.Stages))
	runs := make([]bool, len(f.Stages))
	for _, st := range f.code {
		i := st.stage
		switch c := st.cmd.(type) {
		case *instructions.Stage:
			on, base, err := f.stagePlatform(st, c, env)
			if err != nil {
				return nil, err
			}
			platform[i] = on
			if base >= 0 { // what builds on a stage is what that is
				platform[i], needs[i] = platform[base], append(needs[i], base)
			}
		case *instructions.CopyCommand:
			needs[i] = f.addStage(needs[i], c.From)
		case *instructions.RunCommand:
			runs[i] = true
			for _, m := range instructions.GetMounts(c) {
				needs[i] = f.addStage(needs[i], m.From)
			}
		}
	}
	var out []string
	seen := make([]bool, len(f.Stages))
	for queue := []int{f.targetStage(target)}; len(queue) > 0; queue = queue[1:] {
		i := queue[0]
		if seen[i] {
			continue
		}
		seen[i] = true
		if runs[i] && !slices.Contains(out, platform[i]) {
			out = append(out, platform[i])
		}
		queue = append(queue, needs[i]...)
	}
	slices.Sort(out)
	return out, nil
}

// stagePlatform is what a FROM is for, and the stage it builds on, -1 for none.
func (f *File) stagePlatform(st statement, c *instructions.Stage, env values) (platform string, base int, err error) {
	lex := shell.NewLex(f.escape)
	name, err := lex.ProcessWordWithMatches(c.BaseName, env)
	if err != nil {
		return "", -1, f.fault(st.node.StartLine, err, "")
	}
	if base = f.stageNamed(name.Result, st.stage); base >= 0 {
		return "", base, nil
	}
	if c.Platform == "" || name.Result == scratch {
		return env["TARGETPLATFORM"], -1, nil
	}
	on, err := lex.ProcessWordWithMatches(c.Platform, env)
	if err != nil {
		return "", -1, f.fault(st.node.StartLine, err, "")
	}
	return on.Result, -1, nil
}

// stageNamed is the last of the first n stages of that name, -1 for none.
func (f *File) stageNamed(name string, n int) int {
	for i := n - 1; i >= 0; i-- {
		if f.Stages[i].Name != "" && strings.EqualFold(f.Stages[i].Name, name) {
			return i
		}
	}
	return -1
}

// addStage adds the stage that a COPY or a mount names, by name or number.
func (f *File) addStage(to []int, name string) []int {
	i := f.stageNamed(name, len(f.Stages))
	if n, err := strconv.Atoi(name); i < 0 && err == nil && n >= 0 && n < len(f.Stages) {
		i = n
	}
	if i < 0 {
		return to
	}
	return append(to, i)
}

func (f *File) targetStage(target string) int {
	if i := f.stageNamed(target, len(f.Stages)); target != "" && i >= 0 {
		return i
	}
	if n, err := strconv.Atoi(target); err == nil && n >= 0 && n < len(f.Stages) {
		return n
	}
	return len(f.Stages) - 1
}
