// Package signtest signs without lasting keys, as sigstore does, with an
// authority and a transparency log made for one test.
package signtest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"drydock/modules/artifact"
	"drydock/modules/sign"
)

// Sigstore is an authority that issues certificates and a log that saw what
// they signed.
type Sigstore struct{ ca *ca.VirtualSigstore }

// New makes a Sigstore nobody else trusts.
func New() (*Sigstore, error) {
	v, err := ca.NewVirtualSigstore()
	return &Sigstore{v}, err
}

// Root is its trusted_root.json; with a certificate log it demands that
// certificates are in that, which those of Sign are not.
func (s *Sigstore) Root(certificateLog bool) ([]byte, error) {
	ct := map[string]*root.TransparencyLog{}
	if certificateLog {
		ct = s.ca.CTLogs()
	}
	logs := s.ca.RekorLogs()
	for id, l := range maps.All(logs) {
		if err := rawID(id, l); err != nil {
			return nil, err
		}
	}
	for id, l := range maps.All(ct) {
		if err := rawID(id, l); err != nil {
			return nil, err
		}
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, s.ca.FulcioCertificateAuthorities(), ct, nil, logs)
	if err != nil {
		return nil, err
	}
	return r.MarshalJSON()
}

// rawID puts a log's id as files have it in place of its text.
func rawID(id string, l *root.TransparencyLog) (err error) {
	l.ID, err = hex.DecodeString(id)
	return err
}

// Sign signs a text as somebody an issuer vouches for.
func (s *Sigstore) Sign(subject, issuer string, text []byte) (sign.Detached, error) {
	out := sign.Detached{Text: text}
	e, err := s.ca.Sign(subject, issuer, text)
	if err != nil {
		return out, err
	}
	signature, err := e.SignatureContent()
	if err != nil {
		return out, err
	}
	out.Signature = base64.StdEncoding.EncodeToString(signature.Signature())
	content, err := e.VerificationContent()
	if err != nil {
		return out, err
	}
	cert, err := cryptoutils.MarshalCertificateToPEM(content.Certificate())
	if err != nil {
		return out, err
	}
	entries, err := e.TlogEntries()
	if err != nil || len(entries) != 1 {
		return out, fmt.Errorf("%d log entries: %w", len(entries), err)
	}
	seen := entries[0].TransparencyLogEntry()
	answer := tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(seen.GetCanonicalizedBody()), IntegratedTime: seen.GetIntegratedTime(),
		LogIndex: seen.GetLogIndex(), LogID: hex.EncodeToString(seen.GetLogId().GetKeyId()),
	}
	promise, err := s.ca.RekorSignPayload(answer)
	if err != nil {
		return out, err
	}
	raw, err := json.Marshal(map[string]any{"SignedEntryTimestamp": promise, "Payload": answer})
	out.Certificate, out.Bundle = string(cert), string(raw)
	return out, err
}

// Text is what cosign signs for an image.
func Text(d artifact.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, d)
}
