package catalog

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"drydock/modules/artifact"
)

// The emulators' files. A catalog without the first has none.
const (
	EmulatorsFile = "emulators.yaml"
	emulatorsLock = "emulators.lock.json"
)

// Emulators says where programs come from that execute foreign architectures.
type Emulators struct {
	Version   int                 `json:"version" yaml:"version"`
	Package   string              `json:"package" yaml:"package"`                 // Debian package with qemu's static user mode
	Suite     string              `json:"suite,omitempty" yaml:"suite,omitempty"` // default what the mirror setting says
	Platforms []artifact.Platform `json:"platforms" yaml:"platforms"`             // of the machines that build
	Emulate   []artifact.Platform `json:"emulate" yaml:"emulate"`                 // what they emulate
	Tests     bool                `json:"tests,omitempty" yaml:"tests,omitempty"` // whether black-box tests run emulated too; default static tests only
	Lock      string              `json:"lock" yaml:"lock"`                       // relative to the catalog; default emulators.lock.json

	Place string `json:"-" yaml:"-"` // the file
}

// emulatable are the architectures qemu-user executes and images are made for.
var emulatable = []string{"386", "amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x"}

var packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)

// loadEmulators reads emulators.yaml where there is one.
func (l *loader) loadEmulators() {
	if _, err := fs.Stat(l.fsys, EmulatorsFile); errors.Is(err, fs.ErrNotExist) {
		return
	}
	var e Emulators
	s, ok := l.read(EmulatorsFile, &e)
	if !ok {
		return
	}
	e.Place = s.place
	if !packagePattern.MatchString(e.Package) {
		l.fail(s.at("package"), "%q is not a Debian package", e.Package).Remedy = "write package: qemu-user-static (from trixie on: qemu-user)"
	}
	l.checkPlatforms(s, e.Platforms)
	l.checkEmulated(s, e.Emulate)
	if e.Lock == "" {
		e.Lock = emulatorsLock
	} else if _, err := fs.Stat(l.fsys, e.Lock); err != nil && fs.ValidPath(e.Lock) {
		l.fail(s.at("lock"), "there is no file %s", path.Join(l.name, e.Lock)).Remedy = "make it with drydock base update --emulators"
	}
	if !fs.ValidPath(e.Lock) || path.Ext(e.Lock) != ".json" {
		l.fail(s.at("lock"), "%s is not a JSON file in the catalog", e.Lock).Remedy = "write lock: " + emulatorsLock + ", or leave it out"
	}
	l.cat.Emulators = &e
}

func (l *loader) checkEmulated(s source, ps []artifact.Platform) {
	if len(ps) == 0 {
		l.fail(s.at("emulate"), "nothing is emulated").Remedy = "write for example emulate: [linux/arm64], or remove the file"
	}
	for i, p := range ps {
		at := s.at("emulate", strconv.Itoa(i))
		if slices.Contains(ps[:i], p) {
			l.fail(at, "platform %s is there twice", p).Remedy = "remove one of them"
		}
		if p.OS != "linux" || p.Variant != "" || !slices.Contains(emulatable, p.Architecture) {
			l.fail(at, "platform %s is not emulated", p).Remedy = "write linux/ and one of " + strings.Join(emulatable, ", ") + ", without a variant"
		}
	}
}
