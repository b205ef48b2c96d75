package normalize

import (
	"crypto/sha1" //nolint:gosec // what the format has
	"encoding/binary"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"drydock/pipeline/step/internal/imagetest"
)

// javaStore is a store as sun.security.provider.JavaKeyStore writes it: of
// certificates, or of a key, added at a time.
func javaStore(password string, tag uint32, times ...time.Time) string {
	out := binary.BigEndian.AppendUint32(nil, 0xfeedfeed)
	out = binary.BigEndian.AppendUint32(out, 2)
	out = binary.BigEndian.AppendUint32(out, uint32(len(times))) //nolint:gosec // few
	for _, at := range times {
		out = binary.BigEndian.AppendUint32(out, tag)
		out = append(binary.BigEndian.AppendUint16(out, 8), "debian:a"...)
		out = binary.BigEndian.AppendUint64(out, uint64(at.UnixMilli())) //nolint:gosec // after 1970
		out = append(binary.BigEndian.AppendUint16(out, 5), "X.509"...)
		out = append(binary.BigEndian.AppendUint32(out, 11), "certificate"...)
	}
	sum := sha1.New() //nolint:gosec // see above
	for _, u := range utf16.Encode([]rune(password)) {
		sum.Write([]byte{byte(u >> 8), byte(u)})
	}
	sum.Write([]byte("Mighty Aphrodite"))
	sum.Write(out)
	return string(sum.Sum(out))
}

// TestTrustStore sets the times at which authorities were added to Java's store
// back to the epoch, and leaves what it does not know for certain.
func TestTrustStore(t *testing.T) {
	t.Parallel()
	const place = "etc/ssl/certs/java/cacerts"
	later, before := epoch.Add(71*time.Hour), epoch.Add(-time.Hour)
	added, steady := javaStore("changeit", 2, before, later, later), javaStore("changeit", 2, before, epoch, epoch)
	for name, c := range map[string]struct{ path, have, want string }{
		"Debian's":         {place, added, steady},
		"a JDK's own":      {"opt/java/lib/security/cacerts", added, steady},
		"of the base":      {place, steady, steady},
		"another password": {place, javaStore("secret", 2, later), javaStore("secret", 2, later)},
		"a key":            {place, javaStore("changeit", 1, later), javaStore("changeit", 1, later)},
		"damaged":          {place, strings.Replace(added, "X.509", "X.508", 1), strings.Replace(added, "X.509", "X.508", 1)},
		"empty":            {place, javaStore("changeit", 2), javaStore("changeit", 2)},
		"short":            {place, added[:20], added[:20]},
		"another's":        {"app/store.jks", added, added},
	} {
		for _, keep := range []bool{false, true} {
			_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: c.path, Body: c.have}}}}}, Options{KeepTraces: keep})
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if keep {
				want = c.have
			}
			if _, bodies, _ := list(t, out, 0); bodies[c.path] != want {
				t.Errorf("%s, keep %v: %q, want %q", name, keep, bodies[c.path], want)
			}
		}
	}
}

// What claims more than it holds is left as it is.
func FuzzTrustStore(f *testing.F) {
	f.Add([]byte(javaStore("changeit", 2, epoch, epoch.Add(time.Hour))))
	f.Add([]byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\xff\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < 12 {
			return
		}
		for _, at := range timesOfStore(body) {
			if at < 12 || at+8 > len(body) {
				t.Fatalf("a time at %d of %d", at, len(body))
			}
		}
	})
}
