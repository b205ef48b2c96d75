package jail

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h). Arguments are 64 bits,
// their low half first on the little-endian architectures built for.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16

	x32Bit = 0x40000000
)

// Filter is a compiled seccomp filter.
type Filter []bpf.RawInstruction

// DefaultFilter compiles the profile ordinary containers get (the Moby
// project's) for processes whose capabilities are bounded by caps. Calls the
// profile does not allow fail with EPERM; calls newer than our table and
// calls by another architecture's numbers fail with ENOSYS, so that callers
// fall back to older ones.
func DefaultFilter(caps Capabilities) (Filter, error) {
	return BuildFilter(caps)
}

// Install puts the filter on the calling thread and what it starts. It needs
// no-new-privs or CAP_SYS_ADMIN.
func (f Filter) Install() error { return f.install(0) }

// InstallAll puts the filter on every thread of the process.
func (f Filter) InstallAll() error { return f.install(unix.SECCOMP_FILTER_FLAG_TSYNC) }

func (f Filter) install(flags uintptr) error {
	ins := f.SockFilter()
	prog := unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("installing the seccomp filter: %w", errno)
	}
	return nil
}

func syscallTable() map[string]uint32 {
	words := strings.Fields(syscallNumbers)
	table := make(map[string]uint32, len(words)/2)
	for i := 0; i+1 < len(words); i += 2 {
		n, err := strconv.ParseUint(words[i+1], 10, 32)
		if err == nil {
			table[words[i]] = uint32(n)
		}
	}
	return table
}

func errnoRet(errno uint32) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | errno&unix.SECCOMP_RET_DATA}
}

// compileProfile turns a runtime-spec profile into instructions: first the
// exceptions, then calls with conditions, then ranges of calls always allowed.
func compileProfile(p *specs.LinuxSeccomp, numbers map[string]uint32, first []bpf.Instruction) ([]bpf.Instruction, error) {
	allowed, conditional, err := sortRules(p, numbers)
	if err != nil {
		return nil, err
	}
	newest := uint32(0)
	for _, n := range numbers {
		newest = max(newest, n)
	}
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		errnoRet(uint32(unix.ENOSYS)),
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: min(newest, x32Bit-1), SkipFalse: 1},
		errnoRet(uint32(unix.ENOSYS)),
	}
	prog = append(prog, first...)
	for _, c := range conditional {
		block, err := c.compile()
		if err != nil {
			return nil, err
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: c.number, SkipFalse: uint8(len(block))})
		prog = append(prog, block...)
	}
	for _, r := range ranges(allowed) {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: r[0], SkipFalse: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: r[1], SkipTrue: 1},
			allow)
	}
	return append(prog, errnoRet(uint32(unix.EPERM))), nil
}

// condition is a call allowed only with some arguments, or refused with an
// error of its own.
type condition struct {
	number uint32
	args   []specs.LinuxSeccompArg // any of them allows
	errno  uint32                  // otherwise
}

func sortRules(p *specs.LinuxSeccomp, numbers map[string]uint32) (map[uint32]bool, []*condition, error) {
	allowed := map[uint32]bool{}
	byNumber := map[uint32]*condition{}
	for _, rule := range p.Syscalls {
		for _, name := range rule.Names {
			n, ok := numbers[name]
			if !ok {
				continue // another architecture's
			}
			switch {
			case rule.Action == specs.ActAllow && len(rule.Args) == 0:
				allowed[n] = true
			case rule.Action == specs.ActAllow && len(rule.Args) == 1:
				c := byNumber[n]
				if c == nil {
					c = &condition{number: n, errno: uint32(unix.EPERM)}
					byNumber[n] = c
				}
				c.args = append(c.args, rule.Args[0])
			case rule.Action == specs.ActErrno && rule.ErrnoRet != nil && len(rule.Args) == 0:
				byNumber[n] = &condition{number: n, errno: uint32(*rule.ErrnoRet)}
			default:
				return nil, nil, fmt.Errorf("seccomp profile: rule for %s has a form we do not compile", name)
			}
		}
	}
	var list []*condition
	for n, c := range byNumber {
		if !allowed[n] {
			list = append(list, c)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].number < list[j].number })
	return allowed, list, nil
}

// compile tests the low half of the arguments only: the kernel takes those of
// the profile (socket's domain, clone's flags, personality) as 32 bits, and a
// test of all 64 would let a caller choose the rule with bits nobody reads.
func (c *condition) compile() ([]bpf.Instruction, error) {
	var out []bpf.Instruction
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	for _, a := range c.args {
		if a.Value > 1<<32-1 || a.ValueTwo > 1<<32-1 {
			return nil, fmt.Errorf("seccomp profile: argument %#x is wider than 32 bits", a.Value)
		}
		v := uint32(a.Value)
		out = append(out, bpf.LoadAbsolute{Off: offArgs + 8*uint32(a.Index), Size: 4})
		switch a.Op {
		case specs.OpEqualTo:
			out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: 1})
		case specs.OpLessThan:
			out = append(out, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: v, SkipTrue: 1})
		case specs.OpGreaterThan:
			out = append(out, bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: v, SkipFalse: 1})
		case specs.OpMaskedEqual:
			out = append(out, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: v},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ValueTwo), SkipFalse: 1})
		default:
			return nil, fmt.Errorf("seccomp profile: operator %s is not compiled", a.Op)
		}
		out = append(out, allow)
	}
	return append(out, errnoRet(c.errno)), nil
}

// ranges merges numbers into inclusive ranges, ascending.
func ranges(numbers map[uint32]bool) [][2]uint32 {
	sorted := make([]uint32, 0, len(numbers))
	for n := range numbers {
		sorted = append(sorted, n)
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	var out [][2]uint32
	for _, n := range sorted {
		if len(out) > 0 && out[len(out)-1][1]+1 == n {
			out[len(out)-1][1] = n
			continue
		}
		out = append(out, [2]uint32{n, n})
	}
	return out
}
