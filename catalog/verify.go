package catalog

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"drydock/modules/policy"
)

// Verify is whose signatures an upstream image must carry to be a base.
type Verify struct {
	Keys        []string     `yaml:"keys,omitempty"`        // public keys of cosign, PEM files relative to the base's file
	Identities  []Identity   `yaml:"identities,omitempty"`  // who may have signed with a certificate in place of a key
	TrustedRoot string       `yaml:"trustedRoot,omitempty"` // for identities: sigstore's trusted_root.json, relative to the base's file
	Threshold   int          `yaml:"threshold,omitempty"`   // how many of keys and identities must have signed; default 1
	Expires     *policy.Date `yaml:"expires,omitempty"`     // the last day the trust holds; default for good

	Files []KeyFile `yaml:"-"` // Keys, read
	Root  KeyFile   `yaml:"-"` // TrustedRoot, read
}

// Identity is who may have signed with a certificate.
type Identity struct {
	Subject string `yaml:"subject"` // e-mail address or URI; * is any text without /
	Issuer  string `yaml:"issuer"`  // the OpenID Connect issuer's URL
}

// KeyFile is a public key, or a trusted root, of the catalog.
type KeyFile struct {
	Place string // the file
	PEM   []byte
}

// checkVerify reads the keys an upstream image is verified with.
func (l *loader) checkVerify(s source, b *Base) {
	v := b.Verify
	if v == nil {
		return
	}
	if b.Kind != "oci" {
		l.fail(s.at("verify"), "a base of kind %s is verified by no signatures of images", b.Kind).Remedy = "leave verify out: Debian's packages are verified with Debian's keys"
		return
	}
	if v.Threshold == 0 {
		v.Threshold = 1
	}
	all := len(v.Keys) + len(v.Identities)
	if all == 0 || v.Threshold < 1 || v.Threshold > all {
		l.fail(s.at("verify", "threshold"), "%d of %d keys and identities cannot have signed", v.Threshold, all).Remedy = "name keys or identities, and as threshold 1 to as many as there are"
	}
	for i, key := range v.Keys {
		if f, ok := l.keyFile(s.at("verify", "keys", strconv.Itoa(i)), key, "put the signer's cosign.pub there, got in a way you trust"); ok {
			v.Files = append(v.Files, f)
		}
	}
	l.checkIdentities(s, v)
}

// checkIdentities reads what certificates of signers are checked against.
func (l *loader) checkIdentities(s source, v *Verify) {
	for i, who := range v.Identities {
		if strings.Trim(who.Subject, "*") == "" || who.Issuer == "" || slices.Contains(v.Identities[:i], who) {
			l.fail(s.at("verify", "identities", strconv.Itoa(i)), "an identity without subject or issuer, or twice").Remedy =
				"write {subject: …, issuer: https://…} as cosign verify's --certificate-identity and --certificate-oidc-issuer take them"
		}
	}
	switch {
	case len(v.Identities) == 0 && v.TrustedRoot != "":
		l.fail(s.at("verify", "trustedRoot"), "a trusted root and no identities").Remedy = "name identities, or leave it out"
	case len(v.Identities) > 0 && v.TrustedRoot == "":
		l.fail(s.at("verify", "identities"), "identities and no trustedRoot to check their certificates against").Remedy =
			"name sigstore's trusted_root.json: trustedRoot: keys/trusted_root.json"
	case v.TrustedRoot != "":
		v.Root, _ = l.keyFile(s.at("verify", "trustedRoot"), v.TrustedRoot, "put the signers' trusted_root.json there, got in a way you trust")
	}
}

// keyFile reads a file beside the base's.
func (l *loader) keyFile(at, name, remedy string) (KeyFile, bool) {
	file := path.Join("bases", name)
	if path.IsAbs(name) || !fs.ValidPath(file) {
		l.fail(at, "key %s is outside the catalog", name).Remedy = "keep it beside the base, for example as keys/upstream.pub"
		return KeyFile{}, false
	}
	raw, err := fs.ReadFile(l.fsys, file)
	if err != nil {
		l.fail(at, "there is no file %s", path.Join(l.name, file)).Remedy = remedy
		return KeyFile{}, false
	}
	return KeyFile{Place: path.Join(l.name, file), PEM: raw}, true
}
