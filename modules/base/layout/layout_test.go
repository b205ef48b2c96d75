package layout

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func TestLayersAreDeterministic(t *testing.T) {
	var layers []Layer
	for range 2 {
		l, err := CompressLayer(filepath.Join(t.TempDir(), "layer"), text("content"))
		must(t, err)
		l.Path = ""
		layers = append(layers, l)
	}
	if layers[0] != layers[1] || layers[0].Digest == layers[0].DiffID {
		t.Errorf("got %+v and %+v", layers[0], layers[1])
	}
	plain, err := StoreLayer(filepath.Join(t.TempDir(), "layer"), text("content"))
	must(t, err)
	if !plain.Plain || plain.Digest != layers[0].DiffID || plain.Size != 7 {
		t.Errorf("got %+v", plain)
	}
}

// A layer that could not be finished leaves nothing behind.
func TestLayerIsWholeOrAbsent(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("no space")
	_, err := CompressLayer(filepath.Join(dir, "layer"), func(w io.Writer) error {
		_, werr := io.WriteString(w, "half")
		return errors.Join(werr, broken)
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func write(t *testing.T, platforms ...string) (string, artifact.Digest) {
	t.Helper()
	dir := t.TempDir()
	w, err := NewWriter(dir)
	must(t, err)
	var images []v1.Descriptor
	for _, p := range platforms {
		l, err := CompressLayer(filepath.Join(t.TempDir(), "layer"), text(p))
		must(t, err)
		d, err := w.AddImage(v1.Image{Platform: v1.Platform{OS: "linux", Architecture: p}}, []Layer{l})
		must(t, err)
		images = append(images, d)
	}
	root, err := w.Finish(images)
	must(t, err)
	return dir, root
}

func TestOneRoot(t *testing.T) {
	for _, platforms := range [][]string{{"amd64"}, {"amd64", "arm64"}} {
		dir, root := write(t, platforms...)
		_, again := write(t, platforms...)
		if root != again {
			t.Errorf("%v: %s and %s", platforms, root, again)
		}
		data, err := os.ReadFile(filepath.Join(dir, "index.json"))
		must(t, err)
		var index v1.Index
		must(t, json.Unmarshal(data, &index))
		want := v1.MediaTypeImageManifest
		if len(platforms) > 1 {
			want = v1.MediaTypeImageIndex
		}
		if len(index.Manifests) != 1 || index.Manifests[0].MediaType != want || string(index.Manifests[0].Digest) != string(root) {
			t.Errorf("%v: %s", platforms, data)
		}
	}
}

func TestArchive(t *testing.T) {
	dir, root := write(t, "amd64")
	file := filepath.Join(t.TempDir(), "image.tar")
	must(t, Archive(dir, file))
	data, err := os.ReadFile(file)
	must(t, err)
	seen := map[string]bool{}
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		seen[h.Name] = true
	}
	for _, want := range []string{"oci-layout", "index.json", "blobs/sha256/" + root.Hex()} {
		if !seen[want] {
			t.Errorf("no %s in %v", want, seen)
		}
	}
}
