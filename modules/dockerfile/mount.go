package dockerfile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// MountInRuns gives every RUN of the stages that stand on one of the references
// (nil: of every stage) another --mount. Lines keep their numbers. It is for engines whose RUN cannot
// be told from outside where the mirrors are: a mount is part of the step and of
// no layer.
func (f *File) MountInRuns(on map[string]bool, mount string) ([]byte, error) {
	if mount == "" || strings.ContainsAny(mount, " \t\r\n\\\"'`$") {
		return nil, fmt.Errorf("%s: %q is not a mount", f.Name, mount)
	}
	standsOn := make([]bool, len(f.Stages))
	byName := map[string]int{}
	for i, s := range f.Stages {
		standsOn[i] = on == nil || on[s.From.Raw]
		if before, ok := byName[strings.ToLower(s.From.Raw)]; ok {
			standsOn[i] = standsOn[before]
		}
		if s.Name != "" {
			byName[s.Name] = i
		}
	}
	return f.flagInRuns("--mount="+mount, func(st statement) bool {
		return st.stage >= 0 && st.stage < len(standsOn) && standsOn[st.stage]
	})
}

// CutInRuns gives every RUN no network. One that asks for a network keeps what it
// asks for, which engines refuse or not.
func (f *File) CutInRuns() ([]byte, error) {
	return f.flagInRuns("--network="+instructions.NetworkNone, func(st statement) bool {
		run, ok := st.cmd.(*instructions.RunCommand)
		return ok && instructions.GetNetwork(run) == instructions.NetworkDefault
	})
}

// flagInRuns writes a flag into some RUN instructions.
func (f *File) flagInRuns(flag string, in func(statement) bool) ([]byte, error) {
	lines := bytes.SplitAfter(f.data, []byte("\n"))
	for _, st := range f.code {
		if !strings.EqualFold(st.node.Value, command.Run) || !in(st) {
			continue
		}
		line := lines[st.node.StartLine-1]
		at := len(line) - len(bytes.TrimLeft(line, " \t")) + len(command.Run)
		if at > len(line) || !bytes.EqualFold(bytes.TrimLeft(line[:at], " \t"), []byte(command.Run)) {
			return nil, f.fault(st.node.StartLine, fmt.Errorf("RUN does not begin its line"), "write RUN at the beginning of the line")
		}
		changed := append([]byte{}, line[:at]...)
		changed = append(changed, " "+flag...)
		lines[st.node.StartLine-1] = append(changed, line[at:]...)
	}
	return bytes.Join(lines, nil), nil
}
