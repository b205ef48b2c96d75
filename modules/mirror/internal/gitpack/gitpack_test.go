package gitpack

import (
	"bytes"
	"strings"
	"testing"
)

func TestPatch(t *testing.T) {
	base := []byte("hello old world")
	// 15 to 17 bytes: copy 6 from 0, insert "brave", copy 6 from 9
	delta := []byte{15, 17, 0x90, 6, 5, 'b', 'r', 'a', 'v', 'e', 0x91, 9, 6}
	if got, err := patch(base, delta); err != nil || string(got) != "hello brave world" {
		t.Errorf("%q, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"another base": {14, 17}, "beyond": {15, 6, 0x91, 12, 6}, "too much": {15, 3, 0x90, 6}, "too little": {15, 9, 0x90, 6}, "cut": {15, 6, 0x91}, "empty insert": {15, 0, 0}, "nothing": {},
	} {
		if got, err := patch(base, bad); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRefs(t *testing.T) {
	oid := strings.Repeat("a", 40)
	var b bytes.Buffer
	Line(&b, oid+" HEAD symref-target:refs/heads/main\n")
	Line(&b, oid+" refs/tags/v1 peeled:"+strings.Repeat("b", 40)+"\n")
	Flush(&b)
	refs, err := ReadRefs(bytes.NewReader(b.Bytes()))
	if err != nil || len(refs) != 2 {
		t.Fatalf("%+v, %v", refs, err)
	}
	for _, r := range refs {
		if again := ParseRefPath(strings.TrimSuffix(r.Path(), "/"+oid), oid); again != r {
			t.Errorf("%+v came back as %+v", r, again)
		}
	}
	if !(&Request{Args: []string{"ref-prefix refs/t"}}).WantsRef("refs/tags/v1") || (&Request{Args: []string{"ref-prefix refs/t"}}).WantsRef("HEAD") {
		t.Error("prefixes")
	}
	for _, bad := range []string{"", "0005", "zzzz", "0003", "0009nope\n0000", b.String()[:b.Len()-4]} {
		if _, err := ReadRefs(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// FuzzCheck feeds what a mirror may answer: it never panics, and finds nothing
// it was not asked for.
func FuzzCheck(f *testing.F) {
	var b bytes.Buffer
	Line(&b, "packfile\n")
	Line(&b, "\x01PACK\x00\x00\x00\x02\x00\x00\x00\x00"+strings.Repeat("x", 20))
	Flush(&b)
	f.Add(b.Bytes())
	f.Add([]byte("000dpackfile\n0000"))
	f.Fuzz(func(t *testing.T, in []byte) {
		oid := strings.Repeat("a", 40)
		if found, err := Check(bytes.NewReader(in), t.TempDir(), []string{oid}, true); err == nil || len(found) > 0 {
			t.Errorf("found %v", found)
		}
	})
}
