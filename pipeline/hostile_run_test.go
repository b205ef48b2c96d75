//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"drydock/pipeline/report"
)

// everything is all images of the catalog.
func everything() []string {
	return slices.Concat(bounds(), escapees(), slices.Sorted(maps.Keys(exhaustion())))
}

// faults looks at what a run over some of the catalog's images left
// inside and outside, and names all that should not be.
func (h *hostile) faults(s report.Summary, images []string, printed string) (out []string) {
	said := map[string]string{}
	for _, i := range s.Images {
		said[i.Image] = ""
		if i.Error != nil {
			said[i.Image] = i.Error.Message
		}
	}
	for _, name := range images {
		if _, ok := said[name]; !ok {
			out = append(out, name+" is not in the summary")
		}
	}
	for name, message := range said {
		bound, bounded := exhaustion()[name]
		switch {
		case bounded && message == "":
			out = append(out, name+" was built")
		case name == "fork" && slices.ContainsFunc(h.also, func(s string) bool { return strings.Contains(message, s) }): // ended
		case bounded && !strings.Contains(message, bound.says):
			out = append(out, fmt.Sprintf("%s failed without saying %q: %s", name, bound.says, message))
		case name == "caught" && (message == "" || !strings.Contains(printed, "ESCAPED /hostile is there")):
			out = append(out, "caught reported an escape and was built: "+message)
		case h.tier != "T1" && strings.HasPrefix(name, "inner") && strings.Contains(message, "by rule egress/mirror-only") &&
			!strings.Contains(printed, "["+name+" linux/amd64 build] ESCAPED"): // its last attack was refused by the gateway itself
		case name != "caught" && slices.Contains(append(bounds(), "users"), name) && message != "":
			out = append(out, name+" failed: "+message)
		}
	}
	return append(out, h.disturbed()...)
}

// disturbed names what is not outside as it was.
func (h *hostile) disturbed() (out []string) {
	entries, err := os.ReadDir(filepath.Join(h.dir, "outside"))
	if err != nil || len(entries) != 2 {
		out = append(out, fmt.Sprintf("outside was written: %v, %v", entries, err))
	}
	if b, err := os.ReadFile(filepath.Join(h.dir, "outside", "secret")); err != nil || string(b) != hostileSecret {
		out = append(out, fmt.Sprintf("outside was changed: %s, %v", b, err))
	}
	if err := h.alive(); err != nil {
		out = append(out, fmt.Sprintf("a process outside was killed: %v", err))
	}
	return out
}

// held names the layers below out, of every image once, that have something of
// what was outside.
func (h *hostile) held(out string) ([]string, error) {
	blobs, err := filepath.Glob(filepath.Join(out, "*", "oci", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		return nil, fmt.Errorf("no blobs in %s: %w", out, err)
	}
	var found []string
	seen := map[string]bool{}
	for _, blob := range blobs {
		if seen[filepath.Base(blob)] {
			continue
		}
		seen[filepath.Base(blob)] = true
		b, err := os.ReadFile(blob)
		if err != nil {
			return nil, err
		}
		if r, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if b, err = io.ReadAll(r); err != nil {
				return nil, err
			}
		}
		for _, mark := range []string{h.mark(), hostileSecret} {
			if bytes.Contains(b, []byte(mark)) {
				found = append(found, blob+" holds what was outside")
			}
		}
	}
	return found, nil
}

// judge fails the test for everything that is not as it should be.
func (h *hostile) judge(t *testing.T, images []string, stdout, stderr string) {
	t.Helper()
	var s report.Summary
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	found, err := h.held(filepath.Join(h.dir, "out"))
	if err != nil {
		t.Errorf("%v", err)
	}
	for _, fault := range append(found, h.faults(s, images, stderr)...) {
		t.Error(fault)
	}
	if s.Engine.Tier != h.tier {
		t.Errorf("it ran in tier %s", s.Engine.Tier)
	}
	if t.Failed() {
		t.Log(stderr)
	}
}

// arguments builds some of the catalog's images.
func arguments(images []string) []string {
	args := []string{"build", "--json", "--progress", "plain"}
	for _, name := range images {
		args = append(args, "--image", name)
	}
	return args
}

// unheld are attacks that succeed where nothing holds them.
func (h *hostile) unheld() []string {
	return []string{
		"outside " + h.outside(), "signals " + h.tier, "sockets " + h.sockets[0], "sockets " + h.sockets[1], "egress tcp/" + h.address,
	}
}

// escaped fails unless every attack of unheld printed an escape.
func (h *hostile) escaped(t *testing.T, printed string) {
	t.Helper()
	parts := strings.Split(printed, "attacked: ")
	if len(parts) != len(h.unheld())+1 {
		t.Fatalf("%d attacks ended, not %d: %s", len(parts)-1, len(h.unheld()), printed)
	}
	for i, attack := range h.unheld() {
		if !strings.Contains(parts[i], "ESCAPED") {
			t.Errorf("%s escaped nothing where nothing holds it: %s", attack, parts[i])
		}
	}
}

// allABIs set to "all" has TestHostile cap Landlock at every version there is a
// difference at.
const allABIs = "DRYDOCK_TEST_LANDLOCK"

// TestHostile builds the hostile catalog in each tier and, with what Landlock
// has to do with, on older versions of it.
func TestHostile(t *testing.T) {
	d := openDock(t)
	// none at all, before signals, and before what this kernel may have beside
	abis := []string{"0", "4", "6"}
	if os.Getenv(allABIs) == "all" {
		abis = []string{"0", "1", "2", "3", "4", "5", "6"}
	}
	run := func(name, tier, abi string, images []string) {
		t.Run(name, func(t *testing.T) {
			if tier == "T2" && os.Getuid() != 0 {
				t.Skip("tier T2 is for root of a container")
			}
			dir := t.TempDir()
			h := newHostile(t, d, tier, dir, dir, "keys")
			h.victim(t)
			j := d.startWith(t, dir, h.environ(abi), arguments(images)...)
			t.Logf("exit code %d", j.exit(t))
			h.judge(t, images, j.stdout.String(), j.stderr.String())
		})
	}
	run("T1", "T1", "", append(everything(), "users"))
	run("T2", "T2", "", append(everything(), "users"))
	run("T3", "T3", "", append(everything(), "users"))
	for _, abi := range abis {
		run("T2/landlock"+abi, "T2", abi, bounds())
		if abi != "0" { // where it is refused
			run("T3/landlock"+abi, "T3", abi, bounds())
		}
	}
}

// TestHostileUnheld: the attacks are attacks. Where nothing holds them, they
// escape and say so.
func TestHostileUnheld(t *testing.T) {
	d := openDock(t)
	dir := t.TempDir()
	h := newHostile(t, d, "T1", dir, dir, "keys")
	h.victim(t)
	var printed strings.Builder
	for _, attack := range h.unheld() {
		out, err := exec.Command(filepath.Join(dir, "hostile"), strings.Fields(attack)...).Output()
		if err == nil {
			t.Errorf("%s ended well", attack)
		}
		printed.Write(out)
	}
	h.escaped(t, printed.String())
}

// TestHostileJudge: what a hostile build could do is found, each by itself.
func TestHostileJudge(t *testing.T) {
	images := append(bounds(), "fork")
	for name, spoil := range map[string]func(h *hostile, s *report.Summary, printed *string) error{
		"an attack that succeeded": func(_ *hostile, s *report.Summary, _ *string) error {
			s.Images[0].Error = &report.Error{Message: "exit code: 1"}
			return nil
		},
		"an image that is missing": func(_ *hostile, s *report.Summary, _ *string) error {
			s.Images = s.Images[1:]
			return nil
		},
		"an escape nobody heard of": func(_ *hostile, _ *report.Summary, printed *string) error {
			*printed = ""
			return nil
		},
		"a limit that did not hold": func(_ *hostile, s *report.Summary, _ *string) error {
			s.Images[len(s.Images)-1].Error = nil
			return nil
		},
		"a failure of another kind": func(_ *hostile, s *report.Summary, _ *string) error {
			s.Images[len(s.Images)-1].Error = &report.Error{Message: "no such attack"}
			return nil
		},
		"a file made outside":    func(h *hostile, _ *report.Summary, _ *string) error { return writeIn(h.dir, "outside/pwned", "") },
		"a file changed outside": func(h *hostile, _ *report.Summary, _ *string) error { return writeIn(h.dir, "outside/secret", "") },
		"a process killed outside": func(h *hostile, _ *report.Summary, _ *string) error {
			h.alive = func() error { return os.ErrProcessDone }
			return nil
		},
		"a layer with a secret": func(h *hostile, _ *report.Summary, _ *string) error {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, err := io.WriteString(w, "before "+h.mark()+" after")
			return errors.Join(err, w.Close(), writeIn(h.dir, "out/one/oci/blobs/sha256/b", b.String()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			h := &hostile{dir: dir, at: dir, halves: []string{"a", "mark"}, alive: func() error { return nil }}
			printed := "ESCAPED /hostile is there"
			var s report.Summary
			for _, image := range images {
				i := report.Image{Image: image}
				switch image {
				case "caught":
					i.Error = &report.Error{Message: "exit code: 1"}
				case "fork":
					i.Error = &report.Error{Message: exhaustion()["fork"].says}
				}
				s.Images = append(s.Images, i)
			}
			if err := errors.Join(writeIn(dir, "outside/secret", hostileSecret), writeIn(dir, "outside/s", ""),
				writeIn(dir, "out/one/oci/blobs/sha256/a", "{}")); err != nil {
				t.Fatal(err)
			}
			all := func() []string {
				found, err := h.held(filepath.Join(dir, "out"))
				if err != nil {
					t.Fatal(err)
				}
				return append(found, h.faults(s, images, printed)...)
			}
			if found := all(); len(found) > 0 {
				t.Fatalf("nothing is wrong: %q", found)
			}
			if err := spoil(h, &s, &printed); err != nil {
				t.Fatal(err)
			}
			if found := all(); len(found) != 1 {
				t.Errorf("found %q", found)
			}
		})
	}
}
