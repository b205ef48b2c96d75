package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"drydock/modules/artifact"
)

func digestOf(b []byte) artifact.Digest {
	sum := sha256.Sum256(b)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// part is an archive with an image of one layer; change may spoil its blobs.
func part(t *testing.T, arch, body string, change func(blobs map[string][]byte)) Part {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(body))
	_ = w.Close()
	diffID := digestOf(layer.Bytes())
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(layer.Bytes())
	_ = z.Close()
	layer = packed
	cfg := fmt.Sprintf(`{"os":"linux","architecture":%q,"config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, arch, diffID)
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digestOf([]byte(cfg)), "size": len(cfg)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digestOf(layer.Bytes()), "size": layer.Len()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{}
	for _, b := range [][]byte{layer.Bytes(), []byte(cfg), m} {
		blobs["blobs/sha256/"+digestOf(b).Hex()] = b
	}
	blobs["index.json"] = []byte("{}")
	if change != nil {
		change(blobs)
	}
	path := filepath.Join(t.TempDir(), arch+".tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out := tar.NewWriter(f)
	for _, name := range sortedKeys(blobs) {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(blobs[name]))}); err != nil {
			t.Fatal(err)
		}
		_, _ = out.Write(blobs[name])
	}
	_ = out.Close()
	_ = f.Close()
	return Part{artifact.Platform{OS: "linux", Architecture: arch}, path, digestOf(m)}
}

func TestAssemble(t *testing.T) {
	t.Parallel()
	amd, arm := part(t, "amd64", "a", nil), part(t, "arm64", "b", nil)
	dir := filepath.Join(t.TempDir(), "layout")
	out, err := Assemble(dir, []Part{arm, amd})
	if err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the layout is not valid: %v", err)
	}
	if out.Platforms["linux/arm64"] != arm.Manifest || out.MediaType != "application/vnd.oci.image.index.v1+json" {
		t.Errorf("assembled %+v", out)
	}
	again, err := Assemble(dir, []Part{amd, arm})
	if err != nil || again.Digest != out.Digest {
		t.Errorf("in another order: %+v, %v", again, err)
	}
	one, err := Assemble(dir, []Part{amd})
	if err != nil || one.Digest != amd.Manifest {
		t.Errorf("one platform is its manifest: %+v, %v", one, err)
	}
	if blobs, _ := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); len(blobs) != 3 {
		t.Errorf("the layout was not replaced whole: %d blobs", len(blobs))
	}
}

func TestAssembleRefuses(t *testing.T) {
	t.Parallel()
	amd := part(t, "amd64", "a", nil)
	for name, c := range map[string]struct {
		parts []Part
		want  string
	}{
		"nothing":        {nil, "no platforms"},
		"twice":          {[]Part{amd, amd}, "given twice"},
		"no archive":     {[]Part{{amd.Platform, "/nowhere.tar", amd.Manifest}}, "no such file"},
		"other manifest": {[]Part{{amd.Platform, amd.Archive, digestOf([]byte("x"))}}, "does not hold"},
		"spoiled blob": {[]Part{part(t, "amd64", "a", func(b map[string][]byte) {
			for k := range b {
				if strings.HasPrefix(k, "blobs/") {
					b[k] = append([]byte{}, append(b[k], ' ')...)
				}
			}
		})}, "has digest"},
		"missing blob": {[]Part{part(t, "amd64", "a", func(b map[string][]byte) {
			for k, v := range b {
				if bytes.Contains(v, []byte("diff_ids")) && !bytes.Contains(v, []byte("schemaVersion")) {
					delete(b, k)
				}
			}
		})}, "lacks blob"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			_, err := Assemble(filepath.Join(parent, "layout"), c.parts)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if left, _ := os.ReadDir(parent); len(left) != 0 {
				t.Errorf("left behind %v", left)
			}
		})
	}
}
