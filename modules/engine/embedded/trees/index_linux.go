package trees

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// indexMagic begins the file that says what a tree held when it was whole.
const indexMagic = "drydock tree 1\n"

// errIndex: the index is missing, of another time, or was cut short. The tree
// is then compared file by file, or made again.
var errIndex = errors.New("the tree's index cannot be used")

// bootID names this boot of the machine: after another, data that was never
// synced may be missing from a tree.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// index is what is known of a tree.
type index struct {
	Snapshot string // the committed snapshot the tree is that of
	Root     *file
}

// save writes the index so that it is whole or not there.
func (x index) save(path string) error {
	if err := replace(path, x.encode()); err != nil {
		return fmt.Errorf("writing a tree's index: %w", err)
	}
	return nil
}

// replace puts a whole file in place of one that may be there. It does so under
// one name, unlike package wholefile: one engine works here, and what it leaves
// when it is killed is written over the next time.
func replace(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (x index) encode() []byte {
	var b bytes.Buffer
	b.WriteString(indexMagic)
	putString(&b, bootID())
	putString(&b, x.Snapshot)
	putFile(&b, x.Root)
	b.WriteString(indexMagic)
	return b.Bytes()
}

// loadIndex reads what save wrote.
func loadIndex(path string) (index, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return index{}, fmt.Errorf("%w: %w", errIndex, err)
	}
	text := string(b)
	body, ok := strings.CutPrefix(text, indexMagic)
	if !ok || !strings.HasSuffix(body, indexMagic) {
		return index{}, errIndex
	}
	r := &reader{Reader: bufio.NewReader(strings.NewReader(body))}
	if boot := r.text(); boot != bootID() {
		return index{}, errIndex
	}
	x := index{Snapshot: r.text()}
	x.Root = r.file()
	if r.err != nil {
		return index{}, fmt.Errorf("%w: %w", errIndex, r.err)
	}
	return x, nil
}

func putUint(b *bytes.Buffer, v uint64) { b.Write(binary.AppendUvarint(b.AvailableBuffer(), v)) }
func putInt(b *bytes.Buffer, v int64)   { b.Write(binary.AppendVarint(b.AvailableBuffer(), v)) }

func putString(b *bytes.Buffer, s string) {
	putUint(b, uint64(len(s)))
	b.WriteString(s)
}

func putFile(b *bytes.Buffer, f *file) {
	for _, v := range []uint64{uint64(f.Mode), uint64(f.UID), uint64(f.GID), f.Rdev, f.Ino, uint64(f.Links), f.From.Ino} {
		putUint(b, v)
	}
	for _, v := range []int64{f.Size, f.Mtime, f.Ctime, f.From.Birth} {
		putInt(b, v)
	}
	putString(b, f.Delta)
	shared := uint64(0)
	if f.Shared {
		shared = 1
	}
	putUint(b, shared)
	putUint(b, uint64(len(f.Kids)))
	for n, k := range f.Kids {
		putString(b, n)
		putFile(b, k)
	}
}

// reader reads what the put functions wrote; the first error stays.
type reader struct {
	*bufio.Reader
	err error
}

func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	var v uint64
	v, r.err = binary.ReadUvarint(r.Reader)
	return v
}

func (r *reader) int() int64 {
	if r.err != nil {
		return 0
	}
	var v int64
	v, r.err = binary.ReadVarint(r.Reader)
	return v
}

// maxText is more than any path has.
const maxText = 1 << 16

func (r *reader) text() string {
	n := r.uint()
	if n > maxText {
		r.err = errIndex
	}
	if r.err != nil {
		return ""
	}
	b := make([]byte, n)
	_, r.err = io.ReadFull(r.Reader, b)
	return string(b)
}

func (r *reader) file() *file {
	f := &file{Mode: uint32(r.uint()), UID: uint32(r.uint()), GID: uint32(r.uint()), Rdev: r.uint(), Ino: r.uint(), Links: uint32(r.uint())}
	f.From.Ino = r.uint()
	f.Size, f.Mtime, f.Ctime, f.From.Birth = r.int(), r.int(), r.int(), r.int()
	f.Delta = r.text()
	f.Shared = r.uint() == 1
	n := r.uint()
	if n > 0 || f.dir() {
		f.Kids = map[string]*file{}
	}
	for range n {
		if r.err != nil {
			break
		}
		name := r.text()
		k := r.file()
		f.Kids[name], f.Below = k, f.Below || k.Shared || k.Below
	}
	return f
}
