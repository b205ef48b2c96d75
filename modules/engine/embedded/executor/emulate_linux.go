package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archutil"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initbin"
	"drydock/modules/engine/embedded/initproc"
	"drydock/modules/jail"
)

// EmulateEnv is the variable that names a foreign architecture (arm64) whose
// programs a step of this machine's platform starts too. It never reaches the
// step.
const EmulateEnv = "DRYDOCK_EMULATE"

type emulatorsKey struct{}

// WithEmulators says which emulators the steps run under a context have.
func WithEmulators(ctx context.Context, e Emulators) context.Context {
	return context.WithValue(ctx, emulatorsKey{}, e)
}

// elf is what the header of an architecture's programs says (elf(5)).
type elf struct {
	class   byte // 1: 32 bits, 2: 64 bits
	big     bool
	machine uint16
}

// foreign are the architectures that can be emulated.
func foreign(arch string) (elf, bool) {
	e, ok := map[string]elf{
		"386": {1, false, 3}, "amd64": {2, false, 62}, "arm": {1, false, 40}, "arm64": {2, false, 183},
		"ppc64le": {2, false, 21}, "riscv64": {2, false, 243}, "s390x": {2, true, 22},
	}[arch]
	return e, ok
}

// pattern is how binfmt_misc recognises the programs, as qemu's own list does:
// static or position-independent executables for any ABI version.
func (e elf) pattern() (magic, mask []byte) {
	order, data := binary.AppendByteOrder(binary.LittleEndian), byte(1)
	if e.big {
		order, data = binary.BigEndian, 2
	}
	magic = append([]byte{0x7f, 'E', 'L', 'F', e.class, data, 1}, make([]byte, 9)...)
	mask = bytes.Repeat([]byte{0xff}, 16)
	mask[7] = 0 // the operating system's ABI
	magic = order.AppendUint16(order.AppendUint16(magic, 2), e.machine)
	return magic, order.AppendUint16(order.AppendUint16(mask, 0xfffe), 0xffff)
}

// Emulated is the architecture whose emulator a step of a platform needs; ""
// when this kernel and processor execute it as they are.
func Emulated(p *pb.Platform) string {
	if p == nil {
		return ""
	}
	want := platforms.Normalize(ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	own := platforms.DefaultSpec().Architecture
	kin := map[string]string{"amd64": "386", "arm64": "arm"}[own] // what the processor itself may know
	if want.Architecture != own && want.Architecture != kin {
		return want.Architecture // also where the host has an emulator: ours is known
	}
	for _, have := range archutil.SupportedPlatforms(false) {
		if platforms.Only(have).Match(want) {
			return ""
		}
	}
	return want.Architecture
}

// EmulatedStep is the architecture whose emulator a step needs: that of its
// platform, or one that EmulateEnv asks for.
func EmulatedStep(p *pb.Platform, m *pb.Meta) string {
	if arch := Emulated(p); arch != "" {
		return arch
	}
	for _, kv := range m.GetEnv() {
		if arch, ok := strings.CutPrefix(kv, EmulateEnv+"="); ok {
			return arch
		}
	}
	return ""
}

// unexecutable says that a step cannot run here, why, and what would help.
func unexecutable(p *pb.Platform, arch, why, remedy string) error {
	name := arch
	if p != nil {
		name = platforms.Format(platforms.Normalize(ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}))
	}
	return fmt.Errorf("this engine cannot execute %s: %s; build on the engine's platform and copy the result "+
		"(FROM --platform=$BUILDPLATFORM, then cross-compile), %s, or use a Dagger Engine that emulates it", name, why, remedy)
}

// emulation finds the emulator a step needs: for its platform, or asked for by
// EmulateEnv. nil is none.
func (s *step) emulation(ctx context.Context, asked string) error {
	p := s.vertex.Platform
	arch := Emulated(p)
	if arch == "" {
		arch, p = asked, nil
	}
	if arch == "" {
		return nil
	}
	header, known := foreign(arch)
	if !known || (p != nil && p.OS != "linux") {
		return unexecutable(p, arch, "there is no emulator for it", "build where it is native")
	}
	if s.e.container != nil {
		return unexecutable(p, arch, "in tier "+s.e.opt.Tier+" a step has no namespace to emulate it in",
			"run where the engine has tier T1 (drydock doctor)")
	}
	have, _ := ctx.Value(emulatorsKey{}).(Emulators)
	program, ok := have[arch]
	if !ok {
		return unexecutable(p, arch, "the catalog's emulators.yaml names no emulator for it",
			"add one there (drydock base update --emulators)")
	}
	f, err := s.e.emulators.open(program)
	if err != nil {
		return fmt.Errorf("emulating %s: %w", arch, err)
	}
	s.emulator = f
	magic, mask := header.pattern()
	s.spec.Emulator = &initproc.Emulator{Name: "qemu-" + arch, Magic: magic, Mask: mask}
	return nil
}

// nest gives the init of an emulated step a user namespace of its own, where
// binfmt_misc is its own too, and the emulator's program.
func (s *step) nest(cmd *exec.Cmd) error {
	if s.emulator == nil {
		return nil
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, s.emulator)
	return jail.NestUser(cmd.SysProcAttr)
}

// nestError explains why an emulated step did not start.
func (s *step) nestError(err error) error {
	if s.emulator == nil || err == nil {
		return err
	}
	for _, refusal := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", s.cannotEmulate("this host gives a step no user namespace of its own"), err)
		}
	}
	return err
}

func (s *step) cannotEmulate(why string) error {
	arch := strings.TrimPrefix(s.spec.Emulator.Name, "qemu-")
	p := s.vertex.Platform
	if Emulated(p) == "" {
		p = nil
	}
	return unexecutable(p, arch, why, "run on Linux 6.7 or newer with CONFIG_BINFMT_MISC where user namespaces may be made")
}

// memories are the emulators' programs as sealed memory files, by digest: a
// step sees its emulator as /proc/PID/exe and must not be able to write to it.
type memories struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func (m *memories) open(e Emulator) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.files[e.SHA256]; f != nil {
		return f, nil
	}
	b, err := os.ReadFile(e.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the emulator: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != e.SHA256 {
		return nil, fmt.Errorf("reading the emulator: %s is not the file that is locked: remove it and run again", e.Path)
	}
	f, err := initbin.Sealed("drydock-emulator", b)
	if err != nil {
		return nil, err
	}
	if m.files == nil {
		m.files = map[string]*os.File{}
	}
	m.files[e.SHA256] = f
	return f, nil
}

func (m *memories) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.files {
		f.Close()
	}
	m.files = nil
}
