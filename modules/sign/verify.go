package sign

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

// Verified is what trusted keys say about one manifest or index.
type Verified struct {
	Signers  []string            // ids of the trusted keys that signed it, sorted
	Evidence []artifact.Evidence // each with the id of the key that signed it
	Rejected []Rejected          // what hangs on it and no trusted key signed; never evidence
}

// Rejected is a signature or attestation that does not count.
type Rejected struct {
	Kind          string // signature or attestation
	PredicateType string // as its label claims; "" for a signature
	Reason        string
}

// Verify reads the signatures and attestations of d and checks each against the
// trusted keys. It fails only if they cannot be read: nothing signed is an answer.
func Verify(ctx context.Context, repo *registry.Repo, d artifact.Digest, trusted []Key) (*Verified, error) {
	op := "verifying " + string(d) + " in"
	out := &Verified{}
	ref, opts := repo.Ref(d), repo.Options(ctx)
	tag, err := ociremote.SignatureTag(ref)
	if err != nil {
		return nil, repo.Fail(op, err)
	}
	_, sigs, err := attached(tag, opts)
	if err != nil {
		return nil, repo.Fail(op, err)
	}
	signers := map[string]bool{}
	for _, sig := range sigs {
		id, err := firstKey(trusted, func(k Key) error { return verifySignature(ctx, sig, d, k) })
		if err != nil {
			out.Rejected = append(out.Rejected, Rejected{Kind: "signature", Reason: err.Error()})
			continue
		}
		if !signers[id] {
			signers[id] = true
			out.Signers = append(out.Signers, id)
		}
	}
	sort.Strings(out.Signers)
	if tag, err = ociremote.AttestationTag(ref); err != nil {
		return nil, repo.Fail(op, err)
	}
	_, atts, err := attached(tag, opts)
	if err != nil {
		return nil, repo.Fail(op, err)
	}
	for _, att := range atts {
		var st statement
		id, err := firstKey(trusted, func(k Key) error {
			var err error
			st, _, err = verifyAttestation(ctx, att, d, k)
			return err
		})
		if err != nil {
			label, _ := att.Annotations()
			out.Rejected = append(out.Rejected, Rejected{Kind: "attestation", PredicateType: label[predicateTypeLabel], Reason: err.Error()})
			continue
		}
		out.Evidence = append(out.Evidence, artifact.Evidence{
			Subject: d, PredicateType: st.PredicateType, Predicate: st.Predicate, Signer: id,
		})
	}
	return out, nil
}

// Signed says which of the trusted keys made a detached signature, in base64,
// over a text that speaks of d, as cosign writes it (simple signing).
func Signed(ctx context.Context, text []byte, signature string, d artifact.Digest, trusted []Key) (id string, err error) {
	sig, err := static.NewSignature(text, signature)
	if err != nil {
		return "", fmt.Errorf("reading signature: %w", err)
	}
	return firstKey(trusted, func(k Key) error { return verifySignature(ctx, sig, d, k) })
}

// firstKey returns the id of the first key check accepts.
func firstKey(keys []Key, check func(Key) error) (string, error) {
	if len(keys) == 0 {
		return "", errors.New("no key is trusted here")
	}
	var err error
	for _, k := range keys {
		if err = check(k); err == nil {
			return k.ID, nil
		}
	}
	if len(keys) > 1 {
		err = fmt.Errorf("none of %d trusted keys accepts it; the last: %w", len(keys), err)
	}
	return "", err
}

func checkOpts(k Key) *cosign.CheckOpts {
	return &cosign.CheckOpts{SigVerifier: k.verifier, IgnoreTlog: true, IgnoreSCT: true, Offline: true}
}

// verifySignature accepts a signature by k that speaks of d.
func verifySignature(ctx context.Context, sig oci.Signature, d artifact.Digest, k Key) error {
	h, err := v1.NewHash(string(d))
	if err != nil {
		return err
	}
	co := checkOpts(k)
	co.ClaimVerifier = cosign.SimpleClaimVerifier
	_, err = cosign.VerifyImageSignature(ctx, sig, h, co)
	return err
}

// verifyAttestation accepts a statement by k that speaks of d, and returns it
// with its bytes.
func verifyAttestation(ctx context.Context, att oci.Signature, d artifact.Digest, k Key) (statement, []byte, error) {
	var st statement
	h, err := v1.NewHash(string(d))
	if err != nil {
		return st, nil, err
	}
	one, err := assemble([]oci.Signature{att})
	if err != nil {
		return st, nil, err
	}
	co := checkOpts(k)
	co.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
	checked, _, err := cosign.VerifyImageAttestation(ctx, one, h, co)
	if err != nil {
		return st, nil, err
	}
	body, err := checked[0].Payload()
	if err != nil {
		return st, nil, err
	}
	var envelope ssldsse.Envelope
	if err := json.Unmarshal(body, &envelope); err != nil {
		return st, nil, fmt.Errorf("parsing envelope: %w", err)
	}
	if envelope.PayloadType != types.IntotoPayloadType {
		return st, nil, fmt.Errorf("payload type %q is not in-toto's", envelope.PayloadType)
	}
	raw, err := base64.StdEncoding.DecodeString(envelope.Payload)
	if err != nil {
		return st, nil, fmt.Errorf("decoding statement: %w", err)
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		return st, nil, fmt.Errorf("parsing statement: %w", err)
	}
	if st.PredicateType == "" {
		return st, nil, errors.New("the statement has no predicate type")
	}
	return st, raw, nil
}

func withContext(ctx context.Context) []signature.SignOption {
	return []signature.SignOption{options.WithContext(ctx)}
}
