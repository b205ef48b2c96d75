package registry

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// basicAuth asks for one user's password.
func basicAuth(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// tlsStage is a registry with TLS and a password; it returns its CA's file.
func tlsStage(t *testing.T) (Location, string) {
	t.Helper()
	srv := httptest.NewTLSServer(basicAuth("ci", "s3cret")(newStage(t.TempDir())))
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return Location{Name: "remote", Base: srv.Listener.Addr().String() + "/team"}, ca
}

func dockerAuth(host string) string {
	return fmt.Sprintf(`{"auths":{"https://%s/v1/":{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("ci:s3cret")))
}

// writeFile writes a file in a fresh folder.
func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCredentialsReachARegistryWithTLS(t *testing.T) {
	loc, ca := tlsStage(t)
	host, _, _ := strings.Cut(loc.Base, "/")
	helper := writeFile(t, "docker-credential-test", "#!/bin/sh\nread server\n[ \"$server\" = "+host+" ] || { echo credentials not found in native keychain; exit 1; }\n"+
		`echo '{"Username":"ci","Secret":"s3cret"}'`+"\n", 0o700)
	path := "PATH=" + filepath.Dir(helper) + ":/usr/bin:/bin"
	config := func(text string) string {
		return "DOCKER_CONFIG=" + filepath.Dir(writeFile(t, "config.json", text, 0o600))
	}
	for name, o := range map[string]Options{
		"DOCKER_AUTH_CONFIG":  {Environ: []string{"DOCKER_AUTH_CONFIG=" + dockerAuth(host)}},
		"DOCKER_CONFIG":       {Environ: []string{config(dockerAuth(host))}},
		"home":                {Home: filepath.Dir(filepath.Dir(writeFile(t, ".docker/config.json", dockerAuth(host), 0o600)))},
		"path in auths":       {Environ: []string{config(strings.Replace(dockerAuth(host), "/v1/", "/team", 1))}},
		"credential helper":   {Environ: []string{path, config(fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host))}},
		"credentials store":   {Environ: []string{path, config(`{"credsStore":"test"}`)}},
		"CI_REGISTRY":         {Environ: []string{"CI_REGISTRY=" + host, "CI_REGISTRY_USER=ci", "CI_REGISTRY_PASSWORD=s3cret"}},
		"REGISTRY_AUTH_FILE":  {Environ: []string{"REGISTRY_AUTH_FILE=" + writeFile(t, "auth.json", dockerAuth(host), 0o600)}},
		"DRYDOCK_REGISTRY":    {Environ: []string{"DRYDOCK_REGISTRY=" + host, "DRYDOCK_REGISTRY_USER=ci", "DRYDOCK_REGISTRY_PASSWORD=s3cret"}},
		"DRYDOCK_ without it": {Environ: []string{"DRYDOCK_REGISTRY_USER=ci", "DRYDOCK_REGISTRY_PASSWORD=s3cret"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Trust = ca
			pushed(t, openRepo(t, newClient(t, o), loc, "app/"+strings.ToLower(strings.NewReplacer(" ", "", "_", "").Replace(name))))
		})
	}
}

func TestCredentialsAreForTheirRegistryOnly(t *testing.T) {
	loc, ca := tlsStage(t)
	for name, env := range map[string][]string{
		"none":              nil,
		"another registry":  {"DOCKER_AUTH_CONFIG=" + dockerAuth("registry.example.com")},
		"another path":      {"DOCKER_AUTH_CONFIG=" + strings.Replace(dockerAuth(loc.Base[:strings.Index(loc.Base, "/")]), "/v1/", "/other", 1)},
		"another's CI":      {"CI_REGISTRY=registry.example.com", "CI_REGISTRY_USER=ci", "CI_REGISTRY_PASSWORD=s3cret"},
		"wrong password":    {"DRYDOCK_REGISTRY_USER=ci", "DRYDOCK_REGISTRY_PASSWORD=guess"},
		"empty docker file": {"DOCKER_AUTH_CONFIG={}"},
	} {
		t.Run(name, func(t *testing.T) {
			r := openRepo(t, newClient(t, Options{Environ: env, Trust: ca}), loc, "app")
			dir, d, _ := imageLayout(t)
			_, err := r.PushLayout(t.Context(), dir, d)
			wantError(t, err, artifact.KindFault, loc.Base+"/app", "401", "docker login", "DOCKER_AUTH_CONFIG")
			if strings.Contains(err.Error(), "guess") {
				t.Error("it tells the password")
			}
		})
	}
}

func TestBrokenCredentials(t *testing.T) {
	loc, ca := tlsStage(t)
	host, _, _ := strings.Cut(loc.Base, "/")
	unreadable := writeFile(t, "config.json/x", "", 0o600)
	for name, c := range map[string]struct {
		env  string
		kind artifact.Kind
		want string
	}{
		"not JSON":       {"DOCKER_AUTH_CONFIG={", artifact.KindUsage, "DOCKER_AUTH_CONFIG"},
		"not base64":     {fmt.Sprintf(`DOCKER_AUTH_CONFIG={"auths":{%q:{"auth":"!"}}}`, host), artifact.KindUsage, "base64"},
		"no such helper": {fmt.Sprintf(`DOCKER_AUTH_CONFIG={"credHelpers":{%q:"nothing"}}`, host), artifact.KindFault, "docker-credential-nothing"},
		"unreadable":     {"DOCKER_CONFIG=" + filepath.Dir(filepath.Dir(unreadable)), artifact.KindUsage, "config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			r := openRepo(t, newClient(t, Options{Environ: []string{c.env}, Trust: ca}), loc, "app")
			_, err := r.Has(t.Context(), artifact.Digest("sha256:"+strings.Repeat("a", 64)))
			wantError(t, err, c.kind, c.want)
		})
	}
}

func TestRegistryTrouble(t *testing.T) {
	answer := func(status int) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeError(w, status, "DENIED", "no") })
		}
	}
	hang := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	}
	stall := func(next http.Handler) http.Handler { // answers the ping, then falls silent in the middle of a body
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Trim(r.URL.Path, "/") == "v2" {
				return
			}
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
	}
	_, untrusted := tlsStage2(t)
	for name, c := range map[string]struct {
		location Location
		want     []string
	}{
		"401":           {second(serveStage(t, answer(401))), []string{"401", "docker login"}},
		"403":           {second(serveStage(t, answer(403))), []string{"403", "rights"}},
		"429":           {second(serveStage(t, answer(429))), []string{"429", "wait"}},
		"503":           {second(serveStage(t, answer(503))), []string{"503", "log"}},
		"hangs":         {second(serveStage(t, hang)), []string{"did not answer within 300ms", "NO_PROXY"}},
		"stalls":        {second(serveStage(t, stall)), []string{"did not answer within 300ms"}},
		"nobody there":  {Location{Name: "x", Base: "127.0.0.1:1/team"}, []string{"nothing listens there"}},
		"unknown CA":    {untrusted, []string{"CA this machine does not trust", "trust:"}},
		"no such name":  {Location{Name: "x", Base: "registry.invalid/team"}, []string{"registry.invalid/team/app"}},
		"plain, remote": {Location{Name: "x", Base: "10.255.255.1:5000/team"}, []string{"10.255.255.1:5000/team/app"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := openRepo(t, newClient(t, Options{Timeout: 300 * time.Millisecond}), c.location, "app")
			start := time.Now()
			_, err := r.Manifest(t.Context(), artifact.Digest("sha256:"+strings.Repeat("a", 64)))
			wantError(t, err, artifact.KindFault, append(c.want, c.location.Base+"/app")...)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if d := time.Since(start); d > 15*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func second(_ *httptest.Server, l Location) Location { return l }

func tlsStage2(t *testing.T) (string, Location) {
	t.Helper()
	l, ca := tlsStage(t)
	return ca, l
}

func TestRefusePlainHTTPElsewhere(t *testing.T) {
	passed := false
	rt := refusePlain{roundTripper(func(*http.Request) (*http.Response, error) {
		passed = true
		return nil, http.ErrAbortHandler
	}), &sync.Map{}}
	for url, ok := range map[string]bool{
		"http://127.0.0.1:1/v2/": true, "http://localhost:1/": true, "http://[::1]:1/": true,
		"http://10.0.0.7:5000/v2/": false, "http://registry.example.com/v2/": false, "https://registry.example.com/v2/": true,
	} {
		passed = false
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		if passed != ok || errors.Is(err, errPlainHTTP) == ok {
			t.Errorf("%s passed: %v, %v", url, passed, err)
		}
	}
	c := newClient(t, Options{})
	message, remedy := openRepo(t, c, Location{Name: "x", Base: "10.0.0.7:5000/team"}, "app").explain(errPlainHTTP)
	if !strings.Contains(message, "TLS") || !strings.Contains(remedy, "with TLS") {
		t.Error(message, remedy)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestProxyFromTheEnvironmentHandedIn(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://wrong.example.com")
	proxy := proxyOf([]string{"HTTPS_PROXY=http://proxy.example.com:3128", "NO_PROXY=.internal"})
	for host, want := range map[string]string{"registry.example.com": "proxy.example.com:3128", "registry.internal": ""} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := proxy(r.URL)
		if err != nil || (u == nil) != (want == "") || u != nil && u.Host != want {
			t.Errorf("%s goes through %v, %v", host, u, err)
		}
	}
}

func TestOptionsAndNames(t *testing.T) {
	_, err := NewClient(Options{Trust: filepath.Join(t.TempDir(), "none.pem")})
	wantError(t, err, artifact.KindUsage, "none.pem")
	_, err = NewClient(Options{Trust: writeFile(t, "empty.pem", "nothing", 0o600)})
	wantError(t, err, artifact.KindUsage, "empty.pem")
	c := newClient(t, Options{})
	for name, l := range map[string]Location{
		"scheme":    {Name: "x", Base: "https://registry.example.com/team"},
		"digest":    {Name: "x", Base: "registry.example.com/team@sha256"},
		"no host":   {Name: "x", Base: "team"},
		"capitals":  {Name: "x", Base: "registry.example.com/Team"},
		"stage":     {Name: "../x"},
		"not there": {Name: "x"},
	} {
		_, err := c.Repo(l, "app")
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantError(t, err, artifact.KindUsage)
	}
	l := Location{Name: "quarantine"}
	if got := l.Repository("a/b"); got != "quarantine.drydock.internal/a/b" {
		t.Error(got)
	}
	if p, ok := l.Path("quarantine.drydock.internal/a/b"); p != "a/b" || !ok {
		t.Error(p, ok)
	}
	if _, ok := l.Path("staging.drydock.internal/a/b"); ok {
		t.Error("another stage's image is found")
	}
}
