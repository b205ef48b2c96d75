package bom

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/imagetest"
)

func debianImage(t *testing.T) imagetest.Image {
	t.Helper()
	self, err := os.Executable() // a Go program is a package of modules
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.Image{Layers: []imagetest.Layer{{Compression: "gzip", Files: []imagetest.File{
		{Name: "etc/os-release", Body: "ID=debian\nVERSION_ID=\"12\"\n"},
		{Name: "var/lib/dpkg/status", Body: "Package: libexpat1\nStatus: install ok installed\nArchitecture: amd64\nSource: expat (2.5.0-1)\nVersion: 2.5.0-1+b1\n\n" +
			"Package: expat\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.5.0-1\n"},
		{Name: "usr/bin/tool", Body: string(raw), Mode: 0o755},
	}}}}
}

func generate(t *testing.T, img imagetest.Image) *Documents {
	t.Helper()
	path, _ := imagetest.Write(t, img)
	d, err := Generate(t.Context(), Options{Archive: path, Name: "tool", Epoch: time.Unix(1763600000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	img := debianImage(t)
	a, b := generate(t, img), generate(t, img)
	for name, docs := range map[string][2][]byte{"SPDX": {a.SPDX, b.SPDX}, "CycloneDX": {a.CycloneDX, b.CycloneDX}, "syft": {a.Syft, b.Syft}} {
		if !bytes.Equal(docs[0], docs[1]) {
			t.Errorf("%s differs from run to run", name)
		}
		if !json.Valid(docs[0]) || !bytes.Contains(docs[0], []byte("libexpat1")) || !bytes.Contains(docs[0], []byte("stdlib")) {
			t.Errorf("%s lacks a package", name)
		}
		if bytes.Contains(docs[0], []byte(t.TempDir())) {
			t.Errorf("%s names a path of this machine", name)
		}
	}
	p := a.Packages
	if p.Types["deb"] != 2 || p.Types["go-module"] == 0 || p.Distro != "debian 12" || p.Total != p.Types["deb"]+p.Types["go-module"] {
		t.Errorf("packages %+v", p)
	}
	if len(p.Sources) != 1 || p.Sources[0].Name != "expat" || p.Sources[0].Binary != "expat" || strings.Join(p.Sources[0].Others, "") != "libexpat1" {
		t.Errorf("sources %+v", p.Sources)
	}
	var spdx struct {
		DocumentNamespace string
		CreationInfo      struct{ Created string }
	}
	if err := json.Unmarshal(a.SPDX, &spdx); err != nil || spdx.CreationInfo.Created != "2025-11-20T00:53:20Z" || !strings.HasPrefix(spdx.DocumentNamespace, "https://drydock.dev/spdx/") {
		t.Errorf("SPDX %+v, %v", spdx, err)
	}
}

func TestNoPackages(t *testing.T) {
	t.Parallel()
	d := generate(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "hello", Body: "hi"}}}}})
	if d.Packages.Total != 0 || d.Packages.Distro != "" || len(d.SPDX) == 0 {
		t.Errorf("%+v", d.Packages)
	}
}

func TestBrokenArchive(t *testing.T) {
	t.Parallel()
	path, _ := imagetest.Write(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "a", Body: strings.Repeat("x", 5000)}}}}})
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := bytes.Replace(raw, []byte("xxxxxxxx"), []byte("xxxxyxxx"), 1)
	if err := os.WriteFile(path, spoiled, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Generate(t.Context(), Options{Archive: path, Name: "x"})
	if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "has digest") {
		t.Errorf("error %v", err)
	}
}
