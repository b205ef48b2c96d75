// Package sign signs images and facts about them as cosign does, so that stock
// cosign accepts them: signatures under the tag sha256-<hex>.sig, in-toto
// statements in DSSE envelopes under sha256-<hex>.att. There is no transparency
// log, no certificate and no network but the registry. It is the only room that
// links cosign.
package sign

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

// The files of a key pair, as cosign names them.
const (
	PrivateKeyFile = "cosign.key"
	PublicKeyFile  = "cosign.pub"
)

// Key is a public key that may be trusted.
type Key struct {
	ID       string // sha256: and the digest of its SubjectPublicKeyInfo
	PEM      []byte
	verifier signature.Verifier
}

// ParseKey reads a public key in PEM, such as cosign.pub. place is for the error.
func ParseKey(raw []byte, place string) (Key, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(raw)
	if err == nil {
		var k Key
		if k, err = newKey(pub); err == nil {
			return k, nil
		}
	}
	return Key{}, &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading public key", Place: place,
		Message: "not a public key in PEM", Remedy: "give the cosign.pub of the signer", Err: err,
	}
}

func newKey(pub crypto.PublicKey) (Key, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, err
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return Key{}, err
	}
	sum := sha256.Sum256(der)
	return Key{
		ID:       "sha256:" + hex.EncodeToString(sum[:]),
		PEM:      pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		verifier: v,
	}, nil
}

// Signer holds a private key. The key is decrypted, which is slow on purpose,
// only when something has to be signed.
type Signer struct {
	// Generated says that LoadOrGenerate made the key pair just now.
	Generated bool

	place    string
	raw      []byte
	password []byte
	public   *Key // as cosign.pub beside the key says; nil where there is none

	once sync.Once
	sv   signature.SignerVerifier
	key  Key
	err  error
}

// LoadOrGenerate loads the key pair of keysDir. Where there is none it makes one
// if that is allowed, and otherwise returns nil: nothing can be signed, and what
// is not signed stays in quarantine.
func LoadOrGenerate(keysDir string, password []byte, allowGenerate bool) (*Signer, error) {
	path := filepath.Join(keysDir, PrivateKeyFile)
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return Load(path, password)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, keyError(path, "make the keys folder readable, or give another with --keys", err)
	case !allowGenerate:
		return nil, nil
	}
	if err := generate(keysDir, password); err != nil {
		return nil, keyError(keysDir, "give a keys folder that may be written with --keys", err)
	}
	s, err := Load(path, password)
	if err == nil {
		s.Generated = true
	}
	return s, err
}

// generate writes a new ECDSA P-256 key pair, encrypted as cosign does. The
// private key comes last and is never written over: of two processes one wins.
func generate(dir string, password []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return err
	}
	whole := wholefile.Options{Sync: true} // 0600
	private := whole
	private.New = true
	err = wholefile.Write(filepath.Join(dir, PrivateKeyFile), pair.PrivateBytes, private)
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was first
	}
	if err != nil {
		return err
	}
	return wholefile.Write(filepath.Join(dir, PublicKeyFile), pair.PublicBytes, whole)
}

// Load takes a private key from source: a file, or the PEM itself as a CI
// variable holds it. cosign.pub beside a file saves decrypting it only to learn
// the public half.
func Load(source string, password []byte) (*Signer, error) {
	s := &Signer{place: source, password: password}
	if strings.Contains(source, "-----BEGIN ") {
		s.place, s.raw = "the signing key given", []byte(source)
	} else {
		b, err := os.ReadFile(source)
		if err != nil {
			return nil, keyError(source, "give the file of a cosign private key, or its PEM", err)
		}
		s.raw = b
		if err := s.readPublic(source); err != nil {
			return nil, err
		}
	}
	block, _ := pem.Decode(s.raw)
	if block == nil {
		return nil, keyError(s.place, "give a key made by cosign generate-key-pair", errors.New("not PEM"))
	}
	return s, nil
}

func (s *Signer) readPublic(source string) error {
	path := filepath.Join(filepath.Dir(source), PublicKeyFile)
	if filepath.Base(source) != PrivateKeyFile {
		path = strings.TrimSuffix(source, filepath.Ext(source)) + ".pub"
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // it is derived from the private key then
	}
	k, err := ParseKey(b, path)
	if err != nil {
		return err
	}
	s.public = &k
	return nil
}

// Key is the public half.
func (s *Signer) Key() (Key, error) {
	if s.public != nil {
		return *s.public, nil
	}
	_, err := s.signer()
	return s.key, err
}

// signer decrypts the private key, once.
func (s *Signer) signer() (signature.SignerVerifier, error) {
	s.once.Do(func() {
		if s.sv, s.err = decrypt(s.raw, s.password); s.err != nil {
			s.err = keyError(s.place, "check COSIGN_PASSWORD, and that the key was made by cosign generate-key-pair", s.err)
			return
		}
		pub, err := s.sv.PublicKey()
		if err == nil {
			s.key, err = newKey(pub)
		}
		if err != nil {
			s.err = keyError(s.place, "give an ECDSA, RSA or Ed25519 key", err)
			return
		}
		if s.public != nil && s.public.ID != s.key.ID {
			s.err = keyError(s.place, "put the cosign.pub that belongs to it beside it, or remove the wrong one",
				errors.New("the public key beside it belongs to another key"))
		}
	})
	return s.sv, s.err
}

func decrypt(raw, password []byte) (signature.SignerVerifier, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	switch block.Type {
	case cosign.PrivateKeyPemType, cosign.ECPrivateKeyPemType: // not encrypted
		pk, err := cryptoutils.UnmarshalPEMToPrivateKey(bytes.TrimSpace(raw), cryptoutils.SkipPassword)
		if err != nil {
			return nil, err
		}
		return signature.LoadSignerVerifier(pk, crypto.SHA256)
	default:
		return cosign.LoadPrivateKey(raw, password, nil)
	}
}

func keyError(place, remedy string, err error) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "loading signing key", Place: place, Remedy: remedy,
		Err: fmt.Errorf("%w", err),
	}
}
