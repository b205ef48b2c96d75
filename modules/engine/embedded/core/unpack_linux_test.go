package core

import (
	"archive/tar"
	"bytes"
	"errors"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/executor"
)

// TestPour: what an archive becomes is counted as it passes, and of an entry
// for which there is no room nothing passes.
func TestPour(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range []string{"a", "b"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 100 << 10, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte(name), 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const each = 100<<10 + perEntry
	whole := archive.String()
	for _, c := range []struct {
		name, in, err string
		room          int64
		passes        int // bytes; -1: all
	}{
		{name: "it has room", in: whole, room: 2 * each, passes: -1},
		{name: "more follows its end", in: whole + "more", room: 2 * each, passes: -1},
		{name: "a byte too few", in: whole, room: 2*each - 1, passes: 512 + 100<<10 + 512, err: "larger than"},
		{name: "room for no name", in: whole, room: perEntry - 1, passes: 512, err: "larger than"},
		{name: "it is cut", in: whole[:50<<10], room: 2 * each, passes: -1, err: "unexpected EOF"},
		{name: "a damaged header", in: strings.Repeat("x", 4096), room: 0, passes: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var to bytes.Buffer
			err := pour(&to, strings.NewReader(c.in), &room{Room: executor.Room{Bytes: c.room}})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if said := (*artifact.Error)(nil); c.err == "larger than" && (!errors.As(err, &said) || said.Remedy == "") {
				t.Errorf("%#v", err)
			}
			want := c.in
			if c.passes >= 0 {
				want = c.in[:c.passes]
			}
			if to.String() != want {
				t.Errorf("%d bytes passed, want %d", to.Len(), len(want))
			}
		})
	}
	if err := pour(broken{}, strings.NewReader(whole), &room{Room: executor.Room{Bytes: 2 * each}}); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want that of writing", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }
