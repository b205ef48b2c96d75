package jail

import (
	"fmt"
	"os"
	"runtime"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// SockFilter is the filter as the kernel and package notify take it, and as it
// can be sent to the process that installs it.
func (f Filter) SockFilter() []unix.SockFilter {
	out := make([]unix.SockFilter, len(f))
	for i, r := range f {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out
}

// InstallNotify is Install for a filter with Notify rules: see notify.Install.
func (f Filter) InstallNotify() (*os.File, error) { return notify.Install(f.SockFilter()) }

// BuildFilter is DefaultFilter with exceptions. A call's rules are tried in
// order, the first whose tests all hold decides, and without one the profile
// does. Calls this architecture does not have are left out. A Notify rule
// decides also where the profile would refuse; what an older filter of the
// process refuses stays refused.
func BuildFilter(caps Capabilities, rules ...Rule) (Filter, error) {
	numbers := syscallTable()
	if len(numbers) == 0 {
		return nil, fmt.Errorf("no seccomp filter for architecture %s", runtime.GOARCH)
	}
	spec := &specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: caps.Names()},
	}}
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	first, err := compileRules(rules, numbers)
	if err != nil {
		return nil, err
	}
	prog, err := compileProfile(profile, numbers, first)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, fmt.Errorf("assembling the seccomp filter: %w", err)
	}
	return raw, nil
}

// compileRules expects the call's number loaded and leaves it loaded.
func compileRules(rules []Rule, numbers map[string]uint32) ([]bpf.Instruction, error) {
	var order []uint32
	blocks := map[uint32][]bpf.Instruction{}
	for _, r := range rules {
		n, ok := numbers[r.Call]
		if !ok {
			continue
		}
		block, err := r.compile()
		if err != nil {
			return nil, err
		}
		if blocks[n] == nil {
			order = append(order, n)
		}
		blocks[n] = append(blocks[n], block...)
	}
	var out []bpf.Instruction
	for _, n := range order {
		block := append(blocks[n], bpf.LoadAbsolute{Off: offNumber, Size: 4})
		if len(block) > 255 {
			return nil, fmt.Errorf("seccomp rules: too many for system call %d", n)
		}
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: uint8(len(block))})
		out = append(out, block...)
	}
	return out, nil
}

func (r Rule) compile() ([]bpf.Instruction, error) {
	var tail []bpf.Instruction
	switch r.Action {
	case Notify:
		tail = append(tail, bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF})
	case Allow:
		tail = append(tail, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	case Trace:
		tail = append(tail, bpf.RetConstant{Val: unix.SECCOMP_RET_TRACE})
	case Refuse:
		if r.Errno == 0 {
			return nil, fmt.Errorf("seccomp rule for %s: it refuses with no error", r.Call)
		}
		tail = append(tail, errnoRet(r.Errno))
	default:
		return nil, fmt.Errorf("seccomp rule for %s: it has no action", r.Call)
	}
	// from the last test on, so that each knows how far it jumps
	for i := len(r.If) - 1; i >= 0; i-- {
		t := r.If[i]
		if t.Arg < 0 || t.Arg > 5 {
			return nil, fmt.Errorf("seccomp rule for %s: there is no argument %d", r.Call, t.Arg)
		}
		skip := uint8(len(tail))
		jump := bpf.JumpIf{Cond: bpf.JumpEqual, Val: t.Value, SkipFalse: skip}
		if t.Not {
			jump = bpf.JumpIf{Cond: bpf.JumpEqual, Val: t.Value, SkipTrue: skip}
		}
		test := []bpf.Instruction{bpf.LoadAbsolute{Off: offArgs + 8*uint32(t.Arg), Size: 4}}
		if t.Mask != 0 {
			test = append(test, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: t.Mask})
		}
		tail = append(append(test, jump), tail...)
	}
	return tail, nil
}

// RuleFilter is the rules alone: what none of them decides, and calls by
// another architecture's numbers, are allowed.
func RuleFilter(rules ...Rule) (Filter, error) {
	numbers := syscallTable()
	if len(numbers) == 0 {
		return nil, fmt.Errorf("no seccomp filter for architecture %s", runtime.GOARCH)
	}
	decide, err := compileRules(rules, numbers)
	if err != nil {
		return nil, err
	}
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		allow,
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	raw, err := bpf.Assemble(append(append(prog, decide...), allow))
	if err != nil {
		return nil, fmt.Errorf("assembling the seccomp filter: %w", err)
	}
	return raw, nil
}
