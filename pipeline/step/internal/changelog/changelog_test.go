package changelog

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const openssl = `openssl (3.0.15-1~deb12u1) bookworm; urgency=medium

  * Import 3.0.15
    - CVE-2024-5535 (SSL_select_next_proto buffer overread)
    - cve-2024-4741, CVE-2024-2511 and CVE-2024-5535 again
  * Drop CVE-2023-6129.patch, applied upstream.

 -- Sebastian <s@example.org>  Sun, 01 Sep 2024 13:15:47 +0200

openssl (3.0.13-1~deb12u1) bookworm-security; urgency=medium, binary-only=yes

  * CVE-2023-6129: POLY1305 MAC on PowerPC.

 -- Sebastian <s@example.org>  Fri,  2 Feb 2024 21:44:01 +0100

Older entries are elsewhere. CVE-2000-0001
`

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := Parse(strings.NewReader(openssl))
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{"openssl", "3.0.15-1~deb12u1", time.Date(2024, 9, 1, 11, 15, 47, 0, time.UTC), []string{"CVE-2024-5535", "CVE-2024-4741", "CVE-2024-2511", "CVE-2023-6129"}},
		{"openssl", "3.0.13-1~deb12u1", time.Date(2024, 2, 2, 20, 44, 1, 0, time.UTC), []string{"CVE-2023-6129"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	fixes := map[string]string{}
	for _, f := range Fixes(got) {
		fixes[f.CVE] = f.Version
	}
	// Of the patch that went upstream, the version that brought it counts.
	if len(fixes) != 4 || fixes["CVE-2023-6129"] != "3.0.13-1~deb12u1" || fixes["CVE-2024-4741"] != "3.0.15-1~deb12u1" {
		t.Errorf("fixes %v", fixes)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":          "",
		"another format": "Changes in 1.2:\n  * CVE-2024-1\n",
		"endless line":   "a (1) b; urgency=low\n\n  " + strings.Repeat("x", maxLine+1),
	} {
		if e, err := Parse(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted %+v", name, e)
		}
	}
}

func TestNotADeb(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(path, []byte("!<arch>\nbroken"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromDeb(path); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("error %v", err)
	}
}

// FuzzParse: never panics, and every fix names a version of an entry.
func FuzzParse(f *testing.F) {
	f.Add(openssl)
	f.Add("a (1) b; urgency=low\n\n  * CVE-2024-12345\n\n -- A <a@b>  no date\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		versions := map[string]bool{}
		for _, e := range entries {
			versions[e.Version] = true
		}
		for _, fix := range Fixes(entries) {
			if !versions[fix.Version] || !strings.HasPrefix(fix.CVE, "CVE-") {
				t.Errorf("fix %+v of nothing", fix)
			}
		}
	})
}
