package catalog

import (
	"io/fs"
	"path"
	"strconv"

	"drydock/modules/policy"
)

// Verify is whose signatures an upstream image must carry to be a base.
type Verify struct {
	Keys      []string     `yaml:"keys"`                // public keys of cosign, PEM files relative to the base's file
	Threshold int          `yaml:"threshold,omitempty"` // how many of them must have signed; default 1
	Expires   *policy.Date `yaml:"expires,omitempty"`   // the last day the trust holds; default for good

	Files []KeyFile `yaml:"-"` // Keys, read
}

// KeyFile is a public key of the catalog.
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
	if len(v.Keys) == 0 || v.Threshold < 1 || v.Threshold > len(v.Keys) {
		l.fail(s.at("verify", "threshold"), "%d of %d keys cannot have signed", v.Threshold, len(v.Keys)).Remedy = "name keys, and as threshold 1 to as many as there are"
	}
	for i, key := range v.Keys {
		at, file := s.at("verify", "keys", strconv.Itoa(i)), path.Join("bases", key)
		if path.IsAbs(key) || !fs.ValidPath(file) {
			l.fail(at, "key %s is outside the catalog", key).Remedy = "keep it beside the base, for example as keys/upstream.pub"
			continue
		}
		pem, err := fs.ReadFile(l.fsys, file)
		if err != nil {
			l.fail(at, "there is no file %s", path.Join(l.name, file)).Remedy = "put the signer's cosign.pub there, got in a way you trust"
			continue
		}
		v.Files = append(v.Files, KeyFile{Place: path.Join(l.name, file), PEM: pem})
	}
}
