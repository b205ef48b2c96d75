package leaks

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/ociarchive"
)

const token = "tok-5f0e1c77-value"

// archive writes an image of one layer for each list of files.
func archive(t *testing.T, env string, layers ...[]*tar.Header) string {
	t.Helper()
	var blobs []ociarchive.Content
	manifest := ociarchive.Manifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.manifest.v1+json"}
	ids := []artifact.Digest{}
	for _, files := range layers {
		var raw, packed bytes.Buffer
		w := tar.NewWriter(&raw)
		for _, h := range files {
			body := h.Gname // the test's place for contents
			h.Gname, h.Size, h.Mode = "", int64(len(body)), 0o644
			if h.Typeflag == tar.TypeSymlink {
				h.Size = 0
			}
			check(t, w.WriteHeader(h))
			if h.Size > 0 {
				_, err := io.WriteString(w, body)
				check(t, err)
			}
		}
		check(t, w.Close())
		z, err := zstd.NewWriter(&packed)
		check(t, err)
		_, err = z.Write(raw.Bytes())
		check(t, err)
		check(t, z.Close())
		c := content("application/vnd.oci.image.layer.v1.tar+zstd", packed.Bytes())
		blobs = append(blobs, c)
		manifest.Layers = append(manifest.Layers, c.Descriptor)
		ids = append(ids, content("", raw.Bytes()).Digest)
	}
	config, err := ociarchive.Document("application/vnd.oci.image.config.v1+json", map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{"Env": []string{env}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	check(t, err)
	manifest.Config = config.Descriptor
	top, err := ociarchive.Document(manifest.MediaType, manifest)
	check(t, err)
	path := filepath.Join(t.TempDir(), "image.tar")
	check(t, ociarchive.Write(path, top.Descriptor, append(blobs, config, top)))
	return path
}

func content(mediaType string, b []byte) ociarchive.Content {
	sum := sha256.Sum256(b)
	d := artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
	return ociarchive.Content{Descriptor: ociarchive.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, Bytes: b}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	file := func(name, body string) *tar.Header { return &tar.Header{Name: name, Gname: body} }
	across := strings.Repeat("x", chunk+len(token)/2) + token // where one piece ends and the next begins
	path := archive(t, "A="+token,
		[]*tar.Header{file("base", token)},
		[]*tar.Header{
			file("clean", "nothing"), file("etc/plain", "a "+token+"\n"), file("far", across),
			file("auth", base64.StdEncoding.EncodeToString([]byte("me:"+token))), file("run/"+token, ""),
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/" + token},
			{Name: "attr", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.x": token}},
		})
	o := Options{In: path, Secrets: map[string][]byte{"token": []byte(token + "\n"), "other": []byte("not in there")}, MaxBytes: 1 << 30}
	places := func() []string {
		found, err := Find(o)
		check(t, err)
		var out []string
		for _, l := range found {
			if l.Secret != "token" {
				t.Errorf("%+v", l)
			}
			out = append(out, l.Place)
		}
		return out
	}
	want := []string{
		"the image's configuration", "/base", "/etc/plain", "/far", "/auth",
		"the name or attributes of /run/" + token, "the name or attributes of /link", "the name or attributes of /attr",
	}
	if got := places(); !slices.Equal(got, want) {
		t.Errorf("%q,\nwant %q", got, want)
	}
	o.Base = baseOf(t, path)
	if got := places(); slices.Contains(got, "/base") || len(got) != len(want)-1 {
		t.Errorf("with a base: %q", got)
	}
	o.Secrets = map[string][]byte{"other": []byte("not in there")}
	if got := places(); len(got) != 0 || Refuse(nil) != nil {
		t.Errorf("%q", got)
	}
	err := Refuse([]Leak{{"token", "/etc/plain"}})
	if artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "secret token is in /etc/plain") || len(artifact.Remedies(err)) != 1 {
		t.Errorf("%v", err)
	}
	o.MaxBytes = 100
	if _, err := Find(o); err == nil {
		t.Error("a layer larger than allowed was unpacked")
	}
}

func baseOf(t *testing.T, path string) []artifact.Digest {
	t.Helper()
	a, err := ociarchive.Open(path)
	check(t, err)
	defer a.Close()
	_, m, err := a.Image()
	check(t, err)
	raw, err := a.Document(m.Config)
	check(t, err)
	var c struct {
		RootFS struct {
			DiffIDs []artifact.Digest `json:"diff_ids"`
		}
	}
	check(t, json.Unmarshal(raw, &c))
	return c.RootFS.DiffIDs[:1]
}
