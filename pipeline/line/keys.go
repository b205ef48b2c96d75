package line

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/sign"
	"drydock/pipeline/results"
)

// The variables a signing key is configured with; COSIGN_PASSWORD is cosign's.
const (
	envSigningKey = "DRYDOCK_SIGNING_KEY" // path of a cosign private key, or its PEM
	envPassword   = "COSIGN_PASSWORD"
)

func (l *Line) getenv(name string) string {
	for i := len(l.cfg.Environ) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(l.cfg.Environ[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// readyKeys makes a key pair on first use, outside of CI only, so that the
// signer's identity is known before work is looked up by it. Nothing is loaded.
func (l *Line) readyKeys() error {
	if l.getenv(envSigningKey) != "" || l.cfg.CI.InCI() {
		return nil
	}
	if _, err := os.Stat(filepath.Join(l.cfg.Keys, sign.PrivateKeyFile)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil // there, or loading it will say what is wrong
	}
	_, err := l.signer.get()
	return err
}

// signerID identifies the configured key without loading it.
func (l *Line) signerID() string {
	if key := l.getenv(envSigningKey); key != "" {
		if strings.Contains(key, "-----BEGIN ") {
			return key // only ever hashed
		}
		if id, err := results.Stat(key); err == nil {
			return key + " " + id
		}
		return key
	}
	id, err := results.Stat(filepath.Join(l.cfg.Keys, sign.PrivateKeyFile))
	if err != nil {
		return "none"
	}
	return id
}

// openSigner is the configured signer, or nil where there is none: then
// nothing is signed, and what is not signed stays in quarantine.
func (l *Line) openSigner() (*sign.Signer, error) {
	password := []byte(l.getenv(envPassword))
	if key := l.getenv(envSigningKey); key != "" {
		return sign.Load(key, password)
	}
	s, err := sign.LoadOrGenerate(l.cfg.Keys, password, !l.cfg.CI.InCI())
	if err != nil || s == nil {
		return nil, err
	}
	if s.Generated {
		how := "encrypted with COSIGN_PASSWORD"
		if len(password) == 0 {
			how = "without a password (set COSIGN_PASSWORD to give it one)"
		}
		l.note("made a signing key pair in %s, %s; whoever can read it can sign as you", l.cfg.Keys, how)
	}
	return s, nil
}

// trusted are the keys whose evidence counts: the given public key, else the
// signer's own.
func (l *Line) trusted(path string) ([]sign.Key, error) {
	if path == "" {
		s, err := l.signer.get()
		if err != nil {
			return nil, err
		}
		if s != nil {
			k, err := s.Key()
			return []sign.Key{k}, err
		}
		path = filepath.Join(l.cfg.Keys, sign.PublicKeyFile)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading public key", Place: path, Err: err,
			Remedy: "give the cosign.pub of the signer with --trust-key",
		}
	}
	k, err := sign.ParseKey(raw, path)
	return []sign.Key{k}, err
}
