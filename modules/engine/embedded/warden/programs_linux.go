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
	"sync"

	"golang.org/x/sys/unix"
)

// programs are files made to be executed where the root is not the step's: the
// kernel looks for the loader that a program names in the root of the process.
// So there is a copy of the program, once, that names a copy of the loader
// where that is. Where in memory its name stands, by which the loader knows
// itself, is left as it is.
type programs struct {
	dir string
	mu  sync.Mutex
}

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
	lpath, err := p.make(id, filepath.Base(innerOf), func(to *os.File) error { _, err := io.Copy(to, lf); return err })
	if err != nil {
		return "", err
	}
	if id, err = identity(fd, lpath); err != nil {
		return "", err
	}
	return p.make(id, base, func(to *os.File) error { return copyWith(to, f, at, lpath) })
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
		return p.place(id, base, func(at string) error { return os.Symlink(target, at) })
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
	return p.make(id, base, func(to *os.File) error { _, err := io.Copy(to, f); return err })
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
	return p.make(hex.EncodeToString(sum[:10]), base, func(to *os.File) error {
		_, err := to.WriteString(line + "\n")
		return err
	})
}

// make gives a file of that identity, made when it is not there.
func (p *programs) make(id, base string, fill func(*os.File) error) (string, error) {
	return p.place(id, base, func(at string) error {
		f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	})
}

func (p *programs) place(id, base string, make func(at string) error) (string, error) {
	at := filepath.Join(p.dir, id, base)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := os.Lstat(at); err == nil {
		return at, nil
	}
	tmp, err := os.MkdirTemp(p.dir, "new")
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
