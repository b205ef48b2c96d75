package onboard

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"drydock/modules/artifact"
)

// Added is what taking a proposal's bases does to a catalog.
type Added struct {
	Files map[string][]byte // by path in the catalog, the whole file
	Left  []Base            // that somebody has to complete by hand: their digest is not known, or no mirror has images
}

// AddBases gives the files of a catalog that has the bases proposed. Nothing is
// written.
func (p *Proposal) AddBases(cat fs.FS) (*Added, error) {
	out := &Added{Files: map[string][]byte{}}
	for _, b := range p.Bases {
		if b.Propose == "" {
			continue
		}
		if strings.Contains(b.Propose, unknownDigest) || b.Upstream && p.noImages {
			out.Left = append(out.Left, b)
			continue
		}
		have, known := out.Files[b.File]
		if !known {
			raw, err := fs.ReadFile(cat, b.File)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("reading %s: %w", b.File, err)
			}
			have, known = raw, err == nil
		}
		if rest, ok := strings.CutPrefix(b.Propose, morePackages); ok {
			at := packageList.FindStringIndex(string(have))
			if at == nil {
				return nil, byHand(b.File, "packages", b.Propose)
			}
			out.Files[b.File] = []byte(string(have[:at[1]-1]) + ", " + strings.TrimSpace(rest) + string(have[at[1]:]))
			continue
		}
		list := strings.Index(b.Propose, "standsFor: [")
		switch {
		case !known && list > 0:
			out.Files[b.File] = []byte(b.Propose)
			continue
		case list < 0:
			return nil, fmt.Errorf("%s: the proposal names nothing it stands for", b.File)
		}
		ref, _, _ := strings.Cut(b.Propose[list+len("standsFor: ["):], "]")
		text, ok := standFor(string(have), ref)
		if !ok {
			return nil, byHand(b.File, "standsFor", ref)
		}
		out.Files[b.File] = []byte(text)
	}
	return out, nil
}

func byHand(file, field, what string) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "adding bases", Place: file, Message: "its " + field + ": is written in a way that is not changed here",
		Remedy: "add it by hand: " + strings.TrimSpace(what),
	}
}

var (
	packageList = regexp.MustCompile(`(?m)^packages:[ \t]*\[[^\[\]\n]+\]`)

	flowList  = regexp.MustCompile(`(?m)^standsFor:[ \t]*\[[^\[\]\n]*\]`)
	blockList = regexp.MustCompile(`(?m)^standsFor:[ \t]*\n([ \t]*)- `)
)

// standFor adds a reference, quoted, to what a base's file says it stands for,
// and leaves everything else as it is.
func standFor(file, ref string) (string, bool) {
	if at := flowList.FindStringIndex(file); at != nil {
		sep := ", "
		if strings.HasSuffix(strings.TrimRight(file[:at[1]-1], " \t"), "[") {
			sep = ""
		}
		return file[:at[1]-1] + sep + ref + file[at[1]-1:], true
	}
	if at := blockList.FindStringSubmatchIndex(file); at != nil {
		line := file[at[2]:at[3]] + "- " + ref + "\n"
		return file[:at[2]] + line + file[at[2]:], true
	}
	if strings.Contains("\n"+file, "\nstandsFor:") {
		return "", false
	}
	return strings.TrimRight(file, "\n") + "\nstandsFor: [" + ref + "]\n", true
}
