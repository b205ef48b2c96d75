package base

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"reflect"
	"slices"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
	"drydock/modules/mirror"
)

// What cosign hangs on an image under the tag sha256-<hex>.sig: an image whose
// layers are the texts that were signed.
const (
	signedText          = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	certAnnotation      = "dev.sigstore.cosign/certificate"
	chainAnnotation     = "dev.sigstore.cosign/chain"
	bundleAnnotation    = "dev.sigstore.cosign/bundle"

	maxSignedText = 1 << 20
	maxSignatures = 100
)

// Trust is whose signatures an upstream image must carry before it is a base.
type Trust struct {
	Signers   []string  // ids of the keys and identities that count
	Threshold int       // how many of them must have signed; 0 is 1
	Expires   time.Time // the last day the trust holds; zero is for good

	// Check says which of the signers made a signature over a text that speaks of
	// the image.
	Check func(ctx context.Context, s Signature, image artifact.Digest) (signer string, err error)
}

// Signature is one signature as its registry has it; nothing of it is believed.
type Signature struct {
	Text        []byte // what was signed
	Signature   string // base64
	Certificate string // PEM, "" where it was made with a key
	Chain       string // PEM
	Bundle      string // JSON: what a transparency log answered
}

// LockedTrust is the Trust a lock was made under: a lock of another does not fit.
type LockedTrust struct {
	Signers   []string `json:"signers"`
	Threshold int      `json:"threshold"`
	Expires   string   `json:"expires,omitempty"` // 2006-01-02
}

func (t *Trust) locked() *LockedTrust {
	if t == nil {
		return nil
	}
	out := &LockedTrust{Signers: slices.Sorted(slices.Values(t.Signers)), Threshold: max(1, t.Threshold)}
	if !t.Expires.IsZero() {
		out.Expires = t.Expires.Format(time.DateOnly)
	}
	return out
}

func sameTrust(a, b *LockedTrust) bool { return reflect.DeepEqual(a, b) }

// trustHolds refuses a base whose trust has expired, also one that was built
// while it held.
func (b *Builder) trustHolds(spec Spec) error {
	if spec.Trust == nil || spec.Trust.Expires.IsZero() {
		return nil
	}
	now := time.Now
	if b.Now != nil {
		now = b.Now
	}
	if now().Before(spec.Trust.Expires.AddDate(0, 0, 1)) {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindGate, Op: "verifying base " + spec.Name, Place: spec.Place,
		Message: "the trust in its signers expired on " + spec.Trust.Expires.Format(time.DateOnly),
		Remedy:  "look at the upstream image again, then move expires: under verify: in the base",
	}
}

// verify holds the signatures of an upstream image against the trust.
func (p *puller) verify(ctx context.Context, d artifact.Digest, spec Spec) error {
	refuse := func(message string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindGate, Op: "verifying base " + spec.Name, Place: spec.Place,
			Message: fmt.Sprintf("%s@%s: %s", p.repository, d, message), Err: err,
			Remedy: "mirror the image with its signatures (cosign copy), or name a digest and keys that belong together",
		}
	}
	blob, err := p.mirrors.Fetch(ctx, mirror.Request{
		Ecosystem: mirror.OCI, Path: path.Join("v2", p.repository, "manifests", "sha256-"+d.Hex()+".sig"),
		Anew: true, // one more signature may be what was missing
	})
	if errors.Is(err, mirror.ErrNotFound) {
		return refuse("it is not signed", nil)
	}
	if err != nil {
		return fmt.Errorf("fetching the signatures of %s@%s: %w", p.repository, d, err)
	}
	p.materials = append(p.materials, blob.Material)
	raw, err := os.ReadFile(blob.Path)
	if err != nil {
		return fmt.Errorf("reading the signatures of %s@%s: %w", p.repository, d, err)
	}
	var m v1.Manifest
	if len(raw) > maxManifest || json.Unmarshal(raw, &m) != nil {
		return refuse("what its signature's tag leads to is no manifest", nil)
	}
	signers := map[string]bool{}
	var last error
	for i, l := range m.Layers {
		signature := l.Annotations[signatureAnnotation]
		if l.MediaType != signedText || signature == "" || l.Size > maxSignedText || i >= maxSignatures {
			continue
		}
		at, err := p.fetch(ctx, "blobs", artifact.Digest(l.Digest), l.Size)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(at)
		if err != nil {
			return fmt.Errorf("reading a signature of %s@%s: %w", p.repository, d, err)
		}
		one := Signature{
			Text: text, Signature: signature,
			Certificate: l.Annotations[certAnnotation], Chain: l.Annotations[chainAnnotation], Bundle: l.Annotations[bundleAnnotation],
		}
		if id, err := spec.Trust.Check(ctx, one, d); err != nil {
			last = err
		} else {
			signers[id] = true
		}
	}
	if want := spec.Trust.locked().Threshold; len(signers) < want {
		return refuse(fmt.Sprintf("%d of the trusted signers signed it, %d must", len(signers), want), last)
	}
	return nil
}
