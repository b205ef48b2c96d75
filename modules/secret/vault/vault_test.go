package vault

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"drydock/modules/artifact"
)

// server answers as Vault documents it for what these tests ask.
type server struct {
	*httptest.Server
	asked  atomic.Int32
	logins atomic.Int32
	fails  atomic.Int32 // so many answers are 503 first
}

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{}
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, status int, text string) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
	mux.HandleFunc("POST /v1/auth/{mount}/login", func(w http.ResponseWriter, r *http.Request) {
		s.logins.Add(1)
		var in struct{ Role, JWT string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Role != "builder" || in.JWT != "identity" || r.PathValue("mount") != "jwt" {
			say(w, 400, `{"errors":["role \"\" could not be found"]}`)
			return
		}
		say(w, 200, `{"auth":{"client_token":"good"}}`)
	})
	mux.HandleFunc("GET /v1/", func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if s.fails.Add(-1) >= 0 {
			say(w, 503, `{"errors":["Vault is sealed"]}`)
			return
		}
		if r.Header.Get("X-Vault-Token") != "good" {
			say(w, 403, `{"errors":["permission denied"]}`)
			return
		}
		switch r.URL.Path {
		case "/v1/secret/data/npm":
			say(w, 200, `{"data":{"data":{"token":"v2-value","port":8080},"metadata":{"version":3}}}`)
		case "/v1/secret/data/deleted":
			say(w, 200, `{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}`)
		case "/v1/kv/npm":
			say(w, 200, `{"data":{"token":"v1-value","data":"a field of that name"}}`)
		case "/v1/team/kv":
			if r.Header.Get("X-Vault-Namespace") != "team" {
				say(w, 404, `{"errors":[]}`)
				return
			}
			say(w, 200, `{"data":{"token":"theirs"}}`)
		case "/v1/html":
			say(w, 200, `<html>`)
		default:
			say(w, 404, `{"errors":[]}`)
		}
	})
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// environ is the environment of somebody who may ask, with more set.
func environ(t *testing.T, s *server, more ...string) func(string) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"VAULT_ADDR": s.URL, "VAULT_CACERT": ca, "VAULT_TOKEN": "good", "HOME": t.TempDir()}
	for _, kv := range more {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return func(name string) string { return env[name] }
}

func TestRead(t *testing.T) {
	s := serve(t)
	for _, test := range []struct{ ref, want, more string }{
		{ref: "secret/data/npm#token", want: "v2-value"},
		{ref: "secret/data/npm#port", want: "8080"},
		{ref: "kv/npm#token", want: "v1-value"},
		{ref: "kv/npm#data", want: "a field of that name"},
		{ref: "team/kv#token", want: "theirs", more: "VAULT_NAMESPACE=team"},
		{ref: "kv/npm#token", want: "v1-value", more: "VAULT_ADDR=" + s.URL + "/"},
	} {
		ref, err := ParseRef(test.ref)
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(environ(t, s, test.more))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Read(t.Context(), ref); err != nil || got != test.want {
			t.Errorf("%s: %q, %v", test.ref, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	s := serve(t)
	for _, test := range []struct {
		path, field, more, message string
		kind                       artifact.Kind
	}{
		{path: "secret/data/npm", field: "absent", message: `no field "absent"`, kind: artifact.KindUsage},
		{path: "secret/npm", field: "token", message: "status 404", kind: artifact.KindUsage},
		{path: "secret/data/deleted", field: "token", message: "was deleted", kind: artifact.KindUsage},
		{path: "kv/npm", field: "token", more: "VAULT_TOKEN=bad", message: "permission denied", kind: artifact.KindUsage},
		{path: "html", field: "token", message: "not what Vault's API gives", kind: artifact.KindFault},
		{path: "kv/npm", field: "token", more: "VAULT_CACERT=", message: "cannot be reached", kind: artifact.KindFault},
	} {
		c, err := New(environ(t, s, test.more))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(t.Context(), Ref{test.path, test.field})
		var e *artifact.Error
		if !errors.As(err, &e) || e.Kind != test.kind || !strings.Contains(err.Error(), test.message) || e.Remedy == "" {
			t.Errorf("%s#%s: %v", test.path, test.field, err)
		}
	}
}

func TestJobIdentity(t *testing.T) {
	s := serve(t)
	more := []string{"VAULT_TOKEN=", "VAULT_ID_TOKEN=identity", "VAULT_AUTH_ROLE=builder"}
	c, err := New(environ(t, s, more...))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err != nil || got != "v1-value" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if n := s.logins.Load(); n != 1 {
		t.Errorf("%d logins", n)
	}
	if v := strings.Join(c.Values(), " "); v != "good identity" {
		t.Errorf("to hide: %q", v)
	}
	c, err = New(environ(t, s, append(more, "VAULT_AUTH_ROLE=other")...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Read(t.Context(), Ref{"kv/npm", "token"}); err == nil || !strings.Contains(err.Error(), "could not be found") {
		t.Errorf("with a role that is not there: %v", err)
	}
}

func TestTriesAgain(t *testing.T) {
	s := serve(t)
	c, err := New(environ(t, s))
	if err != nil {
		t.Fatal(err)
	}
	s.fails.Store(tries - 1)
	if got, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err != nil || got != "v1-value" {
		t.Errorf("%q, %v", got, err)
	}
	s.fails.Store(tries)
	if _, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("of a sealed server: %v", err)
	}
}

func TestTokenFile(t *testing.T) {
	s := serve(t)
	home := t.TempDir()
	get := environ(t, s, "VAULT_TOKEN=", "HOME="+home)
	if _, err := New(get); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("without a token: %v", err)
	}
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte("good\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(get)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err != nil {
		t.Error(err)
	}
}

func TestAddress(t *testing.T) {
	s := serve(t)
	for address, message := range map[string]string{
		"":                          "no server is named",
		"vault.example":             "is not a URL",
		"http://vault.example:8200": "in the clear",
		"unix:///run/vault.sock":    "is not a URL",
	} {
		if _, err := New(environ(t, s, "VAULT_ADDR="+address)); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := New(environ(t, s, "VAULT_ADDR=http://127.0.0.1:8200")); err != nil {
		t.Errorf("an agent on loopback: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	s := serve(t)
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token went out in the clear") }))
	defer plain.Close()
	to := s.URL
	standby := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	standby.TLS = s.TLS
	standby.StartTLS()
	defer standby.Close()
	c, err := New(environ(t, s, "VAULT_ADDR="+standby.URL))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err != nil || got != "v1-value" {
		t.Errorf("through a standby: %q, %v", got, err)
	}
	to = plain.URL
	if _, err := c.Read(t.Context(), Ref{"kv/npm", "token"}); err == nil {
		t.Error("a redirect to plain HTTP was followed")
	}
}

func TestParseRef(t *testing.T) {
	for _, bad := range []string{"", "a", "#f", "a#", "/a#f", "v1/a#f", "../a#f", "a/../b#f", "a//b#f", "a?x=1#f", "a b#f"} {
		if _, err := ParseRef(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
