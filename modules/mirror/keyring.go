package mirror

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"drydock/modules/artifact"
)

// keyring is the Debian archive's keys and the files they came from.
type keyring struct {
	entities openpgp.EntityList
	file     map[*openpgp.Entity]string
}

// loadKeyring reads the Debian archive keyring, once.
func (s *Set) loadKeyring() (*keyring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys != nil {
		return s.keys, nil
	}
	files := []string{s.cfg.Keyring}
	if s.cfg.Keyring == "" {
		files = s.keyringFiles()
	}
	k := &keyring{file: map[*openpgp.Entity]string{}}
	var bad error
	for _, f := range files {
		list, err := readKeys(f)
		if err != nil {
			bad = fmt.Errorf("reading %s: %w", f, err)
			continue
		}
		for _, e := range list {
			k.entities, k.file[e] = append(k.entities, e), f
		}
	}
	if len(k.entities) == 0 {
		place := s.rings
		if s.cfg.Keyring != "" {
			place = s.cfg.Keyring
		}
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "finding the Debian archive keyring", Place: place,
			Message: "no usable key in debian-archive-*.gpg", Err: bad,
			Remedy: "install the package debian-archive-keyring, or copy its keyring there",
		}
	}
	s.keys = k
	return k, nil
}

// keyringFiles are the files that hold the archive's current keys; the package
// ships withdrawn ones too, which are not to be trusted.
func (s *Set) keyringFiles() []string {
	var files []string
	for _, dir := range []string{s.rings, filepath.Join(s.etc, "trusted.gpg.d")} {
		for _, ext := range []string{"gpg", "pgp", "asc"} {
			found, _ := filepath.Glob(filepath.Join(dir, "debian-archive-*."+ext)) // the pattern is well-formed
			files = append(files, found...)
		}
	}
	for _, a := range s.archives {
		if strings.HasPrefix(filepath.Base(a.signedBy), "debian-archive-") {
			files = append(files, a.signedBy)
		}
	}
	var out []string
	for _, f := range files {
		if !strings.Contains(filepath.Base(f), "removed") {
			out = append(out, f)
		}
	}
	// The whole keyring before its parts: that is the name people know.
	sort.SliceStable(out, func(i, j int) bool {
		return strings.Contains(out[i], "archive-keyring.") && !strings.Contains(out[j], "archive-keyring.")
	})
	return out
}

func readKeys(file string) (openpgp.EntityList, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(b, []byte("-----BEGIN PGP")) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(b))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(b))
}

// sharesKey says whether a keyring file holds one of the archive's keys. A
// file that cannot be read might.
func (k *keyring) sharesKey(file string) bool {
	list, err := readKeys(file)
	if err != nil {
		return true
	}
	for _, e := range list {
		for _, mine := range k.entities {
			if bytes.Equal(e.PrimaryKey.Fingerprint, mine.PrimaryKey.Fingerprint) {
				return true
			}
		}
	}
	return false
}

// errStranger is a signature by nobody in the keyring.
var errStranger = errors.New("not signed by a key of the Debian archive keyring")

// errUnsigned is a page that is no signed document at all.
var errUnsigned = errors.New("not a signed document")

// verifyInline checks a clear-signed document and returns what was signed: not
// a byte outside the signature is ever looked at.
func (k *keyring) verifyInline(doc []byte) (text []byte, file string, err error) {
	block, _ := clearsign.Decode(doc)
	if block == nil {
		return nil, "", errUnsigned
	}
	sigs, err := io.ReadAll(block.ArmoredSignature.Body)
	if err != nil {
		return nil, "", fmt.Errorf("reading its signature: %w", err)
	}
	file, err = k.verify(block.Bytes, sigs)
	return block.Plaintext, file, err
}

// verifyDetached checks a document against an armored signature.
func (k *keyring) verifyDetached(doc, armored []byte) (file string, err error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return "", fmt.Errorf("reading its signature: %w", err)
	}
	sigs, err := io.ReadAll(block.Body)
	if err != nil {
		return "", fmt.Errorf("reading its signature: %w", err)
	}
	return k.verify(doc, sigs)
}

// verify is satisfied by one good signature: archives sign with the keys of
// several releases, of which some may have expired.
func (k *keyring) verify(signed, sigs []byte) (file string, err error) {
	worst := errStranger
	packets := packet.NewOpaqueReader(bytes.NewReader(sigs))
	for {
		op, err := packets.Next()
		if err == io.EOF {
			return "", worst
		}
		if err != nil {
			return "", fmt.Errorf("reading its signature: %w", err)
		}
		var raw bytes.Buffer
		if err := op.Serialize(&raw); err != nil {
			return "", fmt.Errorf("reading its signature: %w", err)
		}
		sig, signer, err := openpgp.VerifyDetachedSignature(k.entities, bytes.NewReader(signed), &raw, nil)
		switch {
		case errors.Is(err, pgperrors.ErrUnknownIssuer):
		case err != nil:
			worst = fmt.Errorf("bad signature: %w", err)
		case sig.Hash != crypto.SHA256 && sig.Hash != crypto.SHA384 && sig.Hash != crypto.SHA512:
			worst = errors.New("bad signature: its hash is too weak")
		default:
			return k.file[signer], nil
		}
	}
}
