package normalize

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // what the format has; it keeps no secret
	"encoding/binary"
	"io"
	"path"
	"time"
)

// Java's store of authorities, which Debian's ca-certificates-java makes when a JRE
// is installed and keytool adds to, has the time at which each was added.
const (
	trustStoreFile = "cacerts"
	maxTrustStore  = 16 << 20
	jksMagic       = 0xfeedfeed
	jksTrusted     = 2 // tag of a certificate that is trusted; others are keys
)

// jksSecret is what the sum of a store begins with: Java's default password, by
// which nothing is kept secret, in UTF-16 and what JavaKeyStore adds to each.
var jksSecret = []byte("\x00c\x00h\x00a\x00n\x00g\x00e\x00i\x00tMighty Aphrodite")

// steadyTrustStore is a store of type JKS with no authority added after the epoch;
// nil when it has none, or is something else, or has another password.
func steadyTrustStore(plain io.ReaderAt, e entry, epoch time.Time) ([]byte, error) {
	if e.header.Size > maxTrustStore || e.header.Size < sha1.Size+12 {
		return nil, nil
	}
	raw := make([]byte, e.header.Size)
	if _, err := plain.ReadAt(raw, e.offset); err != nil && err != io.EOF {
		return nil, err
	}
	body, sum := raw[:len(raw)-sha1.Size], raw[len(raw)-sha1.Size:]
	if binary.BigEndian.Uint32(body) != jksMagic || !bytes.Equal(sumOfStore(body), sum) {
		return nil, nil
	}
	changed := false
	for _, at := range timesOfStore(body) {
		if ms := binary.BigEndian.Uint64(body[at:]); ms > uint64(epoch.UnixMilli()) { //nolint:gosec // after 1970
			binary.BigEndian.PutUint64(body[at:], uint64(epoch.UnixMilli())) //nolint:gosec // after 1970
			changed = true
		}
	}
	if !changed {
		return nil, nil
	}
	return append(body[:len(body):len(body)], sumOfStore(body)...), nil
}

func sumOfStore(body []byte) []byte {
	sum := sha1.New() //nolint:gosec // see above
	sum.Write(jksSecret)
	sum.Write(body)
	return sum.Sum(nil)
}

// timesOfStore is where the times are; none where the store has more than
// authorities, or is not as sun.security.provider.JavaKeyStore writes it.
func timesOfStore(body []byte) []int {
	count, at, ok := binary.BigEndian.Uint32(body[8:]), 12, true
	length := func(size int) (n int) {
		switch {
		case !ok || len(body)-at < size:
			ok = false
			return 0
		case size == 2:
			n = int(binary.BigEndian.Uint16(body[at:]))
		default:
			n = int(binary.BigEndian.Uint32(body[at:]))
		}
		at += size
		return n
	}
	skip := func(n int) {
		if ok = ok && n >= 0 && n <= len(body)-at; ok {
			at += n
		}
	}
	var times []int
	for i := uint32(0); i < count && ok; i++ {
		if length(4) != jksTrusted {
			return nil
		}
		skip(length(2)) // the alias
		times = append(times, at)
		skip(8)
		if binary.BigEndian.Uint32(body[4:]) > 1 {
			skip(length(2)) // the kind of certificate
		}
		skip(length(4))
	}
	if !ok || at != len(body) {
		return nil
	}
	return times
}

// isTrustStore says whether a file may be such a store.
func isTrustStore(e entry) bool { return path.Base(e.path) == trustStoreFile }
