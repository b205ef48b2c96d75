package sign

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

func TestLoadOrGenerate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "keys")
	if s, err := LoadOrGenerate(dir, nil, false); s != nil || err != nil {
		t.Fatalf("without leave to generate: %v, %v", s, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
	s, err := LoadOrGenerate(dir, []byte("secret"), true)
	if err != nil || !s.Generated {
		t.Fatalf("%+v, %v", s, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, PrivateKeyFile): 0o600, filepath.Join(dir, PublicKeyFile): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, PrivateKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(raw); block == nil || block.Type != "ENCRYPTED SIGSTORE PRIVATE KEY" {
		t.Errorf("not cosign's encoding:\n%s", raw)
	}
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrGenerate(dir, []byte("secret"), true)
	if err != nil || again.Generated {
		t.Fatalf("%+v, %v", again, err)
	}
	// The same key from the PEM a CI variable holds, where nothing is beside it.
	ci, err := Load(string(raw), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Signer{again, ci} {
		if k, err := x.Key(); err != nil || k.ID != key.ID {
			t.Errorf("%v, %v", k.ID, err)
		}
		if _, err := x.signer(); err != nil {
			t.Error(err)
		}
	}
}

func TestKeyErrors(t *testing.T) {
	_, _, dir := newSigner(t, "secret")
	_, _, other := newSigner(t, "")
	path := filepath.Join(dir, PrivateKeyFile)
	mixed := t.TempDir()
	copyFile(t, path, filepath.Join(mixed, PrivateKeyFile))
	copyFile(t, filepath.Join(other, PublicKeyFile), filepath.Join(mixed, PublicKeyFile))
	garbage := filepath.Join(t.TempDir(), "x.key")
	if err := os.WriteFile(garbage, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ source, password, want string }{
		"wrong password":   {path, "guess", "COSIGN_PASSWORD"},
		"no such file":     {filepath.Join(dir, "nothing"), "", "loading signing key"},
		"not PEM":          {garbage, "", "not PEM"},
		"other public key": {filepath.Join(mixed, PrivateKeyFile), "secret", "belongs to another key"},
		"wrong PEM":        {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "signing key given"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Load(c.source, []byte(c.password))
			if err == nil {
				_, err = s.signer()
			}
			if artifact.ExitCode(err) != artifact.ExitUsage {
				t.Fatalf("exit code %d for %v", artifact.ExitCode(err), err)
			}
			said := err.Error() + strings.Join(artifact.Remedies(err), " ")
			if !strings.Contains(said, c.want) {
				t.Errorf("%q is not in %s", c.want, said)
			}
			if c.password != "" && strings.Contains(said, c.password) {
				t.Error("it tells the password")
			}
		})
	}
	if _, err := ParseKey([]byte("nothing"), "trusted.pub"); artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "trusted.pub") {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
