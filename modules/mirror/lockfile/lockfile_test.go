package lockfile

import (
	"errors"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

const (
	sumA = artifact.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	sumB = artifact.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

func sample() *Lock {
	return &Lock{
		Version: 1, Image: "app", Drydock: "1", Epoch: 7, Bases: []Base{{"full", sumA}},
		Materials: []Material{
			{Ecosystem: "npm", Path: "left-pad", Digest: sumB, Size: 2},
			{Ecosystem: "debian", Path: "debian/pool/main/a/a_1+b_amd64.deb", Digest: sumA, Size: 1, PURL: "pkg:deb/debian/a@1?arch=amd64"},
		},
		Database:  &Database{Source: "mirror", Schema: "v6.1.0", Digest: sumA},
		Emulators: []Emulator{{"pkg:deb/debian/qemu@2", sumB}, {"pkg:deb/debian/qemu@1", sumA}},
		Absent:    []Absent{{"go", "example.test/a/b/@v/v1.0.0.info"}},
	}
}

func TestRoundTripIsStable(t *testing.T) {
	first, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(first, "app.json")
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if string(first) != string(second) {
		t.Errorf("%s\nis not\n%s", first, second)
	}
	if l.Materials[0].Ecosystem != "debian" || l.Emulators[0].Digest != sumA || l.Database.Digest != sumA {
		t.Error("not in order")
	}
}

// TestKeyIsOfWhatMayBeFetched: order and the rest of the lock do not change it,
// every path and digest does.
func TestKeyIsOfWhatMayBeFetched(t *testing.T) {
	key := sample().Key()
	other := sample()
	other.Materials[0], other.Materials[1] = other.Materials[1], other.Materials[0]
	other.Drydock, other.Epoch, other.Bases = "2", 8, nil
	if other.Key() != key {
		t.Error("the key follows from more than materials")
	}
	for name, change := range map[string]func(*Lock){
		"digest": func(l *Lock) { l.Materials[0].Digest = sumA },
		"path":   func(l *Lock) { l.Materials[0].Path += "x" },
		"fewer":  func(l *Lock) { l.Materials = l.Materials[1:] },
		"absent": func(l *Lock) { l.Absent = nil },
	} {
		other := sample()
		change(other)
		if other.Key() == key {
			t.Error(name, "does not change the key")
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"newer", `"version": 1`, `"version": 3`, "newer than this program"},
		{"no version", `"version": 1`, `"version": 0`, "no version"},
		{"unknown field", `"image": "app"`, `"image": "app", "colour": 1`, "line 3: json: unknown field \"colour\""},
		{"digest", string(sumB), "sha256:b", "not a sha256 digest"},
		{"database", "\"schema\": \"v6.1.0\",\n    \"built\": \"0001-01-01T00:00:00Z\",\n    \"digest\": \"sha256:a", "\"schema\": \"v6.1.0\",\n    \"built\": \"0001-01-01T00:00:00Z\",\n    \"digest\": \"sha256:z", "database"},
		{"emulator", "qemu@1\",\n      \"digest\": \"sha256:a", "qemu@1\",\n      \"digest\": \"sha256:z", "emulator pkg:deb/debian/qemu@1"},
		{"outside", "left-pad", "../left-pad", "not a path below a mirror"},
		{"address", "left-pad", "http://mirror.example.invalid/left-pad", "not a path below a mirror"},
		{"before 1970", `"epoch": 7`, `"epoch": -7`, "before 1970"},
		{"not JSON", `"epoch": 7`, `"epoch" 7`, "line"},
		{"twice", `"left-pad"`, `"left-pad"`, ""},
	} {
		text := strings.Replace(string(good), c.from, c.to, 1)
		_, err := Parse([]byte(text), "cat/locks/app.json")
		if c.want == "" {
			if err != nil {
				t.Error(c.name, err)
			}
			continue
		}
		var e *artifact.Error
		if !errors.As(err, &e) || e.Kind != artifact.KindUsage || e.Remedy == "" || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "cat/locks/app.json") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	twice := sample()
	twice.Materials = append(twice.Materials, twice.Materials[0])
	raw, err := twice.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(raw, "x"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
}

// TestAsOf: only a lock made as of a time needs the newer format, and keeps it.
func TestAsOf(t *testing.T) {
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	for version, l := range map[string]Lock{`"version": 1`: {Image: "app"}, `"version": 2`: {Image: "app", To: &at}} {
		raw, err := l.Marshal()
		if err != nil || !strings.Contains(string(raw), version) {
			t.Fatalf("%v: %s", err, raw)
		}
		back, err := Parse(raw, "l")
		if err != nil || (back.To == nil) != (l.To == nil) || back.To != nil && !back.To.Equal(at) {
			t.Errorf("%+v, %v", back, err)
		}
	}
}
