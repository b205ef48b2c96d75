package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"
)

func parsed(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Fatalf("not one certificate: %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAuthority(t *testing.T) {
	a := &authority{}
	text, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	ca := parsed(t, text)
	if key, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || !ca.IsCA || !ca.MaxPathLenZero || len(ca.SubjectKeyId) == 0 {
		t.Errorf("%+v", ca)
	}
	if d := time.Until(ca.NotAfter); d > authorityTime || d < authorityTime-time.Hour {
		t.Errorf("it is good for %s", d)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, host := range []string{"files.test", "Files.test", "xn--bcher-kva.test", "192.0.2.1", "2001:db8::1", strings.Repeat("long.", 20) + "test"} {
		c, err := a.leaf(host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "other.test"}); err == nil {
			t.Errorf("the certificate of %s is another's too", host)
		}
		if c.Leaf.IsCA || time.Until(c.Leaf.NotAfter) > leafTime || len(c.Leaf.AuthorityKeyId) == 0 {
			t.Errorf("%s: %+v", host, c.Leaf)
		}
		if again, err := a.leaf(host + "."); err != nil || again != c {
			t.Errorf("%s was issued twice: %v", host, err)
		}
	}
	if c, err := a.leaf("bücher.test"); err == nil {
		t.Errorf("%+v", c.Leaf.DNSNames)
	}
	// another gateway's certificates are not trusted
	other, err := new(authority).leaf("files.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "files.test"}); err == nil {
		t.Error("the certificate of another authority verifies")
	}
}

func TestAuthorityTime(t *testing.T) {
	now := time.Now()
	a := &authority{now: func() time.Time { return now }}
	first, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.leaf("files.test")
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(leafTime - leafRest + time.Minute)
	if renewed, err := a.leaf("files.test"); err != nil || renewed == leaf || renewed.Leaf.CheckSignatureFrom(parsed(t, first)) != nil {
		t.Errorf("an old certificate was shown, or another authority's: %v", err)
	}
	now = now.Add(authorityTime - authorityRest)
	if second, err := a.PEM(); err != nil || string(second) == string(first) {
		t.Errorf("an authority that is about to end was told: %v", err)
	}
	for i := range maxLeaves + 10 {
		if _, err := a.leaf(fmt.Sprintf("n%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.leaves) > maxLeaves {
		t.Errorf("%d certificates are kept", len(a.leaves))
	}
}
