package base

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // what the format has; it keeps no secret
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// A Java key store of type JKS, as sun.security.provider.JavaKeyStore reads it:
// magic, version, entries, and a sum over a well-known password and all of
// that. Java reads it also where its default type is PKCS12. Unlike PKCS12 it
// has no salt and no random, so that the same certificates are the same bytes.
const (
	jksMagic       = 0xfeedfeed
	jksVersion     = 2
	jksTrusted     = 2 // tag of a certificate that is trusted
	jksWhitener    = "Mighty Aphrodite"
	jksPassword    = "changeit" // Java's default; every tool knows it
	jksCertificate = "X.509"
)

// trustStore is a trust store of the certificates; epoch, in Unix seconds, is
// when they were added.
func trustStore(certs []certificate, epoch int64) ([]byte, error) {
	sorted, err := sortedByAlias(certs)
	if err != nil {
		return nil, err
	}
	if len(sorted) > math.MaxUint16 {
		return nil, fmt.Errorf("%d certificates are too many for a trust store", len(sorted))
	}
	var out bytes.Buffer
	number := func(n uint32) { out.Write(binary.BigEndian.AppendUint32(nil, n)) }
	// Java's modified UTF-8 is plain UTF-8 but for NUL and what lies beyond 16 bits.
	text := func(s string) {
		out.Write(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) //nolint:gosec // file names have at most 255 bytes
		out.WriteString(s)
	}
	number(jksMagic)
	number(jksVersion)
	number(uint32(len(sorted))) //nolint:gosec // at most 65535, checked above
	for _, c := range sorted {
		for _, r := range c.alias() {
			if r == 0 || r > math.MaxUint16 || r == utf8.RuneError {
				return nil, fmt.Errorf("certificate %q: its name cannot be one of a trust store", c.name)
			}
		}
		number(jksTrusted)
		text(c.alias())
		out.Write(binary.BigEndian.AppendUint64(nil, uint64(epoch)*1000)) //nolint:gosec // locks refuse times before 1970
		text(jksCertificate)
		number(uint32(len(c.der))) //nolint:gosec // a file of the catalogued package
		out.Write(c.der)
	}
	sum := sha1.New() //nolint:gosec // see above
	for _, u := range utf16.Encode([]rune(jksPassword)) {
		sum.Write([]byte{byte(u >> 8), byte(u)})
	}
	sum.Write([]byte(jksWhitener))
	sum.Write(out.Bytes())
	return sum.Sum(out.Bytes()), nil
}
