package warden

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// programs are files made to be executed where the root is not the step's: the
// kernel looks for the loader that a program names in the root of the process.
// So there is a copy of the program, once, that names a copy of the loader
// where that is. Where in memory its name stands, by which the loader knows
// itself, is left as it is.
//
// Each step executes what is in a folder of its own, made of what it asked for;
// what took copying is kept beside for the steps that follow, and linked. A step
// that changes a path while it is executed gets to nothing of another's.
type programs struct {
	dir     string // of the step
	kept    string // of all steps
	loaders string // of all steps, which execute them there: copies name them
	once    atomic.Int64
}

func newPrograms(c Config) *programs {
	return &programs{dir: c.Programs, kept: KeptPrograms(c.Programs), loaders: Loaders(c.Programs)}
}

// KeptPrograms and Loaders are the folders beside a step's own.
func KeptPrograms(programs string) string { return filepath.Join(filepath.Dir(programs), "kept") }

// Loaders are executed by every step.
func Loaders(programs string) string { return filepath.Join(filepath.Dir(programs), "loaders") }

// recently is how long a file that changes again may still have the change time
// it has: the kernel's clock for that is no finer than this.
const recently = 50 * time.Millisecond

// identity is a name for a file as it is: nobody can set its change time.
func identity(fd int, more ...string) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %d %d %d %d\n", st.Dev, st.Ino, st.Size, st.Ctim.Nano(), st.Mtim.Nano(), st.Mode)
	for _, m := range more {
		fmt.Fprintf(h, "%q\n", m)
	}
	return hex.EncodeToString(h.Sum(nil)[:10]), nil
}

// lasting reports whether what has that identity cannot be another yet.
func lasting(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && time.Since(time.Unix(st.Ctim.Unix())) > recently
}

// path is where the kernel executes the open file fd as the thread would.
func (p *programs) path(t *tracer, k *tracee, fd int, base string) (string, error) {
	f, err := os.OpenFile(descriptorPath(fd), os.O_RDONLY, 0)
	if err != nil {
		return "", errnoOf(err)
	}
	defer f.Close()
	loader, at, err := loaderOf(f)
	if err != nil {
		return "", unix.ENOEXEC
	}
	if loader == "" { // static, or nothing the kernel will take
		return p.link(fd, base)
	}
	in, innerOf, err := t.executable(k, unix.AT_FDCWD, loader, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(in)
	lf, err := os.OpenFile(descriptorPath(in), os.O_RDONLY, 0)
	if err != nil {
		return "", errnoOf(err)
	}
	defer lf.Close()
	id, err := identity(in)
	if err != nil {
		return "", err
	}
	copied := func(to *os.File) error { _, err := io.Copy(to, lf); return err }
	lpath, err := p.make(p.loaders, p.name(id, in), filepath.Base(innerOf), copied)
	if err != nil {
		return "", err
	}
	if id, err = identity(fd, lpath); err != nil {
		return "", err
	}
	return p.keep(fd, id, base, func(to *os.File) error { return copyWith(to, f, at, lpath) })
}

// name is the name for a file of an identity: of one that may change without
// changing that, a name that is not used again.
func (p *programs) name(id string, fd int) string {
	if lasting(fd) {
		return id
	}
	return fmt.Sprintf("%s-%d-%d", id, os.Getpid(), p.once.Add(1))
}

// keep makes a file for the step and for those that follow.
func (p *programs) keep(fd int, id, base string, fill func(*os.File) error) (string, error) {
	if !lasting(fd) {
		return p.make(p.dir, p.name(id, fd), base, fill)
	}
	return p.place(p.dir, id, base, func(at string) error {
		kept, err := p.make(p.kept, id, base, fill)
		if err != nil {
			return err
		}
		return os.Link(kept, at)
	})
}

// link gives a file a path with no character that the first line of a script
// cannot have.
func (p *programs) link(fd int, base string) (string, error) {
	target := readlinkIn(unix.AT_FDCWD, descriptorPath(fd))
	if strings.HasPrefix(target, "/") && !strings.HasSuffix(target, " (deleted)") && !strings.HasPrefix(target, "/memfd:") {
		id, err := identity(fd, target)
		if err != nil {
			return "", err
		}
		return p.place(p.dir, id, base, func(at string) error { return os.Symlink(target, at) })
	}
	f, err := os.OpenFile(descriptorPath(fd), os.O_RDONLY, 0)
	if err != nil {
		return "", errnoOf(err)
	}
	defer f.Close()
	id, err := identity(fd)
	if err != nil {
		return "", err
	}
	return p.make(p.dir, p.name(id, fd), base, func(to *os.File) error { _, err := io.Copy(to, f); return err })
}

// stub is a script with no more than a first line.
func (p *programs) stub(interpreter, argument, base string) (string, error) {
	line := "#!" + interpreter
	if argument != "" {
		line += " " + argument
	}
	if len(line) > maxLine-1 || strings.ContainsAny(interpreter, " \t\n") {
		return "", unix.ENAMETOOLONG
	}
	sum := sha256.Sum256([]byte(line))
	return p.make(p.dir, hex.EncodeToString(sum[:10]), base, func(to *os.File) error {
		_, err := to.WriteString(line + "\n")
		return err
	})
}

// make gives a file of that name, made when it is not there.
func (p *programs) make(dir, id, base string, fill func(*os.File) error) (string, error) {
	return p.place(dir, id, base, func(at string) error {
		f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	})
}

func (p *programs) place(dir, id, base string, make func(at string) error) (string, error) {
	at := filepath.Join(dir, id, base)
	if _, err := os.Lstat(at); err == nil {
		return at, nil
	}
	tmp, err := os.MkdirTemp(dir, "new")
	if err != nil {
		return "", errnoOf(err)
	}
	defer os.RemoveAll(tmp)
	if err := make(filepath.Join(tmp, base)); err != nil {
		return "", errnoOf(err)
	}
	if err := os.Rename(tmp, filepath.Dir(at)); err == nil {
		return at, nil
	}
	// the identity is known by another name, or another step made it meanwhile
	if err := os.Rename(filepath.Join(tmp, base), at); err != nil {
		return "", errnoOf(err)
	}
	return at, nil
}

// loaderOf reads which loader a program names, and where its program header
// for that is; "" when it names none.
func loaderOf(f *os.File) (loader string, header int64, err error) {
	var head [64]byte
	if n, _ := f.ReadAt(head[:], 0); n < len(head) || !bytes.HasPrefix(head[:], []byte(elf.ELFMAG)) ||
		elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return "", 0, nil
	}
	le := binary.LittleEndian
	at, size, count := int64(le.Uint64(head[32:])), int64(le.Uint16(head[54:])), int(le.Uint16(head[56:]))
	if size != 56 {
		return "", 0, nil
	}
	for i := range count {
		var ph [56]byte
		if _, err := f.ReadAt(ph[:], at+int64(i)*size); err != nil {
			return "", 0, err
		}
		if elf.ProgType(le.Uint32(ph[:])) != elf.PT_INTERP {
			continue
		}
		n := le.Uint64(ph[32:])
		if n < 2 || n > maxPath {
			return "", 0, unix.ENOEXEC
		}
		b := make([]byte, n)
		if _, err := f.ReadAt(b, int64(le.Uint64(ph[8:]))); err != nil || b[n-1] != 0 {
			return "", 0, unix.ENOEXEC
		}
		name, _, _ := bytes.Cut(b, []byte{0})
		return string(name), at + int64(i)*size, nil
	}
	return "", 0, nil
}

// copyWith copies a program that names another loader, behind its end.
func copyWith(to, from *os.File, header int64, loader string) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
	fi, err := to.Stat()
	if err != nil {
		return err
	}
	name := append([]byte(loader), 0)
	if _, err := to.WriteAt(name, fi.Size()); err != nil {
		return err
	}
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], uint64(fi.Size()))
	if _, err := to.WriteAt(word[:], header+8); err != nil { // p_offset
		return err
	}
	binary.LittleEndian.PutUint64(word[:], uint64(len(name)))
	_, err = to.WriteAt(word[:], header+32) // p_filesz
	return err
}
