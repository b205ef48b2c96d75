package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

type bench struct {
	embedded *registry.Embedded
	repo     *registry.Repo
	digest   artifact.Digest
	child    artifact.Digest
}

// newBench is an index in the quarantine of a fresh embedded registry.
func newBench(t *testing.T) *bench {
	t.Helper()
	e, err := registry.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	c, err := registry.NewClient(registry.Options{Embedded: e})
	if err != nil {
		t.Fatal(err)
	}
	loc, err := e.Location("quarantine")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := c.Repo(loc, "apps/web")
	if err != nil {
		t.Fatal(err)
	}
	index, err := random.Index(512, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	h, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{embedded: e, repo: repo, digest: artifact.Digest(h.String())}
	if _, err := repo.PushLayout(t.Context(), dir, b.digest); err != nil {
		t.Fatal(err)
	}
	m, err := repo.Manifest(t.Context(), b.digest)
	if err != nil {
		t.Fatal(err)
	}
	b.child = m.Children[0].Digest
	return b
}

// newSigner makes a key pair; once a test, for its encryption is slow on purpose.
func newSigner(t *testing.T, password string) (*Signer, Key, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	s, err := LoadOrGenerate(dir, []byte(password), true)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	return s, k, dir
}

var facts = []Statement{
	{artifact.PredicateSPDX, json.RawMessage(`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"x","packages":[]}`)},
	{artifact.PredicateCycloneDX, json.RawMessage(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[]}`)},
	{artifact.PredicateScan, json.RawMessage(`{"version":1,"scanner":"grype"}`)},
	{artifact.PredicateProvenance, json.RawMessage(`{"buildDefinition":{"buildType":"https://drydock.dev/build/v1","externalParameters":{"image":"web"},` +
		`"resolvedDependencies":[{"uri":"debian/pool/x.deb","digest":{"sha256":"00"}}]},"runDetails":{"builder":{"id":"https://drydock.dev/builder"}}}`)},
}

func TestSignAndAttestOnce(t *testing.T) {
	b := newBench(t)
	s, key, _ := newSigner(t, "")
	for i, want := range []bool{true, false} {
		if got, err := s.Sign(t.Context(), b.repo, b.digest); err != nil || got != want {
			t.Fatalf("Sign #%d = %v, %v", i, got, err)
		}
		if got, err := s.Attest(t.Context(), b.repo, b.digest, facts...); err != nil || got != want {
			t.Fatalf("Attest #%d = %v, %v", i, got, err)
		}
	}
	v, err := Verify(t.Context(), b.repo, b.digest, []Key{key})
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Signers) != 1 || v.Signers[0] != key.ID || len(v.Rejected) != 0 || len(v.Evidence) != len(facts) {
		t.Fatalf("%+v", v)
	}
	for _, e := range v.Evidence {
		if e.Signer != key.ID || e.Subject != b.digest {
			t.Errorf("%+v", e)
		}
	}
	// What hangs on the index says nothing about its child.
	v, err = Verify(t.Context(), b.repo, b.child, []Key{key})
	if err != nil || len(v.Signers)+len(v.Evidence)+len(v.Rejected) != 0 {
		t.Errorf("child: %+v, %v", v, err)
	}
}

func TestAttestReplacesOwnOlderStatement(t *testing.T) {
	b := newBench(t)
	mine, key, _ := newSigner(t, "")
	other, otherKey, _ := newSigner(t, "")
	attest := func(s *Signer, typ, predicate string) {
		t.Helper()
		if w, err := s.Attest(t.Context(), b.repo, b.digest, Statement{typ, json.RawMessage(predicate)}); err != nil || !w {
			t.Fatalf("Attest = %v, %v", w, err)
		}
	}
	attest(mine, artifact.PredicateScan, `{"version":1}`)
	attest(mine, artifact.PredicateTest, `{"version":1}`)
	attest(other, artifact.PredicateScan, `{"version":1,"by":"other"}`)
	attest(mine, artifact.PredicateScan, `{ "version": 2 }`)
	v, err := Verify(t.Context(), b.repo, b.digest, []Key{key, otherKey})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range v.Evidence {
		got[e.PredicateType+" "+map[string]string{key.ID: "mine", otherKey.ID: "other"}[e.Signer]] += string(e.Predicate)
	}
	want := map[string]string{
		artifact.PredicateScan + " mine":  `{"version":2}`,
		artifact.PredicateTest + " mine":  `{"version":1}`,
		artifact.PredicateScan + " other": `{"version":1,"by":"other"}`,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Without the other key its statement is reported, not used.
	v, err = Verify(t.Context(), b.repo, b.digest, []Key{key})
	if err != nil || len(v.Evidence) != 2 || len(v.Rejected) != 1 || v.Rejected[0].PredicateType != artifact.PredicateScan {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestConcurrentAttestationsAreAllKept(t *testing.T) {
	b := newBench(t)
	s, key, _ := newSigner(t, "")
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			f := Statement{fmt.Sprintf("https://example.com/%d/v1", i), json.RawMessage(`{}`)}
			if _, err := s.Attest(t.Context(), b.repo, b.digest, f); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := Verify(t.Context(), b.repo, b.digest, []Key{key})
	if err != nil || len(v.Evidence) != n {
		t.Errorf("%d of %d are there, %v", len(v.Evidence), n, err)
	}
}

func TestVerifyRefusesForgeries(t *testing.T) {
	b := newBench(t)
	s, key, _ := newSigner(t, "")
	if _, err := s.Sign(t.Context(), b.repo, b.digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attest(t.Context(), b.repo, b.digest, facts[2]); err != nil {
		t.Fatal(err)
	}
	// Someone moves the signature and attestation of one image under another.
	for _, ending := range []string{".sig", ".att"} {
		d, err := b.repo.Resolve(t.Context(), "sha256-"+b.digest.Hex()+ending)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.repo.Tag(t.Context(), "sha256-"+b.child.Hex()+ending, d); err != nil {
			t.Fatal(err)
		}
	}
	v, err := Verify(t.Context(), b.repo, b.child, []Key{key})
	if err != nil || len(v.Signers)+len(v.Evidence) != 0 || len(v.Rejected) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	// Nobody is trusted.
	v, err = Verify(t.Context(), b.repo, b.digest, nil)
	if err != nil || len(v.Signers)+len(v.Evidence) != 0 || len(v.Rejected) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestStockCosign holds what we write against the tool people have. The command
// lines are the ones README prints.
func TestStockCosign(t *testing.T) {
	programs := stockCosign(t)
	b := newBench(t)
	s, _, keys := newSigner(t, "")
	for _, d := range []artifact.Digest{b.digest, b.child} {
		if _, err := s.Sign(t.Context(), b.repo, d); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Attest(t.Context(), b.repo, d, facts...); err != nil {
			t.Fatal(err)
		}
	}
	base := serve(t, b.embedded)
	_, _, wrong := newSigner(t, "")
	for _, program := range programs {
		t.Run(program, func(t *testing.T) {
			cosign := func(keys string, args ...string) ([]byte, error) {
				args = append(args, "--key", filepath.Join(keys, PublicKeyFile), "--insecure-ignore-tlog")
				cmd := exec.CommandContext(t.Context(), program, args...)
				cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1")
				return cmd.CombinedOutput()
			}
			for _, d := range []artifact.Digest{b.digest, b.child} {
				ref := base + "/quarantine/apps/web@" + string(d)
				if out, err := cosign(keys, "verify", ref); err != nil {
					t.Errorf("verify: %v\n%s", err, out)
				}
				for _, typ := range []string{"slsaprovenance1", "spdxjson", "cyclonedx", artifact.PredicateScan} {
					if out, err := cosign(keys, "verify-attestation", "--type", typ, ref); err != nil {
						t.Errorf("verify-attestation --type %s: %v\n%s", typ, err, out)
					}
				}
				if out, err := cosign(wrong, "verify", ref); err == nil {
					t.Errorf("another key is accepted:\n%s", out)
				}
				if out, err := cosign(keys, "verify-attestation", "--type", artifact.PredicateTest, ref); err == nil {
					t.Errorf("an attestation that is not there is accepted:\n%s", out)
				}
			}
		})
	}
}

func stockCosign(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, p := range []string{"cosign", "cosign2", "cosign3"} {
		if path, err := exec.LookPath(p); err == nil {
			out = append(out, path)
		}
	}
	if out == nil {
		t.Skip("cosign is not installed")
	}
	return out
}

// serve shows the stages on a loopback port.
func serve(t *testing.T, e *registry.Embedded) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- e.Serve(ctx, registry.ServeOptions{Address: "127.0.0.1:0", ReadOnly: true, Ready: func(a net.Addr) { ready <- a }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return (<-ready).String()
}

// TestVerifyWhatStockCosignSigned is the other direction.
func TestVerifyWhatStockCosignSigned(t *testing.T) {
	b := newBench(t)
	programs := stockCosign(t)
	_, key, keys := newSigner(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan net.Addr, 1)
	go func() {
		_ = b.embedded.Serve(ctx, registry.ServeOptions{Address: "127.0.0.1:0", Ready: func(a net.Addr) { ready <- a }})
	}()
	ref := (<-ready).String() + "/quarantine/apps/web@" + string(b.digest)
	args := []string{"sign", "--key", filepath.Join(keys, PrivateKeyFile), "--tlog-upload=false", "--yes", ref}
	help, _ := exec.CommandContext(ctx, programs[0], "sign", "--help").CombinedOutput()
	if strings.Contains(string(help), "--use-signing-config") {
		args = append(args, "--use-signing-config=false", "--new-bundle-format=false")
	}
	cmd := exec.CommandContext(ctx, programs[0], args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "COSIGN_PASSWORD=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	v, err := Verify(t.Context(), b.repo, b.digest, []Key{key})
	if err != nil || len(v.Signers) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}
