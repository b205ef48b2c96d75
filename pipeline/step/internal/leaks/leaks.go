// Package leaks looks for secrets in image archives.
package leaks

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/secret"
	"drydock/pipeline/step/internal/ociarchive"
)

// chunk is how much of a file is looked at at once, in bytes.
const chunk = 1 << 20

// Options say where to look and for what.
type Options struct {
	In       string            // OCI archive of one image
	Base     []artifact.Digest // diff ids of layers that were made without these secrets
	Secrets  map[string][]byte // by id
	MaxBytes int64             // how much the layers may unpack to
}

// most is how many places are named: one that leaks everywhere is one mistake.
const most = 20

// Leak is a secret, by its id, in a place.
type Leak struct{ Secret, Place string }

// Find lists the places that hold a secret, in any of its usual encodings:
// contents of files, their names, link targets and attributes, the image's
// configuration. It does not unpack archives within the layers.
func Find(o Options) ([]Leak, error) {
	a, err := ociarchive.Open(o.In)
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Close() }()
	_, manifest, err := a.Image()
	if err != nil {
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	config, err := a.Document(manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	s := newSearch(o.Secrets)
	if err := s.in("the image's configuration", bytes.NewReader(config)); err != nil {
		return nil, err
	}
	var about struct {
		RootFS struct {
			DiffIDs []artifact.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &about); err != nil {
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	budget := &ociarchive.Budget{Left: o.MaxBytes}
	for i, l := range manifest.Layers {
		if ids := about.RootFS.DiffIDs; i < len(ids) && slices.Contains(o.Base, ids[i]) {
			continue
		}
		blob, err := a.Blob(l)
		if err != nil {
			return nil, fmt.Errorf("reading layer %d: %w", i+1, err)
		}
		if err := s.layer(blob, budget); err != nil {
			return nil, fmt.Errorf("reading layer %d: %w", i+1, err)
		}
	}
	return s.found, nil
}

type search struct {
	ids     []string
	forms   map[string][][]byte
	longest int
	found   []Leak
	buf     []byte
}

func newSearch(secrets map[string][]byte) *search {
	s := &search{forms: map[string][][]byte{}}
	for id, value := range secrets {
		s.ids = append(s.ids, id)
		s.forms[id] = secret.Forms(value)
		for _, f := range s.forms[id] {
			s.longest = max(s.longest, len(f))
		}
	}
	slices.Sort(s.ids)
	s.buf = make([]byte, chunk+s.longest)
	return s
}

func (s *search) layer(blob io.Reader, budget *ociarchive.Budget) error {
	r, _, err := ociarchive.Decompress(blob, budget)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for tr := tar.NewReader(r); len(s.found) < most; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		place := "/" + strings.TrimPrefix(h.Name, "/")
		attributes := []string{h.Name, h.Linkname}
		for _, v := range h.PAXRecords {
			attributes = append(attributes, v)
		}
		if err := s.in("the name or attributes of "+place, strings.NewReader(strings.Join(attributes, "\x00"))); err != nil {
			return err
		}
		if err := s.in(place, tr); err != nil {
			return err
		}
	}
	return nil
}

// in reads r in pieces that overlap by the longest form, so that none is split.
func (s *search) in(place string, r io.Reader) error {
	missing := slices.Clone(s.ids)
	kept := 0
	for {
		n, err := io.ReadFull(r, s.buf[kept:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		text := s.buf[:kept+n]
		missing = slices.DeleteFunc(missing, func(id string) bool {
			hit := slices.ContainsFunc(s.forms[id], func(f []byte) bool { return bytes.Contains(text, f) })
			if hit && len(s.found) < most {
				s.found = append(s.found, Leak{Secret: id, Place: place})
			}
			return hit
		})
		if err != nil {
			return nil //nolint:nilerr // the end of the file
		}
		kept = copy(s.buf, text[len(text)-s.longest:])
	}
}

// Refuse is the error of an image that holds secrets, nil for none.
func Refuse(found []Leak) error {
	if len(found) == 0 {
		return nil
	}
	var says []string
	for _, l := range found {
		says = append(says, fmt.Sprintf("secret %s is in %s", l.Secret, l.Place))
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "looking for secrets in the image", Message: strings.Join(says, "; "),
		Remedy: "let no step write it: use it where it is mounted, and remove what a tool made of it in the same RUN; the engine's cache has it until `drydock engine prune --all`",
	}
}
