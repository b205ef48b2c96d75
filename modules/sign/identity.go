package sign

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/root"

	"drydock/modules/artifact"
)

// Identity is who a signature without a lasting key is by, as the certificate
// it was made with says.
type Identity struct {
	Subject string // an e-mail address or a URI; * is any text without /
	Issuer  string // the OpenID Connect issuer that vouched for it
}

// TrustedRoot holds the authorities and logs such certificates and signatures
// are checked against, as sigstore's trusted_root.json names them. Nothing is
// asked over the network.
type TrustedRoot struct {
	material *root.TrustedRoot
	sum      string
}

// ParseTrustedRoot reads a trusted_root.json. place is for the error.
func ParseTrustedRoot(raw []byte, place string) (*TrustedRoot, error) {
	refuse := func(message string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading trusted root", Place: place, Message: message, Err: err,
			Remedy: "give the trusted_root.json of the signers' sigstore (cosign trusted-root create, or its TUF repository)",
		}
	}
	material, err := root.NewTrustedRootFromJSON(raw)
	if err != nil {
		return nil, refuse("not a trusted_root.json", err)
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, refuse("it names no certificate authority", nil)
	}
	if len(material.RekorLogs()) == 0 {
		return nil, refuse("it names no transparency log, and without one nobody can tell when a signature was made", nil)
	}
	sum := sha256.Sum256(raw)
	return &TrustedRoot{material: material, sum: "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// ID names an identity under this root; under another root it is another.
func (r *TrustedRoot) ID(i Identity) string {
	return "identity " + i.Subject + " of " + i.Issuer + " under " + r.sum
}

// Detached is a signature over a text, with what cosign wrote beside it.
type Detached struct {
	Text        []byte
	Signature   string // base64
	Certificate string // PEM, "" where it was made with a key
	Chain       string // PEM
	Bundle      string // JSON: what the transparency log answered
}

// SignedBy says which of the identities made a signature over a text that
// speaks of d: its certificate was issued by an authority of the root (and is in
// a certificate log, where the root names one), and a log of the root saw the
// signature while the certificate was valid.
func (r *TrustedRoot) SignedBy(ctx context.Context, s Detached, d artifact.Digest, who []Identity) (id string, err error) {
	if s.Certificate == "" {
		return "", errors.New("it was made with a key, not a certificate")
	}
	h, err := v1.NewHash(string(d))
	if err != nil {
		return "", err
	}
	seen, err := parseBundle(s.Bundle)
	if err != nil {
		return "", err
	}
	co := &cosign.CheckOpts{
		TrustedMaterial: r.material, Offline: true, ClaimVerifier: cosign.SimpleClaimVerifier,
		IgnoreSCT: len(r.material.CTLogs()) == 0,
	}
	err = errors.New("no identity is trusted here")
	for _, i := range who {
		sig, serr := static.NewSignature(s.Text, s.Signature, static.WithCertChain([]byte(s.Certificate), []byte(s.Chain)), static.WithBundle(seen))
		if serr != nil {
			return "", fmt.Errorf("reading signature: %w", serr)
		}
		co.Identities = []cosign.Identity{{Issuer: i.Issuer, SubjectRegExp: wholeOf(i.Subject)}}
		if _, err = cosign.VerifyImageSignature(ctx, sig, h, co); err == nil {
			return r.ID(i), nil
		}
	}
	return "", err
}

// wholeOf is a regular expression for the whole of a subject.
func wholeOf(pattern string) string {
	return `\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^/]*`) + `\z`
}

// parseBundle reads what a log answered, which anybody may have written.
func parseBundle(raw string) (*bundle.RekorBundle, error) {
	if raw == "" {
		return nil, errors.New("no transparency log's answer is with it")
	}
	var b bundle.RekorBundle
	if err := json.Unmarshal([]byte(raw), &b); err != nil {
		return nil, fmt.Errorf("reading the transparency log's answer: %w", err)
	}
	if _, ok := b.Payload.Body.(string); !ok { // cosign takes it for granted
		return nil, errors.New("the transparency log's answer has no body")
	}
	return &b, nil
}
