package catalog

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"drydock/modules/artifact"
)

func TestEmulators(t *testing.T) {
	files := small()
	c, err := Load(files, "cat")
	if err != nil || c.Emulators != nil {
		t.Fatalf("without the file: %+v, %v", c, err)
	}
	files[EmulatorsFile] = &fstest.MapFile{Data: []byte("version: 1\npackage: qemu-user-static\nplatforms: [linux/amd64]\nemulate: [linux/arm64, linux/s390x]\n")}
	if c, err = Load(files, "cat"); err != nil {
		t.Fatal(err)
	}
	e := c.Emulators
	if e.Package != "qemu-user-static" || e.Lock != "emulators.lock.json" || len(e.Emulate) != 2 || e.Tests || e.Place != "cat/emulators.yaml" {
		t.Errorf("got %+v", e)
	}
}

func TestEmulatorsRefused(t *testing.T) {
	const good = "version: 1\npackage: qemu-user-static\nplatforms: [linux/amd64]\n"
	for _, c := range []struct{ text, place, message string }{
		{good, "cat/emulators.yaml:1", "nothing is emulated"},
		{good + "emulate: [linux/arm64, linux/arm64]\n", "cat/emulators.yaml:4", "twice"},
		{good + "emulate:\n  - linux/arm64\n  - linux/vax\n", "cat/emulators.yaml:6", "linux/vax is not emulated"},
		{good + "emulate: [linux/arm/v7]\n", "cat/emulators.yaml:4", "linux/arm/v7 is not emulated"},
		{good + "emulate: [linux/arm64]\nlock: ../x.json\n", "cat/emulators.yaml:5", "not a JSON file in the catalog"},
		{good + "emulate: [linux/arm64]\nlock: other.json\n", "cat/emulators.yaml:5", "there is no file cat/other.json"},
		{good + "emulate: [linux/arm64]\nbinary: qemu\n", "cat/emulators.yaml:5", "unknown field binary"},
		{"version: 2\n", "cat/emulators.yaml:1", "newer"},
		{"version: 1\npackage: ../x\nplatforms: [linux/amd64]\nemulate: [linux/arm64]\n", "cat/emulators.yaml:2", "not a Debian package"},
		{"version: 1\npackage: qemu-user\nemulate: [linux/arm64]\n", "cat/emulators.yaml:1", "no platforms"},
	} {
		files := small()
		files[EmulatorsFile] = &fstest.MapFile{Data: []byte(c.text)}
		_, err := Load(files, "cat")
		var e *artifact.Error
		if !errors.As(err, &e) || e.Place != c.place || !strings.Contains(err.Error(), c.message) || e.Remedy == "" {
			t.Errorf("%q: got %v", c.text, err)
		}
	}
}
