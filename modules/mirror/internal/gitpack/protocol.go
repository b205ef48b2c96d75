// Package gitpack reads what git's protocol version 2 exchanges: requests, refs
// and packs (gitprotocol-v2(5), gitformat-pack(5)).
package gitpack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The special lengths of packets.
const (
	flush       = 0
	delim       = 1
	responseEnd = 2
)

// Line writes one packet.
func Line(b *bytes.Buffer, text string) { fmt.Fprintf(b, "%04x%s", len(text)+4, text) }

// Flush writes the packet that ends a message.
func Flush(b *bytes.Buffer) { b.WriteString("0000") }

// packet reads one: data is nil for the special ones.
func packet(r io.Reader, buf []byte) (data []byte, special int, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, err
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	if err != nil {
		return nil, 0, fmt.Errorf("%q is no packet's length", head)
	}
	if n < 4 {
		if n > responseEnd {
			return nil, 0, fmt.Errorf("a packet of length %d", n)
		}
		return nil, int(n), nil
	}
	data = buf[:n-4]
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, 0, io.ErrUnexpectedEOF
	}
	return data, -1, nil
}

// Request is a command of a client.
type Request struct {
	Command string
	Args    []string
}

// ReadRequest reads one; its capabilities are not kept.
func ReadRequest(r io.Reader) (*Request, error) {
	req := &Request{}
	buf := make([]byte, 1<<16)
	args := false
	for {
		data, special, err := packet(r, buf)
		if err != nil {
			return nil, fmt.Errorf("reading git's request: %w", err)
		}
		text := strings.TrimSuffix(string(data), "\n")
		switch {
		case special == flush:
			if req.Command == "" {
				return nil, errors.New("git's request has no command")
			}
			return req, nil
		case special == delim:
			args = true
		case args:
			req.Args = append(req.Args, text)
		default:
			if c, ok := strings.CutPrefix(text, "command="); ok {
				req.Command = c
			}
			if f, ok := strings.CutPrefix(text, "object-format="); ok && f != "sha1" {
				return nil, fmt.Errorf("object format %s is not served", f)
			}
		}
	}
}

// Plain is a request with nothing in it that is of one client only: its answer
// is the same whoever asks, and stands for itself.
func (r *Request) Plain() *Request {
	out := &Request{Command: r.Command, Args: []string{"no-progress"}}
	for _, a := range r.Args {
		if a != "thin-pack" && a != "no-progress" {
			out.Args = append(out.Args, a)
		}
	}
	return out
}

// Bytes is the request as it is sent.
func (r *Request) Bytes() []byte {
	var b bytes.Buffer
	Line(&b, "command="+r.Command+"\n")
	Line(&b, "agent=drydock\n")
	Line(&b, "object-format=sha1\n")
	b.WriteString("0001")
	for _, a := range r.Args {
		Line(&b, a+"\n")
	}
	Flush(&b)
	return b.Bytes()
}

var oidPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Wants is the objects asked for.
func (r *Request) Wants() []string {
	var out []string
	for _, a := range r.Args {
		if oid, ok := strings.CutPrefix(a, "want "); ok && oidPattern.MatchString(oid) && !slices.Contains(out, oid) {
			out = append(out, oid)
		}
	}
	return out
}

// Done says whether a pack must come now.
func (r *Request) Done() bool { return slices.Contains(r.Args, "done") }

// WantsRef says whether a ref is among those asked for.
func (r *Request) WantsRef(name string) bool {
	any := true
	for _, a := range r.Args {
		if prefix, ok := strings.CutPrefix(a, "ref-prefix "); ok {
			any = false
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
	}
	return any
}

// Ref is one ref of a repository.
type Ref struct {
	Name   string
	OID    string
	Target string // the ref it stands for, "" for none
	Peeled string // what an annotated tag is of, "" for no such tag
}

// Line is the ref as an answer has it.
func (r Ref) Line(req *Request) string {
	text := r.OID + " " + r.Name
	if r.Target != "" && slices.Contains(req.Args, "symrefs") {
		text += " symref-target:" + r.Target
	}
	if r.Peeled != "" && slices.Contains(req.Args, "peel") {
		text += " peeled:" + r.Peeled
	}
	return text + "\n"
}

// Path is the ref and its object as a path of a lock.
func (r Ref) Path() string {
	name := r.Name
	if r.Target != "" {
		name += "=" + r.Target
	}
	if r.Peeled != "" {
		name += "^" + r.Peeled
	}
	return name + "/" + r.OID
}

// ParseRefPath reads what Path wrote, without the object.
func ParseRefPath(name, oid string) Ref {
	r := Ref{OID: oid}
	name, r.Peeled, _ = strings.Cut(name, "^")
	r.Name, r.Target, _ = strings.Cut(name, "=")
	return r
}

// ReadRefs reads the answer to ls-refs.
func ReadRefs(r io.Reader) ([]Ref, error) {
	var out []Ref
	buf := make([]byte, 1<<16)
	for {
		data, special, err := packet(r, buf)
		if err != nil {
			return nil, fmt.Errorf("reading refs: %w", err)
		}
		if special == flush {
			return out, nil
		}
		text := strings.TrimSuffix(string(data), "\n")
		if strings.HasPrefix(text, "ERR ") {
			return nil, errors.New("the mirror says: " + text[4:])
		}
		fields := strings.Split(text, " ")
		if len(fields) < 2 || !oidPattern.MatchString(fields[0]) {
			return nil, fmt.Errorf("%q is no ref", text)
		}
		ref := Ref{OID: fields[0], Name: fields[1]}
		for _, f := range fields[2:] {
			if t, ok := strings.CutPrefix(f, "symref-target:"); ok {
				ref.Target = t
			}
			if p, ok := strings.CutPrefix(f, "peeled:"); ok && oidPattern.MatchString(p) {
				ref.Peeled = p
			}
		}
		out = append(out, ref)
	}
}
