package sign_test

import (
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/sign"
	"drydock/modules/sign/signtest"
)

const (
	who    = "release@vendor.example"
	issuer = "https://issuer.example"
	image  = artifact.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	other  = artifact.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

func sigstore(t *testing.T) (*signtest.Sigstore, *sign.TrustedRoot) {
	t.Helper()
	s, err := signtest.New()
	if err != nil {
		t.Fatal(err)
	}
	return s, trust(t, s, false)
}

func trust(t *testing.T, s *signtest.Sigstore, certificateLog bool) *sign.TrustedRoot {
	t.Helper()
	raw, err := s.Root(certificateLog)
	if err != nil {
		t.Fatal(err)
	}
	r, err := sign.ParseTrustedRoot(raw, "root.json")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A signature made with a certificate counts for the identity in it, if the
// root's authority issued it and the root's log saw it.
func TestSignedBy(t *testing.T) {
	s, r := sigstore(t)
	_, strange := sigstore(t)
	good, err := s.Sign(who, issuer, signtest.Text(image))
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Sign(who, issuer, signtest.Text(image))
	if err != nil {
		t.Fatal(err)
	}
	id := sign.Identity{Subject: who, Issuer: issuer}
	for name, c := range map[string]struct {
		root   *sign.TrustedRoot
		change func(*sign.Detached)
		image  artifact.Digest
		ids    []sign.Identity
		refuse string // "" is accepted
	}{
		"as it is":            {},
		"any of the vendor's": {ids: []sign.Identity{{Subject: "nobody@vendor.example", Issuer: issuer}, {Subject: "*@vendor.example", Issuer: issuer}}},
		"another's":           {ids: []sign.Identity{{Subject: "other@vendor.example", Issuer: issuer}}, refuse: "none of the expected identities"},
		"of another issuer":   {ids: []sign.Identity{{Subject: who, Issuer: "https://issuer.example.evil"}}, refuse: "none of the expected identities"},
		"only the beginning":  {ids: []sign.Identity{{Subject: "release@vendor", Issuer: issuer}}, refuse: "none of the expected identities"},
		"a dot is a dot":      {ids: []sign.Identity{{Subject: "release@vendor?example", Issuer: issuer}}, refuse: "none of the expected identities"},
		"nobody":              {ids: []sign.Identity{}, refuse: "no identity is trusted"},
		"another authority's": {root: strange, refuse: "verif"},
		"of another image":    {image: other, refuse: "digest"},
		"another text":        {change: func(d *sign.Detached) { d.Text = signtest.Text(other) }, image: other, refuse: "bundle"},
		"never logged":        {change: func(d *sign.Detached) { d.Bundle = "" }, refuse: "transparency log"},
		"another's log entry": {change: func(d *sign.Detached) { d.Bundle = second.Bundle }, refuse: "bundle"},
		"a log's answer forged": {change: func(d *sign.Detached) {
			d.Bundle = strings.Replace(d.Bundle, `"integratedTime":1`, `"integratedTime":2`, 1)
		}, refuse: "bundle"},
		"an answer of no text":       {change: func(d *sign.Detached) { d.Bundle = `{"Payload":{"body":{}}}` }, refuse: "no body"},
		"no JSON":                    {change: func(d *sign.Detached) { d.Bundle = `{` }, refuse: "transparency log's answer"},
		"another's certificate":      {change: func(d *sign.Detached) { d.Certificate = second.Certificate }, refuse: "bundle"},
		"no certificate":             {change: func(d *sign.Detached) { d.Certificate = "" }, refuse: "with a key"},
		"not in the certificate log": {root: trust(t, s, true), refuse: "SCT"},
	} {
		t.Run(name, func(t *testing.T) {
			one, root, d, ids := good, c.root, c.image, c.ids
			if c.change != nil {
				c.change(&one)
			}
			if root == nil {
				root = r
			}
			if d == "" {
				d = image
			}
			if ids == nil {
				ids = []sign.Identity{id}
			}
			got, err := root.SignedBy(t.Context(), one, d, ids)
			if c.refuse == "" {
				if err != nil || got != root.ID(ids[len(ids)-1]) {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.refuse) {
				t.Errorf("%q, %v, want %q", got, err, c.refuse)
			}
		})
	}
}

func TestParseTrustedRoot(t *testing.T) {
	for raw, want := range map[string]string{
		"": "not a trusted_root.json", "{}": "not a trusted_root.json", "-----BEGIN PUBLIC KEY-----": "not a trusted_root.json",
		`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`: "no certificate authority",
	} {
		if _, err := sign.ParseTrustedRoot([]byte(raw), "root.json"); artifact.ExitCode(err) != artifact.ExitUsage ||
			!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "root.json") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}
