package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

const (
	statementType      = "https://in-toto.io/Statement/v1"
	predicateTypeLabel = "predicateType" // the annotation cosign puts on an attestation's layer
	maxAttempts        = 5
)

// Statement is one fact to attest.
type Statement struct {
	PredicateType string
	Predicate     json.RawMessage
}

// statement is an in-toto Statement v1; the field order is the order in JSON.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Sign signs the manifest or index d. It writes nothing, and says so, if this
// key has signed it already.
func (s *Signer) Sign(ctx context.Context, repo *registry.Repo, d artifact.Digest) (written bool, err error) {
	key, err := s.Key()
	if err != nil {
		return false, err
	}
	return update(ctx, repo, d, ociremote.SignatureTag, "signing "+string(d)+" in", func(have []oci.Signature) ([]oci.Signature, error) {
		for _, sig := range have {
			if verifySignature(ctx, sig, d, key) == nil {
				return nil, nil
			}
		}
		sig, err := s.signature(ctx, repo, d)
		if err != nil {
			return nil, err
		}
		return append(have, sig), nil
	})
}

func (s *Signer) signature(ctx context.Context, repo *registry.Repo, d artifact.Digest) (oci.Signature, error) {
	sv, err := s.signer()
	if err != nil {
		return nil, err
	}
	body, err := payload.Cosign{Image: repo.Ref(d), ClaimedIdentity: repo.String()}.MarshalJSON()
	if err != nil {
		return nil, err
	}
	sig, err := sv.SignMessage(bytes.NewReader(body), withContext(ctx)...)
	if err != nil {
		return nil, err
	}
	return static.NewSignature(body, base64.StdEncoding.EncodeToString(sig))
}

// Attest signs statements about d. One this key has attested already, byte for
// byte, is left alone; an older one of the same predicate type by the same key
// is replaced. It says whether anything was written.
func (s *Signer) Attest(ctx context.Context, repo *registry.Repo, d artifact.Digest, facts ...Statement) (written bool, err error) {
	key, err := s.Key()
	if err != nil {
		return false, err
	}
	facts = append([]Statement(nil), facts...)
	sort.SliceStable(facts, func(i, j int) bool { return facts[i].PredicateType < facts[j].PredicateType })
	want := map[string][]byte{}
	for _, f := range facts {
		b, err := encode(repo, d, f)
		if err != nil {
			return false, err
		}
		if want[f.PredicateType] != nil {
			return false, fmt.Errorf("attesting %s: two statements of type %s", d, f.PredicateType)
		}
		want[f.PredicateType] = b
	}
	return update(ctx, repo, d, ociremote.AttestationTag, "attesting "+string(d)+" in", func(have []oci.Signature) ([]oci.Signature, error) {
		return s.attestations(ctx, d, key, facts, want, have)
	})
}

// attestations returns the layers wanted, or nil if have is what is wanted.
func (s *Signer) attestations(ctx context.Context, d artifact.Digest, key Key, facts []Statement, want map[string][]byte, have []oci.Signature) ([]oci.Signature, error) {
	done := map[string]bool{}
	keep := make([]oci.Signature, 0, len(have)+len(facts))
	dropped := false
	for _, att := range have {
		st, raw, err := verifyAttestation(ctx, att, d, key)
		switch {
		case err != nil || want[st.PredicateType] == nil: // another's, or another fact
			keep = append(keep, att)
		case !done[st.PredicateType] && bytes.Equal(raw, want[st.PredicateType]):
			done[st.PredicateType] = true
			keep = append(keep, att)
		default:
			dropped = true
		}
	}
	if !dropped && len(done) == len(facts) {
		return nil, nil
	}
	for _, f := range facts {
		if done[f.PredicateType] {
			continue
		}
		att, err := s.attestation(ctx, f.PredicateType, want[f.PredicateType])
		if err != nil {
			return nil, err
		}
		keep = append(keep, att)
	}
	return keep, nil
}

func (s *Signer) attestation(ctx context.Context, predicateType string, body []byte) (oci.Signature, error) {
	sv, err := s.signer()
	if err != nil {
		return nil, err
	}
	envelope, err := dsse.WrapSigner(sv, types.IntotoPayloadType).SignMessage(bytes.NewReader(body), withContext(ctx)...)
	if err != nil {
		return nil, err
	}
	return static.NewAttestation(envelope,
		static.WithLayerMediaType(types.DssePayloadType),
		static.WithAnnotations(map[string]string{predicateTypeLabel: predicateType}))
}

func encode(repo *registry.Repo, d artifact.Digest, f Statement) ([]byte, error) {
	var predicate bytes.Buffer
	if err := json.Compact(&predicate, f.Predicate); err != nil {
		return nil, fmt.Errorf("attesting %s: predicate of type %s: %w", d, f.PredicateType, err)
	}
	return json.Marshal(statement{
		Type:          statementType,
		Subject:       []subject{{Name: repo.String(), Digest: map[string]string{"sha256": d.Hex()}}},
		PredicateType: f.PredicateType,
		Predicate:     predicate.Bytes(),
	})
}

// tagOf is ociremote.SignatureTag or ociremote.AttestationTag.
type tagOf func(name.Reference, ...ociremote.Option) (name.Tag, error)

// update reads what hangs on d under one of cosign's tags, changes it and writes
// it back. Within this process that is serialised; against another process it
// looks again before and after writing, and starts over if the other was faster.
func update(ctx context.Context, repo *registry.Repo, d artifact.Digest, tagOf tagOf, op string, change func([]oci.Signature) ([]oci.Signature, error)) (bool, error) {
	defer repo.Lock(d)()
	ref := repo.Ref(d)
	tag, err := tagOf(ref)
	if err != nil {
		return false, repo.Fail(op, err)
	}
	opts := repo.Options(ctx)
	for range maxAttempts {
		old, have, err := attached(tag, opts)
		if err != nil {
			return false, repo.Fail(op, err)
		}
		next, err := change(have)
		if err != nil {
			return false, err
		}
		if next == nil {
			return false, nil
		}
		img, err := assemble(next)
		if err != nil {
			return false, repo.Fail(op, err)
		}
		ours, err := img.Digest()
		if err != nil {
			return false, repo.Fail(op, err)
		}
		if now, err := currently(tag, opts); err != nil || now != old {
			if err != nil {
				return false, repo.Fail(op, err)
			}
			continue
		}
		if err := remote.Write(tag, img, opts...); err != nil {
			return false, repo.Fail(op, err)
		}
		now, err := currently(tag, opts)
		if err != nil {
			return false, repo.Fail(op, err)
		}
		if now == ours {
			return true, nil
		}
	}
	return false, repo.Fail(op, errors.New("another process keeps changing the same tag"))
}

// attached reads the layers under tag, and the digest they were read at.
func attached(tag name.Tag, opts []remote.Option) (v1.Hash, []oci.Signature, error) {
	sigs, err := ociremote.Signatures(tag, ociremote.WithRemoteOptions(opts...))
	if err != nil {
		return v1.Hash{}, nil, err
	}
	layers, err := sigs.Get()
	if err != nil || len(layers) == 0 {
		return v1.Hash{}, nil, err
	}
	d, err := sigs.Digest()
	return d, layers, err
}

func currently(tag name.Tag, opts []remote.Option) (v1.Hash, error) {
	desc, err := remote.Head(tag, opts...)
	if registry.NotFound(err) {
		return v1.Hash{}, nil
	}
	if err != nil {
		return v1.Hash{}, err
	}
	return desc.Digest, nil
}

// assemble makes the image cosign stores layers in; without a time of creation,
// so that the same layers are the same image.
func assemble(layers []oci.Signature) (oci.Signatures, error) {
	copies := make([]oci.Signature, 0, len(layers))
	for _, l := range layers {
		c, err := static.Copy(l)
		if err != nil {
			return nil, err
		}
		copies = append(copies, c)
	}
	return mutate.AppendSignatures(empty.Signatures(), false, copies...)
}
