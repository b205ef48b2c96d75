package mirror

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	authorityTime = 7 * 24 * time.Hour // how long an authority is good
	authorityRest = 24 * time.Hour     // with less than that left a new one is made
	leafTime      = 24 * time.Hour
	leafRest      = time.Hour
	// clockSkew is how far a step's clock may be behind ours.
	clockSkew = time.Hour
	// maxLeaves bounds what is kept: a step may ask for any number of names.
	maxLeaves = 1024
)

// authority issues the certificates by which a gateway speaks TLS with steps.
// It is made when it is first wanted, is in memory only and ends with the
// process: nobody but steps of this gateway is ever told to trust it.
type authority struct {
	now func() time.Time // nil: time.Now

	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	text   []byte            // cert as PEM
	server *ecdsa.PrivateKey // of every leaf
	leaves map[string]*tls.Certificate
}

// PEM is the authority's certificate.
func (a *authority) PEM() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(); err != nil {
		return nil, err
	}
	return a.text, nil
}

func (a *authority) time() time.Time {
	if a.now != nil {
		return a.now()
	}
	return time.Now()
}

// ready makes the authority, or a new one in time. The lock is held.
func (a *authority) ready() error {
	now := a.time()
	if a.cert != nil && now.Before(a.cert.NotAfter.Add(-authorityRest)) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the gateway's authority: %w", err)
	}
	server, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the gateway's authority: %w", err)
	}
	cert := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Drydock mirror gateway, for the steps of one run"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityTime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := issue(cert, cert, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("making the gateway's authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("making the gateway's authority: %w", err)
	}
	a.key, a.server, a.leaves = key, server, map[string]*tls.Certificate{}
	a.text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return nil
}

// leaf is a certificate for a host: a name, or an IP address.
func (a *authority) leaf(host string) (*tls.Certificate, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(); err != nil {
		return nil, err
	}
	now := a.time()
	if c := a.leaves[host]; c != nil && now.Before(c.Leaf.NotAfter.Add(-leafRest)) {
		return c, nil
	}
	cert := &x509.Certificate{
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(leafTime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{host}
	}
	if len(host) <= 64 { // what a common name may have; RFC 5280, A.1
		cert.Subject.CommonName = host
	}
	der, err := issue(cert, a.cert, &a.server.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %q: %w", host, err)
	}
	out := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.server}
	if out.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("making a certificate for %q: %w", host, err)
	}
	if len(a.leaves) >= maxLeaves {
		clear(a.leaves)
	}
	a.leaves[host] = out
	return out, nil
}

// issue signs a certificate under a serial number of its own.
func issue(cert, by *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	cert.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, cert, by, public, key)
}
