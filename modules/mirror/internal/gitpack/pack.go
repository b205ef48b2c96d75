package gitpack

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's object names
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// Object is one object asked for, as its canonical bytes ("commit 123\0…") are.
type Object struct {
	SHA256 string // hex
	Size   int64
}

// The kinds of entries in a pack.
const (
	kindCommit   = 1
	kindTag      = 4
	kindOfsDelta = 6
	kindRefDelta = 7
)

// objectLimit bounds a commit or tag, deltaLimit what is kept of a pack at once.
const (
	objectLimit = 16 << 20
	deltaLimit  = 64 << 20
)

var kindNames = map[int]string{1: "commit", 2: "tree", 3: "blob", 4: "tag"}

// Check reads an answer to fetch: it must be whole, its pack's checksum right,
// and the objects asked for in it, which are returned by their name. done is
// whether there has to be a pack. dir is for a temporary file.
func Check(r io.Reader, dir string, wants []string, done bool) (map[string]Object, error) {
	tmp, err := os.CreateTemp(dir, "pack-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	there, err := demux(bufio.NewReaderSize(r, 1<<17), tmp)
	if err != nil {
		return nil, err
	}
	if !there {
		if done {
			return nil, errors.New("the answer holds no pack")
		}
		return nil, nil
	}
	size, err := trailer(tmp)
	if err != nil {
		return nil, err
	}
	p := &pack{file: tmp, size: size, want: map[string]bool{}, found: map[string]Object{}, kept: map[int64]entry{}}
	for _, oid := range wants {
		p.want[oid] = true
	}
	if err := p.scan(); err != nil {
		return nil, err
	}
	for _, oid := range wants {
		if _, ok := p.found[oid]; !ok {
			return nil, fmt.Errorf("the answer does not hold %s", oid)
		}
	}
	return p.found, nil
}

// demux takes the pack out of an answer's packets.
func demux(r io.Reader, pack io.Writer) (there bool, err error) {
	w := bufio.NewWriterSize(pack, 1<<20)
	buf := make([]byte, 1<<16)
	for {
		data, special, err := packet(r, buf)
		if err != nil {
			return false, fmt.Errorf("the answer is cut off: %w", err)
		}
		switch {
		case special == flush:
			return there, w.Flush()
		case special >= 0:
		case !there:
			if bytes.HasPrefix(data, []byte("ERR ")) {
				return false, errors.New("the mirror says: " + string(bytes.TrimSpace(data[4:])))
			}
			there = string(data) == "packfile\n"
		case len(data) > 0 && data[0] == 1:
			if _, err := w.Write(data[1:]); err != nil {
				return false, err
			}
		case len(data) > 0 && data[0] == 3:
			return false, errors.New("the mirror says: " + string(bytes.TrimSpace(data[1:])))
		}
	}
}

// trailer compares a pack with the checksum at its end.
func trailer(f *os.File) (size int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if end < 32 {
		return 0, errors.New("the pack is too short")
	}
	sum := sha1.New() //nolint:gosec // as git does
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, end-20)); err != nil {
		return 0, err
	}
	want := make([]byte, 20)
	if _, err := f.ReadAt(want, end-20); err != nil {
		return 0, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return 0, errors.New("the pack's checksum is wrong")
	}
	return end - 20, nil
}

// entry is a commit or tag that others may be deltas of.
type entry struct {
	kind int
	data []byte
}

// pack is a pack being read.
type pack struct {
	file  *os.File
	size  int64
	want  map[string]bool
	found map[string]Object
	kept  map[int64]entry // by offset
	held  int64           // bytes in kept
}

// counting knows how far a reader has come, a byte at a time if need be: zlib
// then takes no more than is its.
type counting struct {
	r *bufio.Reader
	n int64
}

// Read implements io.Reader.
func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ReadByte implements io.ByteReader.
func (c *counting) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// scan reads every entry of the pack.
func (p *pack) scan() error {
	c := &counting{r: bufio.NewReaderSize(io.NewSectionReader(p.file, 0, p.size), 1<<20)}
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil {
		return fmt.Errorf("reading the pack: %w", err)
	}
	if string(head[:4]) != "PACK" || binary.BigEndian.Uint32(head[4:]) != 2 {
		return errors.New("it is no pack of version 2")
	}
	for n := binary.BigEndian.Uint32(head[8:]); n > 0; n-- {
		if err := p.entry(c); err != nil {
			return fmt.Errorf("reading the pack at %d: %w", c.n, err)
		}
	}
	if c.n != p.size {
		return errors.New("the pack has more bytes than entries")
	}
	return nil
}

// entry reads one.
func (p *pack) entry(c *counting) error {
	at := c.n
	kind, size, err := header(c)
	if err != nil {
		return err
	}
	base := int64(-1)
	switch kind {
	case kindOfsDelta:
		back, err := offset(c)
		if err != nil {
			return err
		}
		base = at - back
	case kindRefDelta:
		if _, err := io.ReadFull(c, make([]byte, 20)); err != nil {
			return err
		}
	case 1, 2, 3, 4:
	default:
		return fmt.Errorf("an entry of kind %d", kind)
	}
	of, isDelta := p.kept[base]
	keep := kind == kindCommit || kind == kindTag || isDelta
	data, err := inflate(c, size, keep)
	if err != nil || !keep {
		return err
	}
	if isDelta {
		kind = of.kind
		if data, err = patch(of.data, data); err != nil {
			return err
		}
	}
	p.see(at, kind, data)
	return nil
}

// see notes an object if it was asked for, and keeps it for deltas of it.
func (p *pack) see(at int64, kind int, data []byte) {
	head := fmt.Sprintf("%s %d\x00", kindNames[kind], len(data))
	name, sum := sha1.New(), sha256.New() //nolint:gosec // git's object names
	for _, h := range []io.Writer{name, sum} {
		_, _ = io.WriteString(h, head)
		_, _ = h.Write(data)
	}
	if oid := hex.EncodeToString(name.Sum(nil)); p.want[oid] {
		p.found[oid] = Object{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: int64(len(head) + len(data))}
	}
	if p.held+int64(len(data)) <= deltaLimit {
		p.held += int64(len(data))
		p.kept[at] = entry{kind, data}
	}
}

// header reads an entry's kind and inflated size.
func header(c *counting) (kind int, size int64, err error) {
	b, err := c.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	kind, size = int(b>>4)&7, int64(b&15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = c.ReadByte(); err != nil {
			return 0, 0, err
		}
		if shift > 56 {
			return 0, 0, errors.New("an entry's size is too large")
		}
		size |= int64(b&0x7f) << shift
	}
	return kind, size, nil
}

// offset reads how far back a delta's base is.
func offset(c *counting) (int64, error) {
	b, err := c.ReadByte()
	n := int64(b & 0x7f)
	for i := 0; err == nil && b&0x80 != 0; i++ {
		if i > 8 {
			return 0, errors.New("a delta's offset is too large")
		}
		b, err = c.ReadByte()
		n = (n+1)<<7 | int64(b&0x7f)
	}
	return n, err
}

// inflate reads an entry's data, all of it whether it is kept or not.
func inflate(c *counting, size int64, keep bool) ([]byte, error) {
	z, err := zlib.NewReader(c)
	if err != nil {
		return nil, err
	}
	if keep && size > objectLimit {
		return nil, fmt.Errorf("a commit of %d bytes", size)
	}
	var out bytes.Buffer
	w := io.Discard
	if keep {
		w = &out
	}
	n, err := io.Copy(w, io.LimitReader(z, size+1))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, fmt.Errorf("an entry of %d bytes that says it has %d", n, size)
	}
	return out.Bytes(), z.Close()
}

// patch applies a delta.
func patch(base, delta []byte) ([]byte, error) {
	bad := errors.New("a delta that does not fit")
	d := bytes.NewReader(delta)
	from, err := binary.ReadUvarint(d)
	if err != nil || from != uint64(len(base)) {
		return nil, bad
	}
	size, err := binary.ReadUvarint(d)
	if err != nil || size > objectLimit {
		return nil, bad
	}
	out := make([]byte, 0, size)
	for {
		op, err := d.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if op&0x80 == 0 {
			part := make([]byte, op)
			if _, err := io.ReadFull(d, part); err != nil || op == 0 {
				return nil, bad
			}
			out = append(out, part...)
			continue
		}
		part, err := copied(op, d, base)
		if err != nil || uint64(len(out)+len(part)) > size {
			return nil, bad
		}
		out = append(out, part...)
	}
	if uint64(len(out)) != size {
		return nil, bad
	}
	return out, nil
}

// copied is the part of the base that a copy instruction of a delta names.
func copied(op byte, d *bytes.Reader, base []byte) ([]byte, error) {
	var args [7]uint64
	for i := range args {
		if op&(1<<i) == 0 {
			continue
		}
		b, err := d.ReadByte()
		if err != nil {
			return nil, err
		}
		args[i] = uint64(b)
	}
	start := args[0] | args[1]<<8 | args[2]<<16 | args[3]<<24
	n := args[4] | args[5]<<8 | args[6]<<16
	if n == 0 {
		n = 0x10000
	}
	if start+n > uint64(len(base)) {
		return nil, errors.New("a copy from beyond the base")
	}
	return base[start : start+n], nil
}
