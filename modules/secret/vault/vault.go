// Package vault reads single secrets over the HTTP API of HashiCorp Vault and
// OpenBao (https://developer.hashicorp.com/vault/api-docs): key-value engines of
// both versions and every other engine that answers a GET. Vault's own client
// library brings more packages than the two requests made here are worth.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
)

const (
	timeout    = 15 * time.Second
	tries      = 3
	pause      = 300 * time.Millisecond // before the second try, twice as long before the third
	maxAnswer  = 1 << 20                // bytes
	headerAuth = "X-Vault-Token"
)

// Ref is a secret: a path of the HTTP API without the leading /v1/, as
// secret/data/npm, and a field of what is there.
type Ref struct{ Path, Field string }

// ParseRef reads PATH#FIELD.
func ParseRef(s string) (Ref, error) {
	p, field, ok := strings.Cut(s, "#")
	if !ok || p == "" || field == "" {
		return Ref{}, fmt.Errorf("%q is not PATH#FIELD", s)
	}
	if p != path.Clean(p) || path.IsAbs(p) || strings.HasPrefix(p, "..") || strings.HasPrefix(p, "v1/") || strings.ContainsAny(p, "?%\\ ") {
		return Ref{}, fmt.Errorf("%q is not a path below /v1/ of the API", p)
	}
	return Ref{Path: p, Field: field}, nil
}

// Client asks one server. It logs in once, when first asked.
type Client struct {
	address   *url.URL
	namespace string
	http      *http.Client
	login     login

	mu    sync.Mutex
	token string
}

// login is how a token is got where none is given.
type login struct{ path, role, jwt string }

// New reads where the server is, and who asks, from the variables its own
// tools and CI systems use: VAULT_ADDR (or VAULT_SERVER_URL), VAULT_NAMESPACE,
// VAULT_CACERT; VAULT_TOKEN, or VAULT_ID_TOKEN with VAULT_AUTH_ROLE and
// VAULT_AUTH_PATH (default jwt) for a job's identity token, or ~/.vault-token.
// getenv gives "" for what is not set.
func New(getenv func(string) string) (*Client, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := strings.TrimSpace(getenv(n)); v != "" {
				return v
			}
		}
		return ""
	}
	c := &Client{namespace: first("VAULT_NAMESPACE"), token: first("VAULT_TOKEN")}
	var err error
	if c.address, err = serverURL(first("VAULT_ADDR", "VAULT_SERVER_URL")); err != nil {
		return nil, err
	}
	if c.token == "" {
		c.login = login{path: first("VAULT_AUTH_PATH"), role: first("VAULT_AUTH_ROLE"), jwt: first("VAULT_ID_TOKEN")}
		if c.login.path == "" {
			c.login.path = "jwt"
		}
	}
	if c.token == "" && c.login.jwt == "" {
		if raw, err := os.ReadFile(filepath.Join(getenv("HOME"), ".vault-token")); err == nil {
			c.token = strings.TrimSpace(string(raw))
		}
	}
	if c.token == "" && c.login.jwt == "" {
		return nil, usage("there is no token", "set VAULT_TOKEN, or VAULT_ID_TOKEN and VAULT_AUTH_ROLE in a job, or log in with `vault login`", nil)
	}
	c.http, err = client(first("VAULT_CACERT"))
	return c, err
}

// serverURL checks the address of one.
func serverURL(address string) (*url.URL, error) {
	if address == "" {
		return nil, usage("no server is named", "set VAULT_ADDR to the server's URL", nil)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, usage(fmt.Sprintf("VAULT_ADDR %q is not a URL", address), "write https://HOST:PORT", nil)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, usage("VAULT_ADDR "+u.Redacted()+" would send secrets in the clear", "use https, or an agent on 127.0.0.1", nil)
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// client follows one redirect, as a standby answers with, never to plain HTTP.
func client(authority string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	if authority != "" {
		raw, err := os.ReadFile(authority)
		if err != nil {
			return nil, usage("VAULT_CACERT cannot be read", "name a PEM file", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(raw) {
			return nil, usage("VAULT_CACERT "+authority+" holds no certificate", "name a PEM file", nil)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, Timeout: timeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 1 || (via[0].URL.Scheme == "https" && r.URL.Scheme != "https") {
			return fmt.Errorf("it leads on to %s", r.URL.Redacted())
		}
		return nil
	}}, nil
}

// Values lists what no output may show: the tokens.
func (c *Client) Values() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc([]string{c.token, c.login.jwt}, func(s string) bool { return s == "" })
}

// Read gives the field of a secret. What is no string is given as JSON. Errors
// are *artifact.Error: KindUsage for what the user can mend (no such secret or
// field, refused), KindFault where the server cannot be had.
func (c *Client) Read(ctx context.Context, r Ref) (string, error) {
	token, err := c.authenticate(ctx)
	if err != nil {
		return "", err
	}
	var answer struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if err := c.do(ctx, http.MethodGet, r.Path, token, nil, &answer); err != nil {
		return "", err
	}
	fields := answer.Data
	// version 2 of the key-value engine answers data and metadata within data
	if inner, ok := fields["data"]; ok && fields["metadata"] != nil {
		fields = nil
		if err := json.Unmarshal(inner, &fields); err != nil || fields == nil {
			return "", usage(r.Path+" was deleted", "write it again, or name another", nil)
		}
	}
	raw, ok := fields[r.Field]
	if !ok || string(raw) == "null" {
		names := make([]string, 0, len(fields))
		for n := range fields {
			names = append(names, n)
		}
		slices.Sort(names)
		return "", usage(fmt.Sprintf("%s has no field %q", r.Path, r.Field), "it has: "+strings.Join(names, ", "), nil)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	return string(raw), nil
}

// authenticate gives the token, got for the job's identity where none was given.
func (c *Client) authenticate(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	body, err := json.Marshal(map[string]string{"role": c.login.role, "jwt": c.login.jwt})
	if err != nil {
		return "", err
	}
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := c.do(ctx, http.MethodPost, "auth/"+c.login.path+"/login", "", body, &answer); err != nil {
		return "", err
	}
	if answer.Auth.Token == "" {
		return "", usage("the server gave no token for the job's identity", "check VAULT_AUTH_PATH and VAULT_AUTH_ROLE", nil)
	}
	c.token = answer.Auth.Token
	return c.token, nil
}

// do asks, and again where the server may answer better.
func (c *Client) do(ctx context.Context, method, where, token string, body []byte, answer any) error {
	var err error
	for n := range tries {
		if n > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause << (n - 1)):
			}
		}
		var again bool
		if again, err = c.once(ctx, method, where, token, body, answer); !again {
			return err
		}
	}
	return err
}

func (c *Client) once(ctx context.Context, method, where, token string, body []byte, answer any) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.address.JoinPath("v1", where).String(), bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set(headerAuth, token)
	}
	if c.namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.namespace)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return true, c.fault(where, "the server cannot be reached", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return true, c.fault(where, "the answer broke off", err)
	}
	if resp.StatusCode == http.StatusOK {
		if len(raw) > maxAnswer || json.Unmarshal(raw, answer) != nil {
			return false, c.fault(where, "the answer is not what Vault's API gives", nil)
		}
		return false, nil
	}
	return c.refused(where, resp.StatusCode, raw)
}

// refused says what a status means.
func (c *Client) refused(where string, status int, raw []byte) (again bool, err error) {
	var said struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(raw, &said) // what a proxy answers is no JSON: the status says enough
	text := fmt.Sprintf("%s: status %d", where, status)
	if len(said.Errors) > 0 {
		text += ": " + strings.Join(said.Errors, "; ")
	}
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return true, c.fault(where, text, nil)
	case status == http.StatusNotFound:
		return false, usage(text, "there is no such secret: version 2 of the key-value engine has data/ after the mount, as in secret/data/npm#token", nil)
	case status == http.StatusForbidden, status == http.StatusUnauthorized, status == http.StatusBadRequest:
		return false, usage(text, "check the token or role, its policy on this path, and VAULT_NAMESPACE", nil)
	}
	return false, c.fault(where, text, nil)
}

func (c *Client) fault(where, message string, err error) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "asking Vault", Place: c.address.JoinPath("v1", where).Redacted(),
		Message: message, Remedy: "see whether VAULT_ADDR is right and the server is up and unsealed; then run again", Err: err,
	}
}

func usage(message, remedy string, err error) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "asking Vault", Message: message, Remedy: remedy, Err: err}
}
